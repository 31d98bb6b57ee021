"""What `semivox inspect` shows: a data set's faults, what it looks like, and which setting it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from semivox.data.case import DEFAULT, Dataset
from semivox.data.case_lists import CaseLists, assign
from semivox.data.case_table import SPLITS
from semivox.data.fault import Fault
from semivox.data.integrity import check
from semivox.data.joining import join
from semivox.data.layout import survey
from semivox.data.setting import describe, leave_unseen, one_sided_tasks, recognise, refuse_misspelt_domains
from semivox.errors import DataError
from semivox.planning.class_volumes import doubtful_names
from semivox.planning.fingerprint import Fingerprint, Scan, fingerprint

RARE = 20.0
"""A class this many times smaller than the largest makes a data set class-imbalanced."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inspection:
    """All faults, and what could be read in spite of them: no data set where its description is at fault."""

    faults: list[Fault]
    fingerprint: Fingerprint | None
    dataset: Dataset | None

    @property
    def errors(self) -> int:
        """Faults that stop training."""
        return sum(fault.is_error for fault in self.faults)


def inspect(
    paths: Sequence[Path],
    unlabelled: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    *,
    labelled: int | dict[str, int] | None = None,
    unseen: Sequence[str] = (),
    lists: Sequence[CaseLists] = (),
) -> Inspection:
    """Reads every file of one or several data sets, faulty ones too; several are shown as the one they join into.

    `unlabelled` is a folder of further scans of the first. The fingerprint is of the cases without an error; all
    labels that are there are opened. `progress(done, total)` counts cases of the set that is being read. `labelled`,
    `unseen` and `lists`, one for each set or none at all, show the setting as `train` would see it; raises SettingError
    or DataError where they cannot be.
    """
    faults: list[Fault] = []
    found = []
    for index, path in enumerate(paths):
        dataset, of_layout = survey(path, None if index else unlabelled)
        faults += of_layout
        if dataset is not None:
            of_cases = check(dataset, workers, progress)
            faults += of_cases
            broken = {fault.case for fault in of_cases if fault.is_error}
            found.append(replace(dataset, cases=tuple(case for case in dataset if case.id not in broken)))
    if len(found) < len(paths):
        return Inspection(faults, None, None)
    if lists:
        found = [assign(dataset, listed) for dataset, listed in zip(found, lists, strict=True)]
    try:
        joined = join(found)
    except DataError as error:
        what, _, mend = str(error).rpartition("; ")
        return Inspection([*faults, Fault("", None, what, mend)], None, None)
    joined = leave_unseen(joined, unseen).hide_labels(labelled)
    try:
        refuse_misspelt_domains(joined)
    except DataError as error:
        what, _, mend = str(error).rpartition("; ")
        faults.append(Fault("", None, what, mend))
    for sentence in one_sided_tasks(joined):
        what, _, consequence = sentence.partition(": ")
        faults.append(Fault("", None, what, consequence, is_error=False))
    prints = fingerprint(joined, workers, progress, classes=True) if joined.cases else None
    if prints is not None:
        faults += doubtful_names(prints, joined.labels.foreground)
    return Inspection(faults, prints, joined)


def inspection_table(
    faults: Sequence[Fault], fingerprint: Fingerprint | None, dataset: Dataset | None
) -> RenderableType:
    """What to print: the setting, cases per split, what the scans look like, class shares, and every fault."""
    parts: list[RenderableType] = []
    if dataset is not None and dataset.cases:
        shares = fingerprint.mean_class_shares() if fingerprint else {}
        parts += [_headline(dataset), *_wrapped("setting", setting_text(dataset, shares)), "", _case_table(dataset), ""]
        if len(dataset.domains) > 1:
            parts += [_domain_table(dataset), ""]
        if fingerprint is not None:
            parts += [_scan_table(fingerprint), "", _intensity_table(fingerprint), ""]
            if shares:
                parts += [_class_table(fingerprint, shares), ""]
    parts.append(_fault_table(faults))
    return Group(*parts)


def setting_text(dataset: Dataset, class_shares: dict[str, float] | None = None) -> str:
    """The setting that the cases make, in words, and which class is rare."""
    setting = describe(dataset)
    foreground = {name: share for name, share in (class_shares or {}).items() if name in dataset.labels.foreground}
    rarest = min(foreground, key=lambda name: foreground[name], default="")
    if dataset.labelled() and rarest and max(foreground.values()) > RARE * foreground[rarest]:
        times = max(foreground.values()) / foreground[rarest] if foreground[rarest] else float("inf")
        setting += f"; class-imbalanced: {rarest} is "
        setting += f"{times:.0f} times smaller than the largest class" if np.isfinite(times) else "in no label"
    return setting


def _headline(dataset: Dataset) -> Text:
    patients = len({case.patient for case in dataset})
    text = Text(dataset.name, style="bold")
    text.append(f"  {_count(len(dataset.cases), 'case')}", style="not bold")
    if patients < len(dataset.cases):
        text.append(f" of {_count(patients, 'patient')}", style="not bold")
    text.append(f"; channels: {', '.join(dataset.channels)}", style="not bold")
    text.append(f"; classes: {', '.join(dataset.labels.scored()) or 'none'}", style="not bold")
    return text


def _wrapped(title: str, text: str) -> list[RenderableType]:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(f"{title}:", style="bold"), Text(text))
    return [grid]


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def _add(table: Table, *cells: object) -> None:
    # As Text, so that a name with square brackets is a name and no markup.
    table.add_row(*(Text(str(cell)) for cell in cells))


