"""`semivox benchmark`: a protocol's grid of runs, method × seed, beside labelled-only with few and with all labels.

    OUT/METHOD-LABELLED-seedS/   a run folder each; what is finished is never run again, what was interrupted goes on
    OUT/logs/CELL.log            what the run said
    OUT/.locks/CELL              held while somebody works on the cell, so that two benchmarks can share the work
    OUT/results.md, results.json

Runs are separate processes, for torch's generators and threads are those of a whole process; an engine starts them,
here or on a cluster.
"""

import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

from semivox.atomic import atomic_write_text
from semivox.errors import DataError, RunError, SettingError, unknown
from semivox.experiments.compare import Comparison, compare
from semivox.experiments.comparison_files import as_json
from semivox.experiments.configure import ARGUMENTS, Budget, Request, given_plan, resolve
from semivox.experiments.engines import make_engine
from semivox.experiments.engines.task import BUSY, POLL_S, Engine, Job, Task, is_finished
from semivox.experiments.protocol import Protocol, assigned_lists, check_data, read_protocol, whole_name
from semivox.experiments.results import SELECTIONS, remarks, result_tables
from semivox.experiments.train import count_of, short_name
from semivox.methods import find_method, registered_name
from semivox.progress import progress, say
from semivox.reporting.record import NOTHING, flatten, read_log, read_record
from semivox.training.config import Config, DataSettings, with_every_setting
from semivox.training.fit import read_data, training_data
from semivox.training.run import RunFolder
from semivox.training.stopping import STOP_S, Interrupted, interrupts_held_back, sigterm_as_interrupt

LABELLED_ONLY = "supervised"

PYTHON = sys.executable
"""That of the runs, on whatever machine."""

PROTOCOL = "a protocol file of your own"

INSTEAD = {
    "data": PROTOCOL,
    "data.datasets": "--data",
    "data.labelled": "--labelled",
    "data.labels": PROTOCOL,
    "data.development": "--development",
    "method": "--method",
    "method.name": "--method",
    "training.iterations": PROTOCOL,
    "training.precision": PROTOCOL,
    "seed": "--seeds",
}
"""Fields of the config that `-s` does not set, and what does; other `ARGUMENTS` of a single run a benchmark has not."""

GO_ON = "give the same command again to go on; what is finished is kept"

MAY_DIFFER = (
    *("training.device", "training.devices", "training.precision", "training.workers"),
    *("data.datasets", "data.store", "protocol"),
)
"""Fields in which the run of a cell may differ from what would be run now: the machine and the places of files."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of the grid, in `out`."""

    method: str
    labelled: int | dict[str, int] | None
    """How many groups keep their label, None for all."""
    seed: int
    out: Path
    ablation: str = ""
    """Of the protocol's for this method; empty: the method whole."""

    @property
    def name(self) -> str:
        method = "-".join(filter(None, (short_name(self.method), self.ablation)))
        return f"{method}-{count_of(self.labelled)}-seed{self.seed}"

    @property
    def title(self) -> str:
        method = " ".join(filter(None, (short_name(self.method), self.ablation)))
        return f"{method}, {count_of(self.labelled)} labelled, seed {self.seed}"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.out / self.name)

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        return self.out / ".locks" / self.name

    @property
    def is_finished(self) -> bool:
        return is_finished(self.run)


