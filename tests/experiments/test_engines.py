"""Cells on a cluster: SLURM is played by a script that knows its commands, Ray shares this machine out."""

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from semivox.errors import ResourceError, SettingError
from semivox.experiments.benchmark import make_grid
from semivox.experiments.engines import make_engine
from semivox.experiments.engines.task import INTERRUPTED, begin, watch
from semivox.training.stopping import Interrupted

CLUSTER = """#!{python}
'''Plays sbatch, srun, sacct and scancel, by the name it is called by. A job is a folder: state, process, script.'''
import os, pathlib, re, shlex, subprocess, sys
import psutil

cluster = pathlib.Path({cluster!r})
name, *words = pathlib.Path(sys.argv[0]).name, *sys.argv[1:]


def processes(job):
    '''All of a job, as SLURM counts them: whatever session they are in.'''
    try:
        first = psutil.Process(int((cluster / job / "process").read_text()))
        return [p for p in (first, *first.children(recursive=True)) if p.status() != psutil.STATUS_ZOMBIE]
    except (psutil.NoSuchProcess, FileNotFoundError):
        return []


if name == "sbatch":
    script = pathlib.Path(words[0]).read_text()
    if "--partition=nowhere" in script:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    job = str({first} + len(list(cluster.glob("[0-9]*"))))
    (cluster / job).mkdir()
    (cluster / job / "script").write_text(script)
    if (cluster / "full").exists():
        (cluster / job / "state").write_text("PENDING")
    else:
        (cluster / job / "state").write_text("RUNNING")
        environment = {{**os.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1"}}
        environment |= {{"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "cell"}}
        with open(cluster / job / "output", "w") as output:
            batch = subprocess.Popen(
                ["bash", str(cluster / job / "script")],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )
        (cluster / job / "process").write_text(str(batch.pid))
    print("Submitted batch job", job)
elif name == "srun":
    while words[0].startswith("-"):
        words = words[2:] if words[0] == "--output" else words[1:]
    os.environ |= {{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}}
    os.execvp(words[0], words)
elif name == "sacct":
    print("JobID|State|NodeList")
    for job in (word for word in words if (cluster / word).is_dir()):
        state = (cluster / job / "state").read_text()
        ended = state == "RUNNING" and not processes(job)
        print(f"{{job}}|{{'NODE_FAIL' if ended else state}}|node1")
elif name == "scancel":
    (cluster / words[0] / "state").write_text("CANCELLED")
    for process in processes(words[0]):
        if process.name() != "bash":
            process.terminate()
"""


FIRST_JOB = itertools.count(100, 100)
"""Numbers are never given twice: submitit remembers them."""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """The folder in which the script keeps the cluster's jobs."""
    pytest.importorskip("submitit")
    folder, commands = tmp_path / "cluster", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    script = CLUSTER.format(python=sys.executable, cluster=str(folder), first=next(FIRST_JOB))
    (commands / "sbatch").write_text(script)
    (commands / "sbatch").chmod(0o755)
    for name in ("srun", "sacct", "scancel"):
        (commands / name).symlink_to("sbatch")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return folder


SLURM = {"engine": "slurm", "engine_options": ["time=1h30m", "partition=gpu", "gpus=2"]}