def _case_table(dataset: Dataset) -> Table:
    """Cases per split, and per domain and task where there are any."""
    keys = dict.fromkeys((case.split, case.domain, case.task) for case in dataset)
    has_domains = any(domain != DEFAULT for _, domain, _ in keys)
    has_tasks = any(task not in (DEFAULT, domain) for _, domain, task in keys)
    names = [name for name, shown in (("domain", has_domains), ("task", has_tasks)) if shown]
    table = _table("Cases", "split", *names, "cases", "patients", "with label", "without")
    for split, domain, task in sorted(keys, key=lambda key: SPLITS.index(key[0])):
        cases = [case for case in dataset if (case.split, case.domain, case.task) == (split, domain, task)]
        with_label = sum(case.label is not None for case in cases)
        shown = [name for name, is_shown in ((domain, has_domains), (task, has_tasks)) if is_shown]
        patients = len({case.patient for case in cases})
        _add(table, split, *shown, len(cases), patients, with_label, len(cases) - with_label)
    return table


def _domain_table(dataset: Dataset) -> Table:
    """What each domain gives to training and to scoring, as cases (patients), and what it is for that."""
    setting = recognise(dataset)
    roles = dict.fromkeys(setting.sources, "source") | dict.fromkeys(setting.targets, "target")
    roles |= dict.fromkeys(setting.unseen, "never seen")
    table = _table("Domains, as cases (patients)", "domain", "", "labelled", "unlabelled", "validation", "test")
    columns = (dataset.labelled(), dataset.unlabelled(), dataset.split("val"), dataset.split("test"))
    for domain in dataset.domains:
        counts = []
        for cases in columns:
            own = [case for case in cases if case.domain == domain]
            counts.append(f"{len(own)} ({len({case.patient for case in own})})" if own else "–")
        _add(table, domain, roles.get(domain, "training only"), *counts)
    return table


def _scan_table(fingerprint: Fingerprint) -> Table:
    """Sizes and spacings per domain: median, and the range where scans differ."""
    table = _table("Scans, axes in RAS order", "domain", "", "X", "Y", "Z")
    for domain in dict.fromkeys(scan.domain for scan in fingerprint.scans):
        scans = [scan for scan in fingerprint.scans if scan.domain == domain]
        name = "all" if domain == DEFAULT else domain
        _add(table, name, "voxels", *_ranges([scan.shape for scan in scans]))
        _add(table, "", "body, voxels", *_ranges([scan.body for scan in scans]))
        if not all(scan.is_picture for scan in scans):
            _add(table, "", "spacing, mm", *_ranges([scan.spacing_mm for scan in scans]))
    return table


def _intensity_table(fingerprint: Fingerprint) -> Table:
    """Intensities per channel and domain, inside the body: medians over scans, and the range of the medians.

    Each domain's channel goes by its own name, or names where sets of several make up the domain.
    """
    table = _table(
        "Intensity inside the body", "channel", "domain", "type", "0.5 %", "median", "99.5 %", "medians from–to"
    )
    for index in range(len(fingerprint.channels)):
        for domain in dict.fromkeys(scan.domain for scan in fingerprint.scans):
            scans: list[Scan] = [scan for scan in fingerprint.scans if scan.domain == domain]
            found = [scan.intensities[index] for scan in scans]
            medians = [one.median for one in found]
            _add(
                table,
                " / ".join(dict.fromkeys(scan.channels[index] for scan in scans)),
                "all" if domain == DEFAULT else domain,
                ", ".join(dict.fromkeys(scan.dtype for scan in scans)),
                *(_number(np.median([getattr(one, key) for one in found])) for key in ("low", "median", "high")),
                f"{_number(min(medians))}–{_number(max(medians))}",
            )
    return table


def _class_table(fingerprint: Fingerprint, shares: dict[str, float]) -> Table:
    table = _table("Classes", "class", "mean share of voxels", "labels that hold it")
    known = [scan.class_shares for scan in fingerprint.scans if scan.class_shares is not None]
    for name, share in shares.items():
        annotated = [scan[name] for scan in known if name in scan]
        _add(table, name, f"{100 * share:.3g} %", f"{sum(value > 0 for value in annotated)} of {len(annotated)}")
    return table


def _fault_table(faults: Sequence[Fault]) -> RenderableType:
    """Every fault with its file and its mend, errors first; file names stand whole, so that they can be copied."""
    if not faults:
        return Text("No faults.", style="bold green")
    errors = sum(fault.is_error for fault in faults)
    counts = [_count(number, kind) for number, kind in ((errors, "error"), (len(faults) - errors, "warning")) if number]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for fault in sorted(faults, key=lambda fault: not fault.is_error):
        style = "bold red" if fault.is_error else "yellow"
        where = f"case {fault.case}" if fault.case else ""
        file = f"  {fault.file}" if fault.file else ""
        text = Text.assemble((where, "bold"), (file, "cyan"), "\n" if where or file else "", fault.what)
        text.append(f"\n→ {fault.mend}", style="dim")
        grid.add_row(Text("error" if fault.is_error else "warning", style=style), text)
    return Group(Text(", ".join(counts), style="bold red" if errors else "bold yellow"), grid)


def _ranges(triples: Sequence[Sequence[float]]) -> list[str]:
    texts = []
    for values in np.array(triples, float).T:
        middle = _number(np.median(values))
        ends = [_number(values.min()), _number(values.max())]
        texts.append(middle if ends[0] == ends[1] else f"{middle} ({ends[0]}–{ends[1]})")
    return texts


def _number(value: float) -> str:
    return f"{value:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
