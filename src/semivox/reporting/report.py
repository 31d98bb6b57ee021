"""One HTML file that tells all about a run: self-contained, without scripts, readable offline and in print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.data.case_lists import CaseLists
from semivox.data.image import read_classes, read_image, read_label
from semivox.data.joining import read_datasets
from semivox.data.setting import classes_of, listed
from semivox.errors import DataError, RunError, SemivoxError
from semivox.reporting import prose
from semivox.reporting.beside import pooled, read_beside, titles
from semivox.reporting.curves import (
    CaseChart,
    Chart,
    Scatter,
    case_chart,
    domain_charts,
    domain_scatter,
    training_charts,
)
from semivox.reporting.domain_shift import DomainShift
from semivox.reporting.page import render
from semivox.reporting.pictures import Picture, colours, domain_colours, overlay
from semivox.reporting.pseudo_labels import PseudoLabelDice, pseudo_label_dice
from semivox.reporting.record import NOTHING, Record, flatten, read_record
from semivox.reporting.tables import (
    DICE,
    METRICS,
    OVER_TASKS,
    Comparison,
    case_rows,
    class_names,
    comparison,
    domain_rows,
    key_figures,
    mean_scores,
    score_rows,
    task_results,
    task_rows,
    tasks_are_domains,
)
from semivox.training.run import RunFolder

LABELLED_ONLY = "Labelled only"
"""What the baseline is called in tables."""


@dataclass(frozen=True)
class Data:
    """The run's data set: `whole`, and as it was `seen` in training, without the labels that were hidden.

    Pictures too are made from what was seen. Both are None where it cannot be read; `notice` then says why.
    """

    whole: Dataset | None
    seen: Dataset | None
    notice: str


@dataclass(frozen=True)
class Shown:
    """One case with its pictures, or the reason why there are none."""

    title: str
    case: str
    score: str
    has_reference: bool
    pictures: tuple[Picture, ...]
    notice: str


@dataclass(frozen=True)
class ShownBeside:
    """Another run beside this one: both scores over the scans that both have, and the settings that differ."""

    title: str
    summary: str
    compared: Comparison
    differs: list[tuple[str, str, str]]


@dataclass(frozen=True)
class ShownShift:
    """How far the domains lie apart, in charts and words."""

    charts: list[Chart]
    scatter: Scatter | None
    colours: dict[str, str]
    """Domain → colour."""
    prose: str


def write_report(run: Path, pseudo_labels: bool = False, beside: Sequence[Path] = ()) -> Path:
    """Writes `run`/report.html in one step and returns its path.

    The scans are looked for where the run found them; without them the report has no pictures and says so. With
    `pseudo_labels` the saved predictions of unlabelled training cases are scored against labels hidden from training.
    `beside`: runs that are set beside this one, such as those of the single tasks of a joint one.
    Raises RunError where `run` is not a run folder or one of `beside` cannot be compared with it, DataError where its
    pseudo-labels cannot be scored.
    """
    record = read_record(run)
    content = _content(record, _find_data(record), pseudo_labels, read_beside(record, beside) if beside else [])
    page = render("report.html.j2", content)
    path = RunFolder(record.folder).report
    atomic_write_text(path, page)
    return path


def _content(
    record: Record, data: Data, pseudo_labels: bool, beside: Sequence[tuple[Record, dict[str, Any]]]
) -> dict[str, Any]:
    """Everything that the template shows."""
    metrics, config = record.metrics, record.config
    other = record.baseline.metrics if record.baseline else None
    compared = comparison(metrics, other) if metrics and other else None
    names = class_names(metrics) if metrics else []
    tasks = task_rows(metrics) if metrics else []
    labelled_only = [(LABELLED_ONLY, other)] if other and compared else []
    others = [
        *labelled_only,
        *zip(titles([folder for folder, _ in beside]), (scores for _, scores in beside), strict=True),
    ]
    return {
        "title": record.folder.resolve().name,
        "method": prose.in_title(config["method"]["name"]),
        "summary": prose.summary(record, data.seen),
        "verdict": prose.verdict(record, compared),
        "comparison": compared,
        "differs": _differences(record, record.baseline) if record.baseline else [],
        "beside": _beside(record, beside),
        "beside_all": _beside_all(record, beside),
        "baseline_command": "" if config["method"]["name"] == prose.SUPERVISED else prose.train_baseline(record),
        "key_figures": key_figures(metrics, compared) if metrics else [],
        "metrics": METRICS,
        "unit": metrics["unit"] if metrics else "mm",
        "definitions": metrics.get("definitions", {}) if metrics else {},
        "scores": score_rows(metrics) if metrics else [],
        "task_scores": tasks,
        "over_tasks": OVER_TASKS,
        "tasks": task_results(metrics, others) if metrics else [],
        # Where each task is a domain its table says it all.
        "domains": domain_rows(metrics) if metrics and not (tasks and tasks_are_domains(metrics)) else [],
        "cases": case_rows(metrics, others) if metrics and not tasks else [],
        "other_titles": [title for title, _ in others],
        "class_names": names,
        "colours": _colours(data.seen, names),
        "case_chart": _case_chart(metrics, other) if metrics else None,
        "shown": _shown_cases(record, data.seen) if data.seen else [],
        "crossed": _crossed_cases(record, data.seen) if data.seen else [],
        "notice": data.notice,
        "pseudo_labels": _pseudo_labels(record, data) if pseudo_labels else None,
        "shift": _domain_shift(record),
        "charts": training_charts(record.log, record.baseline.log if record.baseline else None),
        "plan": prose.plan(record),
        "plan_notes": config["plan"].get("notes", []),
        "plan_fields": [(name, value) for name, value in flatten(config["plan"]) if value != NOTHING],
        "settings": list(flatten({key: value for key, value in config.items() if key != "plan"})),
        "environment": [(part, list(flatten({part: value}))) for part, value in record.environment.items()],
        "train_again": prose.train_again(record),
        "notes": prose.notes(record, data.seen),
    }


def _domain_shift(record: Record) -> ShownShift | None:
    """The picture of domain shift, where the run made one: it has two domains or more."""
    path = RunFolder(record.folder).domain_shift
    if not path.is_file():
        return None
    shift = DomainShift.load(path)
    return ShownShift(domain_charts(shift), domain_scatter(shift), domain_colours(shift.cases), prose.domains(shift))


def _find_data(record: Record) -> Data:
    data = record.config["data"]
    try:
        unlabelled = Path(data["unlabelled"]) if data.get("unlabelled") else None
        whole = read_datasets(
            [Path(path) for path in data["datasets"]],
            unlabelled,
            data.get("labels"),
            [CaseLists.model_validate(lists) for lists in data.get("lists", ())],
            data.get("unseen", ()),
        )
        return Data(whole, whole.hide_labels(data.get("labelled")), "")
    except SemivoxError as error:
        return Data(None, None, f"The scans are not as the run found them, so there are no pictures. {error}")


def _beside(record: Record, beside: Sequence[tuple[Record, dict[str, Any]]]) -> list[ShownBeside]:
    """Each of the other runs, where a class was scored in both."""
    shown = []
    for title, (other, scores) in zip(titles([folder for folder, _ in beside]), beside, strict=True):
        compared = comparison(record.metrics or {}, scores)
        if compared is not None:
            shown.append(ShownBeside(title, prose.summary(other, None), compared, _differences(record, other)))
    return shown


def _beside_all(record: Record, beside: Sequence[tuple[Record, dict[str, Any]]]) -> Comparison | None:
    """This run against all others together, where they share no scan: a model for each task against one for all."""
    together = pooled([("", scores) for _, scores in beside])
    return comparison(record.metrics or {}, together) if together is not None else None


def _differences(record: Record, other: Record) -> list[tuple[str, str, str]]:
    """(setting, the other run, this run) of all that the two runs did not share."""
    here, there = (dict(flatten(side.config)) for side in (record, other))
    names = dict.fromkeys([*here, *there])
    return [(name, there.get(name, ""), here.get(name, "")) for name in names if here.get(name) != there.get(name)]


def _colours(dataset: Dataset | None, names: list[str]) -> dict[str, str]:
    """Class → colour: by the data set's order, so that tables and pictures agree."""
    return colours(dataset.labels.scored() if dataset else dict.fromkeys(names, ()))


