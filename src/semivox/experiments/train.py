"""`semivox train`: from data sets and a method's name to a run folder with model, predictions, scores and report."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from semivox.atomic import atomic_write_text
from semivox.data.case import DEFAULT, Case, Dataset
from semivox.data.integrity import check
from semivox.errors import DataError, RunError, SettingError
from semivox.evaluation.evaluate import evaluate
from semivox.experiments.configure import (
    Budget,
    Request,
    asked_uda,
    configure,
    refuse_contradictions,
    settle_budget,
    tell_setting,
)
from semivox.experiments.led import led
from semivox.experiments.predict import inference_settings, predict_inputs
from semivox.experiments.protocol import about, check_scans, read_protocol, settled
from semivox.inference.inputs import Input
from semivox.methods import find_method, registered_name
from semivox.methods.model import load_model, save_model
from semivox.networks.network import Network
from semivox.planning.class_volumes import doubtful_names, shares_classes
from semivox.planning.fingerprint import Fingerprint, fingerprint, name_of
from semivox.preparation.source import files_of
from semivox.progress import progress, say
from semivox.reporting.domain_shift import domain_shift
from semivox.reporting.record import read_record
from semivox.reporting.report import write_report
from semivox.training.checkpoint import load_checkpoint, load_method
from semivox.training.config import Config, DataSettings, MethodChoice
from semivox.training.cpu import keep_heap
from semivox.training.device import choose_device, choose_precision
from semivox.training.environment import environment
from semivox.training.fit import build, fit_on_devices, open_store, read_data, training_data
from semivox.training.launch import started
from semivox.training.run import RunFolder
from semivox.training.windowing import make_windows


@led
def train(
    datasets: str | Path | Sequence[str | Path],
    method: str = "mean_teacher",
    *,
    out: str | Path | None = None,
    labelled: int | dict[str, int] | Literal["all"] | None = None,
    unlabelled: str | Path | None = None,
    unseen: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    network: str | None = None,
    plan: str | Path | None = None,
    protocol: str | Path | None = None,
    development: bool = False,
    seed: int = 0,
    iterations: int | None = None,
    max_minutes: float | None = None,
    baseline: bool = False,
    init_from: str | Path | None = None,
    device: str = "auto",
    devices: int | None = None,
    precision: str = "auto",
    settings: Sequence[str] = (),
    test: bool = True,
) -> Path:
    """Trains a model and returns its run folder.

    datasets: folders in the nnU-Net v2 raw layout; several join into one. labelled: how many groups (patients) keep
    their label, per domain and task; hidden label files are never opened. unseen: domains whose training cases take no
    part. protocol: a name or a file (see
    `experiments.protocol`); what is not given here is taken from it. development: test cases take no part; the
    validation cases are scored, or where there are none the last training groups, as the protocol says. settings:
    `dotted.name=value` overrides of any field of the config; method settings need no prefix. devices: processes that
    share each batch, by default one, or those that torchrun or SLURM started. baseline: trains
    labelled-only too, with the same steps, seed, plan and views, in `out/baseline`. test: predict and score the test
    cases at the end, also where the run is resumed.

    Raises SemivoxError subclasses for what a user can mend; `Interrupted` after SIGINT or SIGTERM (all is saved).
    """
    find_method(method)
    method = registered_name(method)
    datasets = [datasets] if isinstance(datasets, str | Path) else datasets
    if plan is not None and protocol is not None:
        raise SettingError(f"--plan {plan}: the protocol {protocol} holds a plan; give one of them")
    folders = tuple(Path(path).resolve() for path in datasets)
    followed = about(read_protocol(protocol), folders) if protocol is not None else None
    if followed is not None:
        labels = labels or followed.data.classes
        if iterations is None and max_minutes is None:
            iterations = followed.recipe(method).training.iterations
    labelled, lists = settled(followed, folders, labelled)
    if followed is not None and lists and unlabelled:
        raise SettingError(f"--unlabelled {unlabelled}: protocol {followed.name} lists its scans; leave it out")
    data = DataSettings(
        datasets=folders,
        unlabelled=Path(unlabelled).resolve() if unlabelled else None,
        labelled=labelled,
        unseen=tuple(unseen),
        labels=tuple(labels) if labels else None,
        development=(followed.data.development_groups if followed is not None else 0) if development else None,
        lists=lists,
        score_test=test,
        store=Path("stores"),
    )
    whole = read_data(data)
    run = RunFolder(Path(out) if out else default_out(whole, method, labelled, seed))
    request = Request(
        data=data.model_copy(update={"store": run.path.resolve().parent / "stores"}),
        method=method,
        budget=Budget(iterations, max_minutes),
        network=network,
        plan=Path(plan) if plan else None,
        protocol=followed,
        init_from=Path(init_from).resolve() if init_from else None,
        seed=seed,
        device=device,
        devices=started() if devices is None else devices,
        precision=precision,
        settings=tuple(settings),
    )
    with run.begun():
        dataset = training_data(whole, labelled, asked_uda(request).target_labels)
        # A broken test label should not show only when the hours of training are over.
        refuse_faults(with_scored_labels(dataset, whole) if test else dataset)
        with progress("reading scans") as report:
            prints = fingerprint(dataset, progress=report, classes=shares_classes(dataset))
        if followed is not None:
            check_scans(followed, {scan.case: scan.shape for scan in prints.scans})
        config = configure(request, dataset, prints)
        tell_setting(method, whole, dataset)
        for doubt in doubtful_names(prints, dataset.labels.foreground):
            say(str(doubt))
        keep_heap()
        record_environment(run, prints)
        config = settle_budget(request.budget, config, dataset)
        config.save(run.config)
        if baseline:
            prepare_baseline(run, config)
        complete(run, config)
    if baseline:
        resume(run.baseline.path)
        write_report(run.path)
    return run.path


@led
def resume(
    run: str | Path,
    *,
    iterations: int | None = None,
    method: str | None = None,
    baseline: bool = False,
    test: bool | None = None,
) -> Path:
    """Continues the run in folder `run` where its last checkpoint stands, and finishes what is missing at its end.

    iterations: extends the run to this many steps (the learning rate then follows the longer schedule from where the
    run stands, which is not the same as a run that was longer from the start). method: needed again where
    the run's method lies in a file (`file.py:Class`): a run folder never names code to load. baseline: trains
    labelled-only beside it, also where the run began without. test: whether the test cases are predicted and scored,
    from now on; None: as the run began.
    """
    folder = RunFolder(Path(run))
    config = Config.load(folder.config)
    if ".py:" in config.method.name:
        if method is None:
            raise SettingError(
                f"{folder.path} trains a method of your own; name it again: --method {config.method.name}"
            )
        config = config.model_copy(update={"method": MethodChoice(name=method, settings=config.method.settings)})
    device = choose_device(config.training.device)
    chosen = {"device": device, "precision": choose_precision(config.training.precision, device)}
    config = config.model_copy(update={"training": config.training.model_copy(update=chosen)})
    with folder.locked():
        if iterations is not None:
            config = extend(folder, config, iterations)
        if test is not None and test != config.data.score_test:
            config = config.model_copy(update={"data": config.data.model_copy(update={"score_test": test})})
            config.save(folder.config)
        if not folder.environment.exists():  # the folder held a config.yaml alone
            dataset = training_data(read_data(config.data), config.data.labelled, config.uda.target_labels)
            with progress("reading scans") as report:
                record_environment(folder, fingerprint(dataset, progress=report))
        if baseline and not folder.baseline.config.exists():
            prepare_baseline(folder, config)
        keep_heap()
        complete(folder, config)
    if folder.baseline.config.exists():
        resume(folder.baseline.path, iterations=config.training.iterations, test=test)
        write_report(folder.path)
    return folder.path


def default_out(dataset: Dataset, method: str, labelled: int | dict[str, int] | None, seed: int) -> Path:
    """runs/DATASET-METHOD-LABELLED-SEED."""
    return Path("runs") / f"{dataset.name}-{short_name(method)}-{count_of(labelled)}-seed{seed}"


def short_name(method: str) -> str:
    """A method's name without the file it lies in."""
    return method.rpartition(":")[2]


