"""From a run's config to trained weights: builds everything the config names and runs the engine."""

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.multiprocessing.spawn import ProcessException

from semivox.data.case import Case, Dataset
from semivox.data.joining import read_datasets
from semivox.data.setting import refuse_contradictions, without_foreign_labels
from semivox.errors import ResourceError, RunError, SemivoxError
from semivox.evaluation.overlap import mean_dice
from semivox.inference.pipeline import is_out_of_memory
from semivox.methods import find_method
from semivox.methods.average import Average
from semivox.methods.class_weighting import ClassWeighting
from semivox.methods.method import Method
from semivox.methods.model import build_method, load_model
from semivox.methods.problem import Problem
from semivox.networks.network import Network
from semivox.parallel import cores
from semivox.planning.demand import Views
from semivox.planning.plan import BatchSize
from semivox.preparation.store import Store, make_store
from semivox.progress import progress, say
from semivox.sampling.loader import PatchLoader
from semivox.sampling.order import case_order
from semivox.sampling.rebalancing import RebalancedOrder, case_rates, class_voxels
from semivox.training.checkpoint import load_checkpoint
from semivox.training.config import Config, DataSettings, method_settings
from semivox.training.cpu import lay_out
from semivox.training.engine import Engine, Span, describe, make_trainer, schedules
from semivox.training.interruption import Checkpoints, FollowsRank0
from semivox.training.labelling import BlankLabels, Labelling, StoredLabels
from semivox.training.launch import hear, started, tell
from semivox.training.log import Log
from semivox.training.progress import TrainingProgress
from semivox.training.run import RunFolder
from semivox.training.stopping import STOP, STOP_S, Interrupted, sigterm_as_interrupt
from semivox.training.validation import Validation
from semivox.training.windowing import make_windows

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends ranks after an error is no news

LONG_AVERAGE = 0.2
"""Share of a run beyond which an average of weights is too slow to follow."""

TIMED_STEPS = 40
"""Steps per stage that are timed to turn minutes into steps, at most."""
TIMED_S = 8.0
"""Seconds after which enough is timed; the first steps warm up, so that the median of the later half is taken."""


def read_data(data: DataSettings) -> Dataset:
    """The data set a run is about, with all labels: for scoring at its end. Without test cases in development."""
    dataset = read_datasets(data.datasets, data.unlabelled, data.labels, data.lists, data.unseen)
    dataset = dataset if data.development is None else dataset.development(data.development)
    refuse_contradictions(dataset)
    return dataset


def training_data(dataset: Dataset, labelled: int | dict[str, int] | None, target_labels: bool = False) -> Dataset:
    """What training may see of it: no label that `labelled` hides, none of a test case, none of a domain that is never
    seen, and unless `target_labels` none of one that is adapted to."""
    hidden = without_foreign_labels(dataset.hide_labels(labelled), target_labels)
    cases = tuple(replace(case, label=None) if case.split == "test" else case for case in hidden)
    return replace(hidden, cases=cases)


def make_problem(config: Config, dataset: Dataset, pretrained: bool = True) -> Problem:
    """The problem that `config`'s method is built for."""
    kind = config.training.class_weighting
    return Problem(
        plan=config.plan,
        channels=len(dataset.channels),
        labels=dataset.labels,
        tasks=dataset.tasks,
        requires=find_method(config.method.name).requires,
        class_weighting=None if kind is None else ClassWeighting(kind, dataset.labels.count),
        pretrained=pretrained,
    )


def selection_cases(config: Config, whole: Dataset, dataset: Dataset) -> tuple[Case, ...]:
    """The labelled cases whose Dice chooses the step: of `dataset`, what training may see, or where the test cases are
    to choose, of `whole`. None where the last step is kept. Raises RunError where none has a label."""
    selection = config.training.selection
    if selection == "last":
        return ()
    found = whole.split("test") if selection == "test" else dataset.split("val")
    cases = tuple(case for case in found if case.label is not None)
    if not cases:
        none = (
            " (in development none takes part)" if selection == "test" and config.data.development is not None else ""
        )
        raise RunError(
            f"training.selection is '{selection}' but no {selection} case has a label{none}; mark some with split"
            f" `{'test' if selection == 'test' else 'val'}` in cases.csv, or use `-s training.selection=last`"
        )
    return cases


def open_store(config: Config, dataset: Dataset, others: Sequence[Case] = ()) -> Store:
    """The store of the training and validation cases, and of `others` that are to choose the step, made where it is
    missing."""
    cases = {case.id: case for case in (*dataset.split("train"), *dataset.split("val"), *others)}
    wanted = replace(dataset, cases=tuple(cases.values()))
    with progress("preparing scans") as report:
        return make_store(wanted, config.plan.preparation, config.data.store, workers=cores(), progress=report)


