"""The grid: every cell once, whatever happens to the others. Runs are played by a script, but for the last tests."""

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

from semivox.errors import DataError, RunError, SettingError
from semivox.experiments import benchmark as module
from semivox.experiments.benchmark import benchmark, make_grid
from semivox.experiments.engines import local
from semivox.experiments.engines.task import BUSY, Ended, begin
from semivox.experiments.train import train
from semivox.training.config import Config
from semivox.training.stopping import Interrupted


def titles(cells) -> list[str]:
    return [cell.name for cell in cells]


def test_every_cell_runs_once_seed_by_seed_with_labelled_only_first(grid, stage):
    outcome = grid("mt", "cps", "supervised", seeds=2, jobs=1)
    rows = ("supervised-1", "supervised-all", "mean_teacher-1", "cross_pseudo_supervision-1")
    assert stage.names() == [f"{row}-seed{seed}" for seed in range(2) for row in rows]
    assert titles(outcome.finished) == stage.names()
    again = grid("mt", "cps", seeds=2)
    assert len(stage.names()) == 8
    assert titles(again.finished) == titles(outcome.finished)
    assert [(group.method, group.labelled, group.seeds) for group in again.comparison.groups] == [
        ("supervised", 1, (0, 1)),
        ("supervised", None, (0, 1)),
        ("mean_teacher", 1, (0, 1)),
        ("cross_pseudo_supervision", 1, (0, 1)),
    ]
    assert [figure.dice for figure in again.comparison.groups[2].published.figures] == [84.25]


def test_a_cell_is_trained_as_the_protocol_and_the_settings_say(grid, stage, write_protocol):
    grid("mt", settings=["mean_teacher.consistency_weight=2", "training.momentum=0.5"], development=True, jobs=1)
    arguments = {name: arguments for name, arguments, *_ in stage.calls()}
    few, every, method = (
        arguments[name] for name in ("supervised-1-seed0", "supervised-all-seed0", "mean_teacher-1-seed0")
    )
    assert few[few.index("--labelled") + 1] == "1"
    assert every[every.index("--labelled") + 1] == "all"
    for words in (few, every, method):
        assert words[words.index("--protocol") + 1] == str(write_protocol())
        assert "--development" in words
        assert "training.momentum=0.5" in words
    assert "consistency_weight=2" in method
    assert "consistency_weight=2" not in few


def test_where_few_labels_are_all_there_are_labelled_only_runs_once(grid, stage, capsys):
    grid("mt", labelled=1, jobs=1)
    assert len(stage.names()) == 3
    every = {"scanner_a": 3, "scanner_b": 1}
    outcome = grid("mt", labelled=every, jobs=1)
    assert titles(outcome.finished) == stage.names()[3:]
    assert len(outcome.finished) == 2
    assert "labelled are all that have a label: labelled-only is run once" in capsys.readouterr().err
    assert [group.labelled for group in outcome.comparison.groups] == [every, every], "an earlier one is not shown"


def test_ablations_are_rows_beside_the_whole_method(grid, stage, write_protocol):
    ablations = {"no_consistency": ["consistency_weight=0"], "slow": ["average_decay=0.9", "ramp_share=0"]}
    file = write_protocol(lambda content: content["methods"]["mean_teacher"].update(ablations=ablations))
    outcome = grid("mt", "cps", protocol=file, ablations=True, settings=["mean_teacher.ramp_share=0.7"])
    rows = ("mean_teacher-1", "mean_teacher-no_consistency-1", "mean_teacher-slow-1", "cross_pseudo_supervision-1")
    assert titles(outcome.finished)[2:] == [f"{row}-seed0" for row in rows]
    given = {name: words for name, words, *_ in stage.calls()}
    assert "consistency_weight=0" not in given["mean_teacher-1-seed0"]
    assert "consistency_weight=0" in given["mean_teacher-no_consistency-1-seed0"]
    slow = given["mean_teacher-slow-1-seed0"]
    assert slow.index("ramp_share=0") < slow.index("ramp_share=0.7"), "what is given wins over the protocol"
    names = [group.name for group in outcome.comparison.groups]
    assert len(set(names)) == 6
    assert any("consistency_weight=0" in name for name in names), names


def test_ablations_of_methods_that_have_none_are_refused(write_protocol):
    ablations = {"none": ["consistency_weight=0"]}
    file = write_protocol(lambda content: content["methods"]["mean_teacher"].update(ablations=ablations))
    with pytest.raises(SettingError, match=r"none of the methods named; it has of: mean_teacher$"):
        make_grid(file, ["cps"], ablations=True)