def count_of(labelled: int | dict[str, int] | None) -> str:
    """How many groups keep their label, as it stands in the name of a folder."""
    return "all" if labelled is None else str(labelled if isinstance(labelled, int) else sum(labelled.values()))


def refuse_faults(dataset: Dataset) -> None:
    """Raises DataError for the first fault in what training reads, with the number of further ones."""
    with progress("checking files") as report:
        faults = [fault for fault in check(dataset, progress=report) if fault.is_error]
    if faults:
        more = f" ({len(faults) - 1} more faults; see `semivox inspect {dataset.root}`)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}")


def with_scored_labels(dataset: Dataset, whole: Dataset) -> Dataset:
    """`dataset` with the labels by which the run is scored at its end."""
    scored = {case.id: case for case in scored_cases(whole)}
    return replace(dataset, cases=tuple(scored.get(case.id, case) for case in dataset))


def scored_cases(whole: Dataset) -> tuple[Case, ...]:
    """The test cases, or the validation cases where there are none."""
    return whole.split("test") or whole.split("val")


def record_environment(run: RunFolder, prints: Fingerprint) -> None:
    """Writes environment.json: versions, hardware, checksums of the images."""
    content = {**environment(), "data": {"image_sha256": prints.checksums()}}
    atomic_write_text(run.environment, json.dumps(content, indent=1))


