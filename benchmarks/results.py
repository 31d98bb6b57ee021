"""The quality figures of docs/results.md: runs on real scans, scored on their test cases, written to the page.

    python -m benchmarks.results ../shared/data runs/results

Runs that are complete are not run again; one that was interrupted goes on where it stood. Plans are fixed, in
benchmarks/plans, and so are the steps, so that every row can be had again with the command it names.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semivox.atomic import atomic_write_text
from semivox.evaluation.statistics import compare_paired
from semivox.training.log import read_log

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
AT_ONCE = 2
"""Runs side by side, each on one thread."""


@dataclass(frozen=True)
class Table:
    """Rows that share data, plan, labels and steps."""

    title: str
    dataset: str
    labelled: int
    iterations: int
    cells: tuple[tuple[str, tuple[int, ...]], ...]
    """(method, seeds)."""


TABLES = (
    Table(
        title="Left atrium (LA 2018) at 1.25 mm, 8 of 32 labelled, scored on the 10 public test labels",
        dataset="la",
        labelled=8,
        iterations=1000,
        cells=(("supervised", (0, 1, 2)), ("mean_teacher", (0, 1, 2))),
    ),
    Table(
        title="Hippocampus (MSD Task 04) at 1 mm, 8 of 80 labelled, scored on 20 test cases",
        dataset="hippocampus",
        labelled=8,
        iterations=500,
        cells=(("supervised", (0, 1, 2)), ("mean_teacher", (0, 1, 2))),
    ),
)


def arguments(table: Table, method: str, seed: int | str) -> list[str]:
    """What `semivox train` is given, but for the data set and the run folder."""
    return [
        *("--method", method, "--labelled", str(table.labelled), "--plan", f"benchmarks/plans/{table.dataset}.yaml"),
        *("--iterations", str(table.iterations), "--seed", str(seed)),
    ]


def run_folder(out: Path, table: Table, method: str, seed: int) -> Path:
    return out / f"{table.dataset}-{method}-{table.labelled}-seed{seed}"


def run_cell(data: Path, out: Path, table: Table, method: str, seed: int) -> None:
    """Trains and scores one cell, unless that is done."""
    run = run_folder(out, table, method, seed)
    if (run / "metrics.json").exists():
        return
    if (run / "config.yaml").exists():
        command = ["train", "--resume", str(run)]
    else:
        command = ["train", str(data / table.dataset), *arguments(table, method, seed), "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "semivox", *command], check=True, cwd=ROOT, env=environment)


def section(out: Path, table: Table) -> list[str]:
    """The page's part about one table, from the runs' own files."""
    lines = [f"## {table.title}", ""]
    lines += [
        f"`semivox train DATA/{table.dataset} {' '.join(arguments(table, 'METHOD', 'SEED'))}`, one thread each",
        "",
    ]
    runs = {method: [run_folder(out, table, method, seed) for seed in seeds] for method, seeds in table.cells}
    scores = {
        method: [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in folders]
        for method, folders in runs.items()
    }
    first = next(iter(scores.values()))[0]
    classes = [name for name in first["summary"] if name != "mean"]
    names = [*classes, *(["mean"] if len(classes) > 1 else [])]
    header = ["method", "seeds", *(f"Dice {name}" for name in names), "HD95 (mm)", "empty", "minutes a run"]
    lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for method, seeds in table.cells:
        minutes = [float(read_log(run / "log.csv")[-1]["elapsed_s"]) / 60 for run in runs[method]]
        cells = [method, ", ".join(map(str, seeds))]
        cells += [spread([found["summary"][name]["dice"]["mean"] for found in scores[method]], 3) for name in names]
        cells.append(spread([found["summary"]["mean"]["hd95"]["mean"] for found in scores[method]], 1))
        cells.append(str(sum(found["summary"]["mean"]["empty_predictions"] for found in scores[method])))
        cells.append(f"{statistics.median(minutes):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", verdict(scores), ""]
    return lines


def spread(values: list[float], digits: int) -> str:
    """Mean over seeds ± standard deviation where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def verdict(scores: dict[str, list[dict]]) -> str:
    """The paired difference to labelled-only over the cases, seeds averaged, said plainly."""
    sentences = []
    for method, found in scores.items():
        if method == "supervised":
            continue
        seeds = min(len(found), len(scores["supervised"]))
        base = per_case(scores["supervised"][:seeds])
        own = per_case(found[:seeds])
        paired = compare_paired(*(np.array([found[case] for case in base]) for found in (own, base)))
        word = "better than" if paired.low > 0 else "worse than" if paired.high < 0 else "not told apart from"
        sentences.append(
            f"{method} is {word} labelled-only: Dice {paired.difference:+.4f} (95 % interval over cases"
            f" {paired.low:+.4f} to {paired.high:+.4f}, Wilcoxon p = {paired.p_value:.3f};"
            f" {seeds} seed(s), {paired.n} cases)."
        )
    return " ".join(sentences)


def per_case(runs: list[dict]) -> dict[str, float]:
    """Case → mean Dice over classes and runs."""
    values: dict[str, list[float]] = {}
    for metrics in runs:
        for entry in metrics["cases"]:
            dices = [found["dice"] for found in entry["scores"].values() if found["dice"] is not None]
            values.setdefault(entry["case"], []).append(statistics.mean(dices))
    return {case: statistics.mean(found) for case, found in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets la and hippocampus")
    parser.add_argument("out", type=Path, help="folder of the runs")
    chosen = parser.parse_args()
    cells = [(table, method, seed) for table in TABLES for method, seeds in table.cells for seed in seeds]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda cell: run_cell(chosen.data, chosen.out, *cell), cells))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = json.loads((run_folder(chosen.out, *cells[0]) / "environment.json").read_text(encoding="utf-8"))
    hardware, versions = environment["hardware"], environment["versions"]
    lines = [
        "# Results",
        "",
        f"Written by `python -m benchmarks.results DATA RUNS` at commit {commit}; not typed. Real scans, a CPU's",
        "budget: figures of minutes, not of days. The model is the last one (a moving average of the weights for every",
        "method); no test case had a part in choosing it. ± is the standard deviation over seeds; 'empty' counts",
        "structures of which nothing was predicted.",
        "",
        f"torch {versions['torch']}, {hardware['cpu_capability']}, one thread a run, two runs and other work at once",
        "(so read minutes as an upper bound).",
        "",
    ]
    for table in TABLES:
        lines += section(chosen.out, table)
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