def test_cells_share_the_cores_and_no_more_run_at_once_than_asked_for(grid, stage, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    grid("mt", "cps", jobs=2)
    began, ended = ({name: at for name, _, at, _ in stage.calls(event)} for event in ("began", "ended"))
    for at in began.values():
        assert sum(began[name] <= at < ended[name] for name in began) <= 2
    assert any(sum(began[name] <= at < ended[name] for name in began) == 2 for at in began.values())
    assert {threads for *_, threads in stage.calls()} == {"4"}


def test_a_cell_that_fails_is_named_and_the_others_go_on(grid, stage, capsys):
    stage.part("mean_teacher-1-seed0", "fail")
    outcome = grid("mt", "cps")
    assert [(cell.name, fault) for cell, fault in outcome.failed.items()] == [
        (
            "mean_teacher-1-seed0",
            f"failed: out of luck; try again (see {outcome.out / 'logs' / 'mean_teacher-1-seed0.log'})",
        )
    ]
    assert len(outcome.finished) == 3
    assert "mean_teacher, 1 labelled, seed 0: failed: out of luck" in capsys.readouterr().err
    assert "failed: out of luck" in (outcome.out / "results.md").read_text()
    stage.part("mean_teacher-1-seed0", "succeed")
    again = grid("mt", "cps")
    assert not again.failed
    assert len(again.finished) == 4
    name, arguments, *_ = stage.calls()[-1]
    assert (name, arguments[:2]) == ("mean_teacher-1-seed0", ["train", "--resume"])
    assert len(stage.names()) == 5


def test_the_budget_stops_cells_cleanly_and_the_next_call_goes_on(grid, stage, monkeypatch):
    stage.part("supervised-1-seed0", "hang")
    stage.part("supervised-all-seed0", "hang")
    # The time is up as soon as both have begun, however slow the machine.
    clock = SimpleNamespace(monotonic=lambda: 9.0 if len(stage.names()) >= 2 else 0.0, sleep=time.sleep)
    monkeypatch.setattr(module, "time", clock)
    outcome = grid("mt", budget_s=5)
    monkeypatch.setattr(module, "time", time)
    assert outcome.comparison is None
    assert titles(outcome.left) == ["supervised-1-seed0", "supervised-all-seed0", "mean_teacher-1-seed0"]
    assert sorted(stage.names("stopped")) == ["supervised-1-seed0", "supervised-all-seed0"]
    for name in stage.names("stopped"):
        stage.part(name, "succeed")
    again = grid("mt")
    assert (len(again.finished), again.left) == (3, ())
    resumed = [name for name, arguments, *_ in stage.calls() if arguments[1] == "--resume"]
    assert sorted(resumed) == ["supervised-1-seed0", "supervised-all-seed0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_running_cells_which_save(grid, stage, number):
    stage.part("supervised-1-seed0", "hang")

    def ask_to_stop():
        while not stage.names():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=ask_to_stop).start()
    with pytest.raises(Interrupted, match="give the same command again"):
        grid(jobs=1)
    assert stage.names("stopped") == ["supervised-1-seed0"]
    # So that Ctrl-C in a terminal, which reaches all of a session, does not reach the run twice.
    assert stage.names("on its own") == stage.names()


def test_two_benchmarks_share_the_cells(grid, stage, write_protocol, tmp_path):
    """The one in a thread has the first two cells in hand when the other comes; no cell runs twice."""
    first = threading.Thread(target=grid, args=("mt", "cps"), kwargs={"jobs": 2})
    first.start()
    while len(stage.names()) < 2:
        time.sleep(0.01)
    benchmark(make_grid(write_protocol(), ["mt", "cps"], seeds=1, out=tmp_path / "out"))
    first.join()
    assert sorted(stage.names()) == sorted(set(stage.names()))
    assert len(stage.names()) == 4


def test_a_cell_that_another_process_works_on_is_left_to_it(grid, stage, tmp_path):
    lock = tmp_path / "out" / ".locks" / "supervised-1-seed0"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = grid("mt")
    assert titles(outcome.elsewhere) == ["supervised-1-seed0"]
    assert outcome.left == ()
    assert "supervised-1-seed0" not in stage.names()


def test_a_run_keeps_its_cell_when_the_benchmark_is_killed(stage, write_protocol, tmp_path):
    grid = make_grid(write_protocol(), seeds=1, out=tmp_path / "out")
    stage.set(grid)
    stage.part(grid.cells[0].name, "hang")
    task = grid.task(grid.cells[0])
    job = begin(task, 1)
    job.lock.close()  # as the end of this process would
    assert begin(task, 1) == Ended(BUSY)
    job.process.kill()
    job.process.wait()
    stage.part(grid.cells[0].name, "succeed")
    again = begin(task, 1)
    assert again.process.wait() == 0
    assert again.poll() == 0
    assert begin(task, 1) == Ended(0), "somebody else has finished it"


def test_cells_of_other_settings_are_refused_by_name(grid, write_protocol):
    grid("mt")

    def longer(content):
        content["training"]["iterations"] = 5

    with pytest.raises(RunError, match=r"was run with training\.iterations 4, which is 5 now; give another --out"):
        grid("mt", protocol=write_protocol(longer))
    with pytest.raises(RunError, match=r"mean_teacher-1-seed0: was run with method\.settings\.consistency_weight 0\.5"):
        grid("mt", protocol=write_protocol(), settings=["mt.consistency_weight=1"])
    assert len(grid("mt").finished) == 3


def test_a_run_from_before_a_setting_was_there_was_run_with_its_default(grid, write_protocol):
    outcome = grid("mt")
    run = outcome.out / "mean_teacher-1-seed0" / "config.yaml"
    config = yaml.safe_load(run.read_text())
    del config["method"]["settings"]["teacher_mode"]
    run.write_text(yaml.safe_dump(config))  # with the settings that are left in another order, too
    groups = grid("mt", seeds=2).comparison.groups
    assert [(group.name, group.seeds) for group in groups] == [
        ("supervised, 1 labelled", (0, 1)),
        ("supervised, all labelled", (0, 1)),
        ("mean_teacher, 1 labelled", (0, 1)),
    ]
    config["method"]["settings"]["ramp_share"] = 0.123
    run.write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match=r"method.settings.ramp_share 0.123"):
        grid("mt")