def _case_chart(metrics: Mapping[str, Any], other: Mapping[str, Any] | None) -> CaseChart | None:
    scores = mean_scores(metrics["cases"], DICE.key)
    others = mean_scores(other["cases"], DICE.key) if other else {}
    return case_chart(scores, {case: others[case] for case in scores if case in others}) if len(scores) > 1 else None


def _crossed_cases(record: Record, dataset: Dataset) -> list[Shown]:
    """A case of each task with the classes of all tasks, where the run predicted them; the reference has its task's."""
    folder = RunFolder(record.folder).all_classes
    return [
        _show(folder, dataset, case.id, f"{case.task}, annotated for {listed(classes_of(dataset, case.task))}", "")
        for case in dataset
        if _prediction(folder, dataset, case.id).is_file()
    ]


def _shown_cases(record: Record, dataset: Dataset) -> list[Shown]:
    """The worst, median and best case by mean Dice; where none was scored, the first three predicted ones."""
    predictions = RunFolder(record.folder).predictions
    scores = mean_scores(record.metrics["cases"], DICE.key) if record.metrics else {}
    ranked = sorted(scores, key=lambda case: (scores[case], case))
    if len(ranked) == 1:
        return [_show(predictions, dataset, ranked[0], "The only scored case", f"{scores[ranked[0]]:.3f}")]
    if ranked:
        chosen = {ranked[(len(ranked) - 1) // 2]: "Median", ranked[-1]: "Best", ranked[0]: "Worst"}
        shown = sorted(chosen, key=ranked.index)
        return [_show(predictions, dataset, case, chosen[case], f"{scores[case]:.3f}") for case in shown]
    predicted = [case.id for case in dataset if _prediction(predictions, dataset, case.id).is_file()]
    return [_show(predictions, dataset, case, "Not scored", "") for case in predicted[:3]]


def _show(predictions: Path, dataset: Dataset, case_id: str, title: str, score: str) -> Shown:
    try:
        case = dataset[case_id]
        pictures = _pictures(case, dataset, _prediction(predictions, dataset, case_id))
        return Shown(title, case_id, score, case.label is not None, pictures, "")
    except SemivoxError as error:
        return Shown(title, case_id, score, False, (), str(error))


def _pictures(case: Case, dataset: Dataset, path: Path) -> tuple[Picture, ...]:
    image = read_image(case, dataset)
    prediction = read_label(path)
    difference = image.grid.difference(prediction.grid)
    if difference:
        raise RunError(f"{path}: the prediction has {difference}, as the scan has; predict the case again")
    reference = read_classes(case, dataset, image.grid).array if case.label else None
    return overlay(image, dataset.labels.to_classes(prediction.array), reference, dataset.labels.scored())


def _prediction(folder: Path, dataset: Dataset, case: str) -> Path:
    return folder / f"{case}{dataset.file_ending}"


def _pseudo_labels(record: Record, data: Data) -> PseudoLabelDice:
    if data.whole is None:
        raise DataError(data.notice)
    return pseudo_label_dice(record, data.whole)