def build(config: Config, dataset: Dataset, pretrained: bool = True) -> tuple[Method, Problem]:
    """The method with its initial weights: random ones, a function of the seed alone, and those that the plan's network
    takes from a checkpoint. `pretrained`: False leaves those out, where all weights are restored next, so that a run
    goes on without the checkpoint it began from."""
    problem = make_problem(config, dataset, pretrained)
    torch.manual_seed(config.seed)
    method = build_method(config.method.name, method_settings(config.method), problem)
    if config.training.device == "cpu":
        lay_out(method)
    return method, problem


def initialise(method: Method, run: Path) -> None:
    """Gives `method` the weights of another run's model to begin with."""
    donor = load_model(run).method
    try:
        method.initialise_from(donor)
    except RunError as error:
        raise RunError(f"--init-from {run}: {error}") from None


def make_engine(
    config: Config, dataset: Dataset, store: Store, method: Method, rank: int = 0, folder: Path | None = None
) -> Engine:
    """The engine with loaders over `store`. `folder`: where pseudo-labels lie, see `Labelling`."""

    def make_loader(views: Views, labels: StoredLabels | BlankLabels | None = None) -> PatchLoader:
        cases = dataset if labels is None else without_others(dataset, labels.kept)
        return PatchLoader(
            store,
            cases,
            config.plan,
            views,
            seed=config.seed,
            settings=config.views,
            foreground_share=config.training.foreground_share,
            forks=config.training.balance.forks,
            balance_classes=config.training.balance.classes,
            order=None if labels is None else rebalanced(config, cases, store, labels),
            rank=rank,
            ranks=config.training.devices,
            pseudo=None if labels is None else labels.read,
        )

    windows = make_windows(config.plan, config.inference, config.training.precision)
    labelling = Labelling(dataset, store, windows, folder, rank, config.training.devices)
    return Engine(method, config, make_loader, labelling)


def rebalanced(
    config: Config, dataset: Dataset, store: Store, labels: StoredLabels | BlankLabels
) -> RebalancedOrder | None:
    """The order in which cases come whose pseudo-labels hold rare classes more often; None where none is asked for."""
    training, count = config.training, dataset.labels.count
    if training.resampling is None:
        return None
    known = [class_voxels(store.label(case.id), count) for case in dataset.labelled()]
    found = {case.id: class_voxels(labels.read(case.id), count) for case in dataset.unlabelled()}
    forks = training.balance.forks
    other = case_order(dataset, config.seed, forks)
    return RebalancedOrder(dataset, config.seed, case_rates(known, found, training.resampling), other, forks)


def without_others(dataset: Dataset, kept: Collection[str]) -> Dataset:
    """`dataset` without the unlabelled training cases that are not in `kept`."""
    others = {case.id for case in dataset.unlabelled()}.difference(kept)
    return replace(dataset, cases=tuple(case for case in dataset if case.id not in others))