@dataclass(frozen=True)
class Grid:
    """What is to be run, and with what."""

    protocol: Protocol
    methods: tuple[str, ...]
    """Labelled-only first, then those that were named."""
    labelled: int | dict[str, int]
    seeds: int
    folders: tuple[Path, ...]
    """The data sets."""
    out: Path
    development: bool
    settings: tuple[str, ...]
    """What `-s` sets: `METHOD.name=value`, or `name=value` of the config for all."""
    ablations: bool = False
    """Whether the protocol's ablations of the methods are run besides."""
    device: str = "auto"
    precision: str = "auto"
    """Of cells that begin; those that go on keep theirs."""
    bound: bool = True
    """Whether labelled-only with all labels, the bound of what few can reach, has rows."""
    cells: tuple[Cell, ...] = field(init=False)
    """Seed by seed, so that a benchmark that is stopped early has whole comparisons."""

    def __post_init__(self) -> None:
        row = partial(Cell, seed=0, out=self.out)
        rows = [row(LABELLED_ONLY, labelled) for labelled in (self.labelled, None)[: 1 + self.bound]]
        for method in self.methods[1:]:
            names = self.protocol.entry(method).ablations if self.ablations else ()
            rows += [row(method, self.labelled, ablation=ablation) for ablation in ("", *names)]
        cells = (replace(cell, seed=seed) for seed, cell in product(range(self.seeds), rows))
        object.__setattr__(self, "cells", tuple(cells))

    def config(self, cell: Cell) -> Config:
        """What a cell is to be trained with, but for the machine. Raises as `resolve` does."""
        protocol = self.protocol
        request = Request(
            data=DataSettings(
                datasets=self.folders,
                labelled=cell.labelled,
                labels=protocol.data.classes,
                lists=assigned_lists(protocol, self.folders, cell.labelled),
                development=protocol.data.development_groups if self.development else None,
                store=self.out / "stores",
            ),
            method=cell.method,
            budget=Budget(iterations=protocol.recipe(cell.method).training.iterations),
            protocol=protocol,
            seed=cell.seed,
            settings=self.settings_of(cell),
        )
        plan = given_plan(request)
        assert plan is not None, "every protocol has a plan"
        return resolve(request, plan, "cpu", "32")

    def settings_of(self, cell: Cell) -> tuple[str, ...]:
        """What a cell's ablation and `-s` set, as `train` is told it."""
        found = map(addressed, self.settings)
        given = (assignment for name, assignment in found if name in (None, short_name(cell.method)))
        ablations = self.protocol.entry(cell.method).ablations
        return (*(ablations[cell.ablation] if cell.ablation else ()), *given)

    def task(self, cell: Cell) -> Task:
        """What an engine is given to run a cell, or to go on with it."""
        method = ("--method", cell.method)
        first = ["train", *map(str, self.folders), "--protocol", self.protocol.reference, *method]
        for text in labelled_texts(cell.labelled):
            first += ["--labelled", text]
        first += ["--seed", str(cell.seed), *(["--development"] if self.development else ())]
        first += self.machine
        settings = self.settings_of(cell)
        run = RunFolder(cell.run.path.resolve())
        return Task(
            name=cell.name,
            python=PYTHON,
            folder=Path.cwd(),
            run=run,
            lock=cell.lock.resolve(),
            log=cell.log.resolve(),
            first=(*first, *(("-s", *settings) if settings else ()), "--out", str(run.path)),
            again=("train", "--resume", str(run.path), *(method if ".py:" in cell.method else ())),
        )

    @property
    def machine(self) -> list[str]:
        """What `train` is told of the machine."""
        given = (("--device", self.device), ("--precision", self.precision))
        return [word for option in given if option[1] != "auto" for word in option]

    @property
    def command(self) -> str:
        """The command of the whole benchmark; protocols and methods in files are named without their folders."""
        words = ["semivox", "benchmark", Path(self.protocol.reference).name]
        words += ["--method", *(Path(method).name for method in self.methods[1:])] if self.methods[1:] else []
        words += ["--seeds", str(self.seeds)]
        if self.labelled != self.protocol.data.labelled:
            for text in labelled_texts(self.labelled):
                words += ["--labelled", text]
        words += ["--development"] if self.development else []
        words += ["--ablations"] if self.ablations else []
        words += self.machine
        return shlex.join([*words, *(["-s", *self.settings] if self.settings else ())])