def jobs(cluster: Path) -> list[Path]:
    """In the order in which they were asked for."""
    return sorted(cluster.glob("[0-9]*"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_slurm_runs_every_cell_as_a_job_of_what_is_asked_for_and_a_failed_one_again(grid, stage, cluster):
    stage.part("mean_teacher-1-seed0", "fail")
    outcome = grid("mt", **SLURM)
    assert [cell.name for cell in outcome.finished] == ["supervised-1-seed0", "supervised-all-seed0"]
    assert [fault.split(" (see")[0] for fault in outcome.failed.values()] == ["failed: out of luck; try again"]
    scripts = [(job / "script").read_text() for job in jobs(cluster)]
    for script, cell in zip(scripts, ("supervised-1", "supervised-all", "mean_teacher-1"), strict=True):
        for line in ("time=90", "partition=gpu", "gpus-per-node=2", "cpus-per-task=4", f"job-name={cell}-seed0"):
            assert f"#SBATCH --{line}\n" in script
        assert "--mem" not in script
    stage.part("mean_teacher-1-seed0", "succeed")
    assert len(grid("mt", **SLURM).finished) == 3
    assert stage.names().count("mean_teacher-1-seed0") == 2
    assert len(stage.names()) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_jobs_that_run_which_save_and_jobs_that_wait(grid, stage, cluster, number):
    stage.part("supervised-1-seed0", "hang")

    def ask_to_stop():
        wait_for(stage.names)
        os.kill(os.getpid(), number)

    def fill():
        wait_for(lambda: jobs(cluster) and (jobs(cluster)[0] / "process").exists())
        (cluster / "full").touch()

    threading.Thread(target=fill).start()
    threading.Thread(target=ask_to_stop).start()
    with pytest.raises(Interrupted, match="give the same command again"):
        grid("mt", **SLURM)
    assert set(stage.names("stopped")) <= {"supervised-1-seed0", "supervised-all-seed0", "mean_teacher-1-seed0"}
    assert "supervised-1-seed0" in stage.names("stopped")
    assert {(job / "state").read_text() for job in jobs(cluster)} <= {"CANCELLED", "RUNNING"}


def test_jobs_that_wait_until_the_time_is_up_are_cancelled(grid, stage, cluster):
    (cluster / "full").touch()
    outcome = grid("mt", budget_s=1, **SLURM)
    assert len(outcome.left) == 3
    assert stage.names() == []
    assert [(job / "state").read_text() for job in jobs(cluster)] == ["CANCELLED"] * 3


def test_a_job_whose_time_is_nearly_up_lets_its_run_save(grid, stage, cluster, tmp_path):
    """SLURM sends SIGUSR2 to every process of the job; the run must not die of it."""
    stage.part("supervised-1-seed0", "hang")

    def nearly_up():
        wait_for(stage.names)
        root = (jobs(cluster)[0] / "process").read_text()
        children = subprocess.run(["pgrep", "-P", root], capture_output=True, text=True, check=True).stdout.split()
        runs = subprocess.run(["pgrep", "-P", children[0]], capture_output=True, text=True, check=True).stdout.split()
        for process in (*runs, *children):
            os.kill(int(process), signal.SIGUSR2)

    threading.Thread(target=nearly_up).start()
    outcome = grid(jobs=1, **SLURM | {"engine_options": ["time=1s"]})
    assert stage.names("stopped") == ["supervised-1-seed0"]
    (fault,) = outcome.failed.values()
    assert "the job's time is up, the run has saved; give the same command again to go on" in fault


def test_a_job_that_dies_with_its_machine_is_told(grid, stage, cluster):
    stage.part("supervised-1-seed0", "hang")

    def crash():
        wait_for(stage.names)
        root = (jobs(cluster)[0] / "process").read_text()
        for process in subprocess.run(["pgrep", "-P", root], capture_output=True, text=True).stdout.split():
            for run in subprocess.run(["pgrep", "-P", process], capture_output=True, text=True).stdout.split():
                os.kill(int(run), signal.SIGKILL)
            os.kill(int(process), signal.SIGKILL)

    threading.Thread(target=crash).start()
    outcome = grid(jobs=1, **SLURM)
    assert len(outcome.finished) == 1
    (fault,) = outcome.failed.values()
    assert f"SLURM job {jobs(cluster)[0].name} ended without an answer (NODE_FAIL; it said " in fault
    assert "\n" not in fault


def test_a_job_finds_that_another_process_works_on_its_cell(grid, stage, cluster, tmp_path):
    lock = tmp_path / "out" / ".locks" / "supervised-1-seed0"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = grid(**SLURM)
    assert [cell.name for cell in outcome.elsewhere] == ["supervised-1-seed0"]
    assert stage.names() == ["supervised-all-seed0"]


def test_a_cluster_that_takes_no_job_is_told_in_one_line(grid, stage, cluster):
    with pytest.raises(ResourceError, match=r"sbatch refuses .*invalid partition specified: nowhere") as caught:
        grid(engine="slurm", engine_options=["time=1h", "partition=nowhere"])
    assert "\n" not in str(caught.value)


MISTAKES = {
    "no such engine": ("slrum", [], "unknown engine 'slrum'; did you mean 'slurm'"),
    "no such option": ("slurm", ["time=1h", "partiton=gpu"], "did you mean 'partition'"),
    "no time": ("slurm", ["partition=gpu"], "--engine-option time: field required"),
    "a time without a unit": ("slurm", ["time=60"], "60 is not a time; give it as 90s, 10m or 1h30m"),
    "no value": ("slurm", ["gpus"], "--engine-option gpus: give it as NAME=VALUE"),
    "fewer than none": ("ray", ["cpus=0"], "--engine ray, --engine-option cpus: input should be greater"),
    "options of this machine": ("local", ["gpus=1"], "unknown field 'gpus'; there are: none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_options_are_told_in_one_line(tmp_path, mistake):
    name, options, message = MISTAKES[mistake]
    with pytest.raises(SettingError, match=message) as caught:
        make_engine(name, options, None, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_whose_package_is_missing_names_the_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"the package '{package}'; install it with: pip install 'semivox\[{name}\]'"
    with pytest.raises(SettingError, match=message):
        make_engine(name, ["time=1h"] if name == "slurm" else [], None, tmp_path)


def test_slurm_is_not_looked_for_where_it_is_not(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingError, match="`srun` is not found; call this on a machine of the cluster"):
        make_engine("slurm", ["time=1h"], None, tmp_path)


def test_this_machine_is_given_two_at_once_and_a_cluster_all(tmp_path, cluster):
    assert make_engine("local", [], None, tmp_path).at_once == 2
    assert make_engine("local", [], 5, tmp_path).at_once == 5
    assert make_engine("slurm", ["time=1h"], None, tmp_path).at_once is None


def test_what_interrupts_a_watched_run_lets_it_save(stage, write_protocol, tmp_path):
    grid = make_grid(write_protocol(), seeds=1, out=tmp_path / "out")
    stage.set(grid)
    stage.part(grid.cells[0].name, "hang")

    def interrupt():
        wait_for(stage.names)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert watch(begin(grid.task(grid.cells[0]), 1)) == INTERRUPTED
    assert stage.names("stopped") == [grid.cells[0].name]


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_here():
    """One machine that Ray shares out."""
    ray = pytest.importorskip("ray", reason="the package 'ray' is not installed (the extra `ray`)")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()


def test_ray_runs_every_cell_and_a_failed_one_again(ray_here, grid, stage):
    stage.part("mean_teacher-1-seed0", "fail")
    outcome = grid("mt", engine="ray")
    assert [cell.name for cell in outcome.finished] == ["supervised-1-seed0", "supervised-all-seed0"]
    assert [fault.split(" (see")[0] for fault in outcome.failed.values()] == ["failed: out of luck; try again"]
    stage.part("mean_teacher-1-seed0", "succeed")
    assert len(grid("mt", engine="ray", engine_options=["cpus=2"]).finished) == 3
    assert stage.names().count("mean_teacher-1-seed0") == 2


def test_ray_stops_cells_that_run_and_cells_that_wait(ray_here, grid, stage):
    for name in ("supervised-1-seed0", "supervised-all-seed0"):
        stage.part(name, "hang")

    def ask_to_stop():
        wait_for(lambda: len(stage.names()) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask_to_stop).start()
    with pytest.raises(Interrupted, match="give the same command again"):
        grid("mt", engine="ray")
    assert sorted(stage.names("stopped")) == ["supervised-1-seed0", "supervised-all-seed0"]
    assert len(stage.names()) == 2


def test_ray_finds_that_another_process_works_on_a_cell(ray_here, grid, stage, tmp_path):
    lock = tmp_path / "out" / ".locks" / "supervised-1-seed0"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = grid(engine="ray")
    assert [cell.name for cell in outcome.elsewhere] == ["supervised-1-seed0"]
