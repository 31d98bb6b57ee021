"""Where do labels matter? Labelled-only training with few and with all labels, along the run, on development cases.

    python -m benchmarks.label_study ../shared/data runs/label-study

A semi-supervised method can only show itself where labelled-only with few labels lies clearly below labelled-only with
all, and has stopped improving. Test cases take no part: scores are on the validation cases, or where a set has none,
on its last training cases, which are then not trained on. Writes docs/label-study.md. Finished runs are kept.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import ROOT, Cell, is_done, train_all
from semivox.atomic import atomic_write_text
from semivox.training.log import read_log

PAGE = ROOT / "docs" / "label-study.md"
CHOICE = ROOT / "benchmarks" / "remarks" / "label-study.md"
"""What was chosen and why, in words."""
AT_ONCE = 2
"""Runs side by side, each on one thread."""
POINTS = 8
"""Validations along a run."""
ALL = 0
"""Stands for every label there is."""


@dataclass(frozen=True)
class Candidate:
    """A data set with the numbers of labelled groups to try; `held_out` last training groups are the validation."""

    dataset: str
    labelled: tuple[int, ...]
    iterations: int
    held_out: int = 0
    domain: str | None = None


CANDIDATES = (
    Candidate("sunnybrook", (1, 3, ALL), 500, held_out=8),
    Candidate("acdc", (1, 3, 7, ALL), 1000),
    Candidate("hippocampus", (1, 2, 4, ALL), 400, held_out=16),
    Candidate("la", (2, 4, ALL), 800, held_out=6),
    Candidate("retina", (1, 4, ALL), 500, held_out=6, domain="DRIVE"),
    Candidate("segthor", (2, 4, ALL), 500, held_out=4),
)


def development_set(source: Path, out: Path, candidate: Candidate) -> Path:
    """The data set of links in `out` without its test cases, its last training groups as validation cases."""
    folder = out / "data" / candidate.dataset
    if folder.exists():
        return folder
    with (source / "cases.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if candidate.domain in (None, row.get("domain"))]
    training = [row for row in rows if row["split"] == "train"]
    groups = list(dict.fromkeys(row.get("group", row["case"]) for row in training))
    held = set(groups[len(groups) - candidate.held_out :])
    kept = [row for row in rows if row["split"] == "val"]
    for row in training:
        kept.append({**row, "split": "val" if row.get("group", row["case"]) in held else "train"})
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
        for file in sorted((source / name).iterdir()):
            if any(file.name.startswith((f"{row['case']}.", f"{row['case']}_0000.")) for row in kept):
                (folder / name / file.name).symlink_to(file.resolve())
    (folder / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return folder


def arguments(candidate: Candidate, labelled: int) -> list[str]:
    """What `semivox train` is given, but for the data set and the run folder."""
    return [
        *("--method", "supervised", "--plan", f"benchmarks/plans/{candidate.dataset}.yaml"),
        *(() if labelled == ALL else ("--labelled", str(labelled))),
        *("--iterations", str(candidate.iterations), "--no-test", "-s", "training.selection=validation"),
        f"training.validate_every={candidate.iterations // POINTS}",
    ]


def run_folder(out: Path, candidate: Candidate, labelled: int) -> Path:
    return out / f"{candidate.dataset}-{labelled or 'all'}"


def cell(data: Path, out: Path, candidate: Candidate, labelled: int) -> Cell:
    folder = development_set(data / candidate.dataset, out, candidate)
    return Cell(run_folder(out, candidate, labelled), (str(folder), *arguments(candidate, labelled)))


def curve(run: Path) -> list[tuple[int, float]]:
    """(step, Dice on the development cases) along a run."""
    return [
        (int(row["step"]) + 1, float(row["validation/dice"]))
        for row in read_log(run / "log.csv")
        if row.get("validation/dice")
    ]


def section(out: Path, candidate: Candidate) -> list[str]:
    """The page's part about one data set."""
    curves = {labelled: curve(run_folder(out, candidate, labelled)) for labelled in candidate.labelled}
    steps = [step for step, _ in curves[ALL]]
    lines = [f"## {candidate.dataset}", "", f"`semivox train {' '.join(arguments(candidate, 0))}`, seed 0", ""]
    lines += [f"| labelled | {' | '.join(f'step {step}' for step in steps)} |", "|" + "---|" * (len(steps) + 1)]
    for labelled, points in curves.items():
        lines.append(f"| {labelled or 'all'} | {' | '.join(f'{dice:.3f}' for _, dice in points)} |")
    last = {labelled: points[-1][1] for labelled, points in curves.items()}
    gaps = [f"{labelled}: {100 * (last[ALL] - dice):.1f}" for labelled, dice in last.items() if labelled != ALL]
    return [*lines, "", f"Points of Dice below all labels at the end: {', '.join(gaps)}.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--page-only", action="store_true")
    chosen = parser.parse_args()
    if not chosen.page_only:
        out = chosen.out.resolve()
        cells = [
            cell(chosen.data.resolve(), out, candidate, labelled)
            for candidate in CANDIDATES
            for labelled in candidate.labelled
        ]
        train_all(cells, AT_ONCE)
    lines = [
        "# Where labels matter",
        "",
        "Labelled-only training with few and with all labels, Dice on development cases along the run (seed 0). Test"
        " cases took no part: a set without validation cases gave its last training cases. Curves written by"
        " `python -m benchmarks.label_study DATA RUNS`; not typed.",
        "",
        CHOICE.read_text(encoding="utf-8"),
    ]
    for candidate in CANDIDATES:
        if all(is_done(run_folder(chosen.out, candidate, labelled)) for labelled in candidate.labelled):
            lines += section(chosen.out, candidate)
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