class _Timer(lightning.Callback):
    """Notes when each step ends, and stops once `TIMED_S` have gone by with four steps or more."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer, engine, outputs, batch, batch_idx) -> None:
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())
        trainer.should_stop = len(self.ends) >= 4 and self.ends[-1] - self.ends[0] > TIMED_S

    def seconds(self) -> float:
        """Median seconds of a step."""
        steps = np.diff(self.ends)
        return float(np.median(steps[len(steps) // 2 :]))


def seconds_per_step(config: Config, dataset: Dataset, store: Store) -> float:
    """Times real steps of each stage on a throw-away copy of the run, and weighs them by the stages' shares.

    Of several devices one is timed, with its share of the batch: what they tell each other comes on top, and so does
    the time for which stages label unlabelled scans.
    """
    method, _ = build(config, dataset, pretrained=False)
    devices, batch = config.training.devices, config.plan.batch
    share = BatchSize(labelled=batch.labelled // devices, unlabelled=batch.unlabelled // devices)
    timed = config.model_copy(
        update={
            "training": config.training.model_copy(update={"iterations": TIMED_STEPS, "devices": 1}),
            "plan": config.plan.model_copy(update={"batch": share}),
        }
    )
    seconds = shares = 0.0
    for stage in method.stages():
        engine = make_engine(timed, dataset, store, method)
        # As if it had begun before: with the method as it is, and nothing to prepare.
        engine.spans, engine.step = [Span(stage, 0, TIMED_STEPS + 1)], 1
        timer = _Timer()
        make_trainer(timed.training, [timer], 1).fit(engine)
        seconds += timer.seconds() * stage.share
        shares += stage.share
    return seconds / shares


def fit(config: Config, run: RunFolder, rank: int = 0) -> None:
    """Trains until the last step, from the last checkpoint where there is one.

    Raises Interrupted after a signal (all is saved by then), ResourceError where memory does not suffice.
    """
    whole = read_data(config.data)
    dataset = training_data(whole, config.data.labelled, config.uda.target_labels)
    judges = selection_cases(config, whole, dataset)
    store = open_store(config, dataset, judges)
    content = load_checkpoint(run.last) if run.last.exists() else None
    method, _ = build(config, dataset, pretrained=content is None)
    engine = make_engine(config, dataset, store, method, rank, run.pseudo_labels)
    training = config.training
    if training.compile:
        for network in method.modules():
            if isinstance(network, Network):
                network.compile()
    callbacks: list[lightning.Callback] = []
    if content is not None:
        engine.restore(content)
        callbacks.append(_RestoreOptimisers(content))
    elif training.init_from is not None:
        initialise(method, training.init_from)
    if engine.step >= training.iterations:
        return
    if rank == 0:
        warn_of_long_averages(method, min(end - start for start, end in schedules(engine.spans)))
        log = Log(run.log, training.log_every, dataset.labels.names)
        if judges:
            every = training.validate_every or max(training.iterations // 10, 1)
            score = selection_score(config, dataset, judges, store, method)
            callbacks.append(Validation(run, every, training.patience, score, log))
        checkpoints = Checkpoints(run, training.checkpoint_every)
        engine.labelling.after_case = lambda: checkpoints.stop_if_asked(engine)
        callbacks += [log, TrainingProgress(), checkpoints]
        if content is not None:
            say(f"{describe(engine.span, engine.spans)}: continuing at step {engine.step} of {training.iterations}")
    else:
        callbacks.append(FollowsRank0())
    remaining = len([span for span in engine.spans if span.end > engine.step])
    try:
        make_trainer(training, callbacks, remaining).fit(engine)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory at step {engine.step}; lower plan.batch.unlabelled, plan.batch.labelled or plan.patch"
            f" (now {config.plan.batch.labelled}+{config.plan.batch.unlabelled} patches of {list(config.plan.patch)})"
        ) from None


def warn_of_long_averages(method: Method, iterations: int) -> None:
    """Says so where an average of weights reaches back over so much of `iterations` steps, the shortest training from
    fresh optimisers, that its beginning spoils the end."""
    decays = [module.decay for module in method.modules() if isinstance(module, Average)]
    steps = 1 / (1 - max(decays, default=0.0))
    if steps > LONG_AVERAGE * iterations:
        say(
            f"the weights are averaged over about {steps:.0f} steps, a large part of {iterations}; for so short a run"
            " lower the average's decay, e.g. -s average_decay=0.95"
        )


def fit_on_devices(config: Config, run: RunFolder) -> None:
    """`fit` in this process, or in one process per device; what one of them raises for the user is raised here.

    Where torchrun or SLURM started the processes, the others learn here what to train (see `take_part`).
    """
    if started() > 1:
        if config.training.devices != started():
            raise RunError(
                f"{run.path}: shares its batches among {config.training.devices} processes, and {started()} were"
                f" started; start {config.training.devices}"
            )
        tell((config, run))
        fit(config, run)
        return
    if config.training.devices == 1:
        fit(config, run)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    ranks = torch.multiprocessing.start_processes(
        _fit_rank, (config, run, port, errors), nprocs=config.training.devices, join=False, start_method="spawn"
    )
    assert ranks is not None
    try:
        with sigterm_as_interrupt():
            while not ranks.join():
                pass
    except KeyboardInterrupt:
        os.kill(ranks.processes[0].pid, STOP)
        ranks.processes[0].join(STOP_S)
        for process in ranks.processes:
            process.kill()
            process.join()
        raise Interrupted(f"stopped; continue with: semivox train --resume {run.path}") from None
    except ProcessException:
        if errors.empty():
            raise
        raise errors.get() from None


def take_part(rank: int) -> Path:
    """Shares the steps of all that the first of several processes trains; returns what it tells at its end: its run."""
    while not isinstance(heard := hear(), Path):
        config, run = heard
        fit(config, run, rank)
    return heard


def _fit_rank(rank: int, config: Config, run: RunFolder, port: int, errors: "SimpleQueue[Exception]") -> None:
    """One of several processes; Lightning finds its place in the environment."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(config.training.devices),
    }
    try:
        fit(config, run, rank)
    except (SemivoxError, Interrupted) as error:
        errors.put(error)
        raise


class _RestoreOptimisers(lightning.Callback):
    def __init__(self, content: dict) -> None:
        self.content = content

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        engine.restore_optimisers(self.content)


def selection_score(
    config: Config, dataset: Dataset, cases: Sequence[Case], store: Store, method: Method
) -> Callable[[], float]:
    """A function that gives the mean foreground Dice over `cases`, on the prepared grid."""
    windows = make_windows(config.plan, config.inference, config.training.precision)

    def score() -> float:
        device = next(method.parameters()).device
        dices = []
        for case in cases:
            volume = torch.from_numpy(np.array(store.image(case.id))).to(device)
            prediction = method.predict_volume(volume, windows, case.task).argmax(0).cpu().numpy()
            dices.append(mean_dice(prediction, np.asarray(store.label(case.id)), dataset.labels.count))
        return float(np.nanmean(dices))

    return score