def refuse_changed_images(run: RunFolder, config: Config, dataset: Dataset) -> None:
    """Raises RunError where the run would go on with other images than it began with: changed, added or gone.

    The store has checksums of what is trained on; no scan that is untouched since is read again.
    """
    began = read_record(run.path).environment.get("data", {}).get("image_sha256")
    if began is None:
        return
    mend = "put back what was there, or start the run anew with another --out"
    store = open_store(config, dataset)
    for case in dataset.split("train") + dataset.split("val"):
        for source in store.sources(case.id):
            if began.get(name_of(Path(source.path), dataset.root)) != source.sha256:
                raise RunError(f"{source.path}: was changed or added since {run.path} began; {mend}")
    here = {name_of(file, dataset.root) for case in dataset for file in files_of(case.id, case.images)}
    for name in began:
        if name not in here:
            raise RunError(f"{dataset.root}: {name} is gone since {run.path} began; {mend}")


def prepare_baseline(run: RunFolder, config: Config) -> None:
    """Lays out the labelled-only run beside `run`: same steps, seed, plan, views, class weights, averaging of weights.

    Of DHC's two weightings its one network has the first one's.
    """
    Settings = find_method("supervised").Settings
    shared = {name: value for name, value in config.method.settings.items() if name in Settings.model_fields}
    choice = MethodChoice(name="supervised", settings=Settings(**shared).model_dump(mode="json"))
    run.baseline.create()
    atomic_write_text(run.baseline.environment, run.environment.read_text(encoding="utf-8"))
    training = config.training
    if training.class_weighting == "dhc":
        training = training.model_copy(update={"class_weighting": "difficulty"})
    config.model_copy(update={"method": choice, "training": training}).save(run.baseline.config)


def extend(run: RunFolder, config: Config, iterations: int) -> Config:
    """The config of a longer run. Raises where the run cannot become one."""
    if iterations < config.training.iterations:
        raise SettingError(
            f"--iterations {iterations}: the run was planned for {config.training.iterations}; give more, or none"
        )
    if iterations == config.training.iterations:
        return config
    dataset = training_data(read_data(config.data), config.data.labelled, config.uda.target_labels)
    method, _ = build(config, dataset, pretrained=False)
    if len(method.stages()) > 1:
        raise SettingError(
            f"--iterations {iterations}: '{config.method.name}' has several stages whose lengths would change; start a"
            " new run with another --out"
        )
    refuse_changed_images(run, config, dataset)
    config = config.model_copy(update={"training": config.training.model_copy(update={"iterations": iterations})})
    run.forget_results()
    config.save(run.config)
    say(f"extended to {iterations} iterations; this is not the same as a run of that length from its start")
    return config