@dataclass(frozen=True)
class Outcome:
    """What a benchmark came to."""

    out: Path
    comparison: Comparison | None
    """None where no cell is finished yet."""
    finished: tuple[Cell, ...]
    failed: Mapping[Cell, str]
    """Cell → why, in one line."""
    elsewhere: tuple[Cell, ...]
    """Cells on which another process works."""
    left: tuple[Cell, ...]
    """Cells for which there was no time."""


def benchmark(
    grid: Grid,
    *,
    engine: str = "local",
    engine_options: Sequence[str] = (),
    jobs: int | None = None,
    budget_s: float | None = None,
) -> Outcome:
    """Runs what is not finished yet of a grid (see `make_grid`), and compares all that is.

    engine: what runs the cells, "local", "slurm" or "ray", with engine_options `name=value` (see `engines`). jobs:
    cells at once, which share the cores of this machine (default: 2), or wait in a cluster's queue (default: all).
    budget_s: seconds after which the running cells are stopped, to go on next time.

    Raises SemivoxError subclasses for what a user can mend before anything runs, `Interrupted` after SIGINT or SIGTERM
    (the cells have saved). A cell that fails does not stop the others; `Outcome.failed` says why it did.
    """
    deadline = None if budget_s is None else time.monotonic() + budget_s
    check(grid)
    if few_are_all(grid):
        say(f"{count_of(grid.labelled)} labelled are all that have a label: labelled-only is run once")
        grid = replace(grid, bound=False)
    failed, elsewhere = run_cells(grid, make_engine(engine, engine_options, jobs, grid.out), deadline)
    finished = tuple(cell for cell in grid.cells if cell.is_finished)
    elsewhere = tuple(cell for cell in elsewhere if cell not in finished)
    left = tuple(cell for cell in grid.cells if cell not in {*finished, *failed, *elsewhere})
    runs = [*(cell.run.path for cell in finished), *other_runs(grid)]
    outcome = Outcome(
        grid.out, compare_with_labelled_only(grid, runs) if runs else None, finished, failed, elsewhere, left
    )
    if outcome.comparison is not None:
        write_results(grid, outcome)
    return outcome