def test_methods_that_are_added_later_stand_beside_the_earlier_ones(grid, stage):
    grid("mt")
    outcome = grid("cps")
    assert titles(outcome.finished) == [
        "supervised-1-seed0",
        "supervised-all-seed0",
        "cross_pseudo_supervision-1-seed0",
    ]
    assert [group.method for group in outcome.comparison.groups[2:]] == ["cross_pseudo_supervision", "mean_teacher"]
    assert len(stage.names()) == 4


def test_finished_runs_of_other_settings_are_not_in_the_tables(grid, write_protocol, capsys):
    grid("mt", "cps", settings=["mean_teacher.consistency_weight=2"])
    capsys.readouterr()
    outcome = grid("cps")
    assert [group.method for group in outcome.comparison.groups] == 2 * ["supervised"] + ["cross_pseudo_supervision"]
    assert (
        "mean_teacher-1-seed0: not in the tables, was run with method.settings.consistency_weight 2, which is 0.5 now"
        in capsys.readouterr().err
    )
    # With the same settings as then they are, whether or not the method is named.
    assert len(grid("cps", "mt", settings=["mean_teacher.consistency_weight=2"]).comparison.groups) == 4


def test_copies_and_damaged_runs_beside_the_cells_do_not_keep_the_tables_from_being_made(grid, capsys):
    out = grid("mt").out
    shutil.copytree(out / "mean_teacher-1-seed0", out / "mean_teacher-1-seed0-copy")
    shutil.copytree(out / "mean_teacher-1-seed0", out / "damaged-1-seed0")
    (out / "damaged-1-seed0" / "config.yaml").write_text("seed: [")
    capsys.readouterr()
    assert [group.seeds for group in grid("mt").comparison.groups] == [(0,)] * 3
    told = capsys.readouterr().err
    assert "seed0-copy: not in the tables, mean_teacher-1-seed0 is the run with its settings and seed" in told
    assert "damaged-1-seed0: not in the tables, " in told


def test_settings_that_differ_beside_the_method_are_on_the_page(grid):
    outcome = grid("mt", settings=["mean_teacher.training.momentum=0.5"])
    page = (outcome.out / "results.md").read_text()
    line = "mean_teacher, 1 labelled and supervised, 1 labelled differ in more than the method:"
    assert f"{line} training.learning_rate, training.momentum" in page
    assert "-s mean_teacher.training.momentum=0.5`" in page


def test_without_labelled_only_with_few_labels_nothing_is_compared(grid, stage):
    """Least of all with labelled-only with all labels, which is a bound."""
    stage.part("supervised-1-seed0", "fail")
    outcome = grid("mt")
    assert outcome.comparison.pairs == ()
    assert "no run of labelled-only with few labels is finished" in (outcome.out / "results.md").read_text()
    stage.part("supervised-1-seed0", "succeed")
    assert {pair.first for pair in grid("mt").comparison.pairs} == {"supervised, 1 labelled"}


OWN_METHOD = '''
from pydantic import Field
from semivox.methods.supervised import Supervised


class Mine(Supervised):
    """Labelled only, by another name."""

    class Settings(Supervised.Settings):
        strength: float = Field(1.0, ge=0)
        """Of nothing."""
'''