def complete(run: RunFolder, config: Config) -> None:
    """Does what is missing: training, the model, predictions, scores, the report."""
    whole = read_data(config.data)
    dataset = training_data(whole, config.data.labelled, config.uda.target_labels)
    refuse_contradictions(config, dataset)
    if not (run.model / "model.json").exists():
        if run.last.exists():
            refuse_changed_images(run, config, dataset)
        say(f"training {config.method.name}, {config.training.iterations} iterations, in {run.path}")
        fit_on_devices(config, run)
        keep_model(run, config, dataset)
    if config.data.score_test:
        score_run(run, config, whole)
    if len(whole.domains) > 1 and not run.domain_shift.exists():
        show_domains(run, config, whole)
    write_report(run.path)
    say(f"done: {run.path / 'report.html'}")


def keep_model(run: RunFolder, config: Config, dataset: Dataset) -> None:
    """Writes the model folder from the selected checkpoint."""
    selected = run.last if config.training.selection == "last" else run.best
    content = load_checkpoint(selected)
    method, problem = build(config, dataset, pretrained=False)
    load_method(method, content)
    save_model(
        run.model,
        method,
        problem,
        channels=dataset.channels,
        file_ending=dataset.file_ending,
        facts={
            "method": config.method.name,
            "dataset": dataset.name,
            "step": content["step"],
            "iterations": config.training.iterations,
            "selection": config.training.selection,
            "seed": config.seed,
            "labelled_cases": len(dataset.labelled()),
            "unlabelled_cases": len(dataset.unlabelled()),
            "precision": config.training.precision,
            "scored_split": "test" if dataset.split("test") else "val",
            "inference": config.inference.model_dump(mode="json"),
            "modalities": dataset.modalities,
        },
    )


def show_domains(run: RunFolder, config: Config, whole: Dataset) -> None:
    """Writes what the report's picture of the domains is drawn from."""
    method = load_model(run.path, config.method.name if ".py:" in config.method.name else None).method
    method.to(config.training.device)
    (first, *_) = method.inference_modules()
    network = next((module for module in first.modules() if isinstance(module, Network)), None)
    windows = make_windows(config.plan, config.inference, config.training.precision)
    with progress("comparing domains") as report:
        domain_shift(whole, config.plan.preparation, network, windows, report).save(run.domain_shift)


def score_run(run: RunFolder, config: Config, whole: Dataset) -> None:
    """Predicts the test cases (the validation cases where there are none) and scores those with labels."""
    cases = scored_cases(whole)
    if not cases:
        say("no test and no validation cases: nothing to score")
        return
    method = config.method.name if ".py:" in config.method.name else None
    model = load_model(run.path, method)
    settings, device = inference_settings(model, {}), config.training.device
    inputs = [
        Input(case.id, case.images, case.task if case.task in model.tasks else DEFAULT, whole.modality(case))
        for case in cases
    ]
    predict_inputs([model], inputs, run.predictions, device=device, settings=settings)
    first_of_task = {item.task: item for item in reversed(inputs)}
    if len(first_of_task) > 1:
        say("predicting the classes of all tasks in one case of each")
        crossed = [replace(item, task=DEFAULT) for item in inputs if first_of_task[item.task] is item]
        predict_inputs([model], crossed, run.all_classes, device=device, settings=settings)
    if not any(case.label for case in cases):
        say("no test case has a label: predicted, not scored")
        return
    with progress("scoring") as report:
        unit = config.plan.metric_unit
        metrics = evaluate(run.predictions, replace(whole, cases=cases), run.metrics, unit=unit, progress=report)
    dice = {name: found["dice"] for name, found in metrics["summary"].items()}
    means = ", ".join(f"{name} {found['mean']:.3f}" for name, found in dice.items() if found["n"])
    say(f"Dice on {len(metrics['cases'])} {cases[0].split} cases: {means}")
    for domain, summary in metrics["domains"].items():
        dice = summary["mean"]["dice"]
        if dice["n"]:
            say(f"  {domain}: {dice['mean']:.3f} on {dice['n']} cases")