def make_grid(
    protocol: str | Path,
    methods: Sequence[str] = (),
    *,
    seeds: int = 3,
    data: str | Path | None = None,
    out: str | Path | None = None,
    labelled: int | dict[str, int] | None = None,
    development: bool = False,
    settings: Sequence[str] = (),
    ablations: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Grid:
    """The cells that are asked for, of which nothing is checked or run yet.

    methods: run with few labels each; labelled-only is run besides, with few labels and with all. data: the folder in
    which the protocol's data sets lie. labelled: how many few are, where not as the protocol says. development: test
    cases take no part (see `train`). settings: `METHOD.name=value`, or `name=value` of the config for all. ablations:
    also run what the protocol names of each method's. device, precision: as `train` has them; precision's default is
    the protocol's.

    Raises SettingError where `ablations` are wanted and there are none.
    """
    followed = read_protocol(protocol)
    few = followed.data.labelled if labelled is None else labelled
    for method in methods:
        find_method(method)  # a wrong name is told before anything is read
    named = distinct([LABELLED_ONLY, *map(whole_name, methods)])
    refuse_settings(settings, named)
    if ablations and not any(followed.entry(method).ablations for method in named):
        having = ", ".join(name for name, entry in followed.methods.items() if entry.ablations)
        raise SettingError(
            f"--ablations: protocol {followed.name} has none of the methods named; it has of: {having or 'none'}"
        )
    default = Path("runs") / f"{followed.name}-{count_of(few)}{'-development' if development else ''}"
    return Grid(
        protocol=followed,
        methods=tuple(named),
        labelled=few,
        seeds=seeds,
        folders=followed.dataset_folders(Path(data) if data else None),
        out=Path(out) if out else default,
        development=development,
        settings=tuple(settings),
        ablations=ablations,
        device=device,
        precision=precision,
    )


# What is asked for --------------------------------------------------------------------------------------------------


def distinct(methods: Sequence[str]) -> list[str]:
    """Each method once. Raises SettingError where two of different files have one name."""
    methods = list(dict.fromkeys(methods))
    names = list(map(short_name, methods))
    for name in names:
        if names.count(name) > 1:
            raise SettingError(f"--method: two methods are called '{name}'; rename one, its folder is named by it")
    return methods


def labelled_texts(labelled: int | dict[str, int] | None) -> list[str]:
    """What `--labelled` is given, once for each."""
    if labelled is None:
        return ["all"]
    if isinstance(labelled, int):
        return [str(labelled)]
    return [f"{domain}={number}" for domain, number in labelled.items()]


def addressed(assignment: str) -> tuple[str | None, str]:
    """The method that an assignment is for, None for all, and what it sets there."""
    head, _, rest = assignment.partition(".")
    if head.partition("=")[0].strip() in Config.model_fields:
        return None, assignment
    return registered_name(head), rest


def refuse_settings(assignments: Sequence[str], methods: Sequence[str]) -> None:
    """Raises SettingError for an assignment that is for none of the methods, or not a benchmark's to make."""
    names = list(map(short_name, methods))
    for text in assignments:
        method, rest = addressed(text)
        if method is not None and (method not in names or not rest):
            known = [*names, *Config.model_fields]
            raise SettingError(f"-s {text}: {unknown('method or section', text.partition('.')[0], known)}")
        name = text.partition("=")[0].strip()
        if name in INSTEAD:
            raise SettingError(f"-s {name}: give {INSTEAD[name]} instead")
        if name in ARGUMENTS:
            raise SettingError(f"-s {name}: the runs of a benchmark have no such choice; leave it out")


def check(grid: Grid) -> None:
    """Raises for what would make cells fail, before any is run. Says what the data sets lack; opens no scan."""
    refuse_other_data(grid)
    for cell in grid.cells:
        refuse_other_settings(grid, cell)


def refuse_other_data(grid: Grid) -> None:
    """Says what the data sets lack of the published ones; raises where they cannot be what the grid needs."""
    for cell in grid.cells[:2]:
        config = grid.config(cell)
        if cell.labelled is not None:
            check_data(grid.protocol, grid.folders, cell.labelled)
        whole = read_data(config.data)
        training_data(whole, config.data.labelled, config.uda.target_labels)
        scored = whole.split("test") or whole.split("val")
        if not any(case.label for case in scored):
            raise DataError(f"{whole.root}: no test case has a label, so that nothing can be scored; add labels")


def few_are_all(grid: Grid) -> bool:
    """Whether the few labels are all there are, so that labelled-only with all would be the same run again."""
    few, every = (
        training_data(read_data(config.data), config.data.labelled, config.uda.target_labels).labelled()
        for config in map(grid.config, grid.cells[:2])
    )
    return {case.id for case in few} == {case.id for case in every}


def refuse_other_settings(grid: Grid, cell: Cell) -> None:
    """Raises SettingError where its settings do not exist, RunError where it was begun with others than now."""
    wanted = grid.config(cell)
    difference = difference_of(Config.load(cell.run.config), wanted) if cell.run.config.exists() else None
    if difference is not None:
        raise RunError(f"{cell.run.path}: was run with {difference}; give another --out, or delete it")


def difference_of(before: Config, wanted: Config) -> str | None:
    """The first setting in which a run's config is not what is wanted now, but for `MAY_DIFFER`; None without any."""
    # Not where the method has lost a setting since: then the two differ, and by their names.
    with suppress(SettingError):
        before = with_every_setting(before)
    told, now = (
        {
            name: value
            for name, value in flatten(config.model_dump(mode="json"))
            if value != NOTHING and not name.startswith(MAY_DIFFER)
        }
        for config in (before, wanted)
    )
    for name in dict.fromkeys([*told, *now]):
        if told.get(name) != now.get(name):
            return f"{name} {told.get(name, NOTHING)}, which is {now.get(name, NOTHING)} now"
    return None


# Running ------------------------------------------------------------------------------------------------------------


def run_cells(grid: Grid, engine: Engine, deadline: float | None) -> tuple[dict[Cell, str], tuple[Cell, ...]]:
    """Runs what is not finished, until `deadline` (of the monotonic clock). Returns what failed, and what others do."""
    waiting = deque(cell for cell in grid.cells if not cell.is_finished)
    steps = {cell: grid.config(cell).training.iterations for cell in waiting}
    before = {cell: steps_done(cell, steps) for cell in waiting}
    failed: dict[Cell, str] = {}
    elsewhere: list[Cell] = []
    running: dict[Cell, Job] = {}
    with progress(f"{grid.protocol.name}, steps") as report, stopped_at_the_end(running):
        while waiting or running:
            while waiting and (engine.at_once is None or len(running) < engine.at_once):
                cell = waiting.popleft()
                with interrupts_held_back():  # or a job would be on its way that nobody knows of
                    running[cell] = engine.submit(grid.task(cell))
            for cell, job in list(running.items()):
                code = job.poll()
                if code is None:
                    continue
                del running[cell]
                if code == BUSY:
                    elsewhere.append(cell)
                    say(f"{cell.title}: another process works on it")
                    continue
                fault = fault_of(cell, code)
                if fault is not None:
                    failed[cell] = fault
                say(f"{cell.title}: {fault or told(cell)} ({finished_of(grid)})")
            counted = [cell for cell in before if cell not in failed and cell not in elsewhere]
            done = sum(steps_done(cell, steps) - before[cell] for cell in counted)
            report(done, sum(steps[cell] - before[cell] for cell in counted))
            if deadline is not None and time.monotonic() > deadline:
                break
            if running:
                time.sleep(engine.poll_s)
    return failed, tuple(elsewhere)


@contextmanager
def stopped_at_the_end(running: Mapping[Cell, Job]) -> Iterator[None]:
    """Whatever still runs when the block ends is asked to save and stop, and waited for; so it is after Ctrl-C."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {GO_ON}") from None
    finally:
        for job in running.values():
            job.cancel()
        deadline = time.monotonic() + STOP_S
        for job in running.values():
            while job.poll() is None:
                if time.monotonic() > deadline:
                    job.kill()
                    break
                time.sleep(POLL_S)


def fault_of(cell: Cell, code: int) -> str | None:
    """Why a cell whose job ended with this exit code failed, None where it did not."""
    if code == 0 and cell.is_finished:
        return None
    lines = [line for line in cell.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"failed: {lines[-1].removeprefix('semivox: ')} (see {cell.log})"


def steps_done(cell: Cell, steps: Mapping[Cell, int]) -> int:
    """How many steps a cell has taken."""
    return steps[cell] if cell.is_finished else min(read_log(cell.run.log).last_step, steps[cell])


def told(cell: Cell) -> str:
    """A finished cell's Dice."""
    metrics = json.loads(cell.run.metrics.read_text(encoding="utf-8"))
    dice = metrics["summary"]["mean"]["dice"]["mean"]
    return "no Dice is defined" if dice is None else f"Dice {dice:.3f}"


def finished_of(grid: Grid) -> str:
    return f"{sum(cell.is_finished for cell in grid.cells)} of {len(grid.cells)} cells"


# Results ------------------------------------------------------------------------------------------------------------


def other_runs(grid: Grid) -> list[Path]:
    """Finished runs in the folder of the grid that are not of its cells but go with them: other methods and seeds.

    Those of other settings, copies and what cannot be read do not, which is said.
    """
    own = {cell.run.path for cell in grid.cells}
    labelled_as_here = (grid.labelled, None)[: 1 + grid.bound]
    found = []
    for path in sorted(grid.out.glob("*-seed*")):
        if path in own or not is_finished(RunFolder(path)):
            continue
        try:
            config = Config.load(RunFolder(path).config)
        except RunError as error:
            say(f"{path}: not in the tables, {error}")
            continue
        labelled, method = config.data.labelled, config.method.name
        if labelled not in labelled_as_here or (config.data.development is not None) != grid.development:
            continue
        if ".py:" in method and method not in grid.methods:  # a run folder never names code to load
            say(f"{path}: not in the tables, its method lies in a file; name it with --method {method}")
            continue
        cell = Cell(method, labelled, config.seed, grid.out)
        try:
            difference = difference_of(config, grid.config(cell))
        except SettingError as error:
            difference = str(error)
        if difference is not None:
            say(f"{path}: not in the tables, was run with {difference}")
        elif path.name != cell.name and cell.is_finished:
            say(f"{path}: not in the tables, {cell.name} is the run with its settings and seed")
        else:
            found.append(path)
    return found


def compare_with_labelled_only(grid: Grid, runs: Sequence[Path]) -> Comparison:
    """Compares with labelled-only with few labels; with nothing where no such run is finished."""
    reference = Cell(LABELLED_ONLY, grid.labelled, 0, grid.out).name.removesuffix("0")
    ordered = sorted(runs, key=lambda run: not run.name.startswith(reference))
    comparison = compare(ordered)
    if ordered[0].name.startswith(reference):
        return comparison
    note = "nothing is compared: no run of labelled-only with few labels is finished"
    return replace(comparison, pairs=(), notes=(*comparison.notes, note))


def write_results(grid: Grid, outcome: Outcome) -> None:
    """Writes results.md and results.json."""
    assert outcome.comparison is not None
    failed = {cell.title: fault for cell, fault in outcome.failed.items()}
    unfinished = [cell.title for cell in (*outcome.elsewhere, *outcome.left)]
    content = as_json(
        outcome.comparison,
        protocol=grid.protocol.model_dump(mode="json", include={"name", "title", "source", "notes"}),
        command=grid.command,
        development=grid.development,
        failed=failed,
        unfinished=unfinished,
    )
    atomic_write_text(grid.out / "results.json", content)
    heading = f"# {grid.protocol.title}: {count_of(grid.labelled)} labelled"
    lines = [heading, "", f"`{grid.command}`", "", *preface(grid, outcome.comparison), ""]
    for table in result_tables(outcome.comparison):
        lines += [table.markdown(), ""]
    lines += [f"- {title}: {fault}" for title, fault in failed.items()]
    lines += [f"- not finished: {title}" for title in unfinished]
    atomic_write_text(grid.out / "results.md", "\n".join(lines).rstrip() + "\n")


def preface(grid: Grid, comparison: Comparison) -> list[str]:
    """What a reader must know of the figures below."""
    protocol = grid.protocol
    record = read_record(comparison.groups[0].runs[0])
    hardware, versions = record.environment.get("hardware", {}), record.environment.get("versions", {})
    scored = "development cases (no test case was opened)" if grid.development else "test cases"
    model = " or ".join(dict.fromkeys(SELECTIONS[group.selection] for group in comparison.groups))
    machine = ", ".join(hardware.get("gpus") or [f"CPU {hardware.get('cpu_capability', '')}".strip()])
    return [
        f"Protocol `{protocol.name}` ({protocol.source}). {count_of(grid.labelled)} labelled; scored on {scored};"
        f" the step whose model is scored: {model}."
        f" Semivox {versions.get('semivox', '?')}, torch {versions.get('torch', '?')}, {machine},"
        f" {hardware.get('torch_threads', '?')} threads a run.",
        *(f"\n{note}" for note in protocol.notes),
        *(f"\n{remark}" for remark in remarks(comparison)),
    ]