def test_a_method_in_a_file_has_its_settings_in_the_protocol_and_a_command_that_can_be_given(
    grid, write_protocol, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine.py").write_text(OWN_METHOD)
    protocol = write_protocol(
        lambda content: content["methods"].update({"mine.py:Mine": {"settings": {"strength": 3}}})
    )
    outcome = grid(f"{tmp_path}/mine.py:Mine", protocol=protocol)
    assert Config.load(outcome.finished[2].run.config).method.settings["strength"] == 3
    command = make_grid(protocol, [f"{tmp_path}/mine.py:Mine"], settings=["Mine.strength=2"]).command
    assert command == "semivox benchmark tiny.yaml --method mine.py:Mine --seeds 3 -s Mine.strength=2"
    monkeypatch.chdir(tmp_path)
    assert make_grid("tiny.yaml", ["mine.py:Mine"]).methods == ("supervised", f"{tmp_path}/mine.py:Mine")
    capsys.readouterr()
    grid("mt", protocol=protocol)
    assert (
        "Mine-1-seed0: not in the tables, its method lies in a file; name it with --method" in capsys.readouterr().err
    )


def test_results_hold_ours_beside_the_published_ones(grid):
    outcome = grid("mt", seeds=2)
    page = (outcome.out / "results.md").read_text()
    for words in (
        "# Phantom",
        "`semivox benchmark tiny.yaml --method mean_teacher --seeds 2`",
        "| supervised, 1 labelled | last | 0, 1 | 4 | 1.5 | 0.600 ± 0.000 (0.500 to 0.700) |",
        "the step whose model is scored: last.",
        "| mean_teacher, 1 labelled | 0.843 | – | 13.84 voxel | – | last | verified | the paper |",
    ):
        assert words in page, page
    found = json.loads((outcome.out / "results.json").read_text())
    assert found["protocol"]["name"] == "tiny"
    assert [group["minutes"] for group in found["groups"]] == [[1.5, 1.5]] * 3
    assert found["groups"][2]["published"]["figures"][0]["source"] == "the paper"
    assert len(found["pairs"]) == 2


MISTAKES = {
    "unknown method": ({"methods": ["mean_techer"]}, SettingError, "did you mean 'mean_teacher'"),
    "unknown setting": ({"settings": ["supervised.averge_decay=0"]}, SettingError, "did you mean 'average_decay'"),
    "setting of another method": ({"settings": ["cps.ramp_share=1"]}, SettingError, "unknown method or section 'cps'"),
    "setting of no method": ({"settings": ["ramp_share=1"]}, SettingError, "unknown method or section"),
    "steps": ({"settings": ["training.iterations=9"]}, SettingError, "give a protocol file of your own instead"),
    "a seed": ({"settings": ["seed=9"]}, SettingError, "-s seed: give --seeds instead"),
    "a device": ({"settings": ["training.device=cuda"]}, SettingError, "have no such choice; leave it out"),
    "more labels than there are": ({"labelled": 99}, DataError, "ask for at most"),
    "no such data": ({"data": "nowhere"}, DataError, "there is no such folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_anything_runs(write_protocol, stage, tmp_path, mistake):
    arguments, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message) as caught:
        benchmark(make_grid(write_protocol(), seeds=1, out=tmp_path / "out", **arguments))
    assert "\n" not in str(caught.value)
    assert stage.names() == []
    assert not (tmp_path / "out").exists()


def test_test_cases_without_labels_are_told_before_anything_runs(write_protocol, stage, tmp_path):
    file = write_protocol()
    for label in (tmp_path / "data" / "phantom" / "labelsTs").iterdir():
        label.unlink()
    with pytest.raises(DataError, match="no test case has a label"):
        benchmark(make_grid(file, seeds=1, out=tmp_path / "out"))


# --- real runs -------------------------------------------------------------------------------------------------------


def test_development_never_opens_a_test_file(write_protocol, tmp_path):
    """Real runs, in processes of their own, on a data set whose test files would break whoever reads them."""
    file = write_protocol(lambda content: content["training"].update(iterations=2))
    spoilt = [path for folder in ("imagesTs", "labelsTs") for path in (tmp_path / "data/phantom" / folder).iterdir()]
    assert len(spoilt) == 4
    for path in spoilt:
        path.write_bytes(b"")
    outcome = benchmark(make_grid(file, seeds=1, out=tmp_path / "out", development=True))
    assert outcome.failed == {}
    assert len(outcome.finished) == 2
    assert "no test case was opened" in (outcome.out / "results.md").read_text()
    for cell in outcome.finished:
        config = yaml.safe_load(cell.run.config.read_text())
        assert (config["data"]["development"], config["training"]["iterations"]) == (1, 2)
        assert "step" in cell.run.log.read_text()
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        train(tmp_path / "data" / "phantom", "supervised", protocol=file, out=tmp_path / "honest", device="cpu")
