"""The trainings that a study is made of: each once, several side by side, interrupted ones go on where they stood."""

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """One training."""

    run: Path
    arguments: tuple[str, ...]
    """What `semivox train` is given but for the run folder."""

    @property
    def is_done(self) -> bool:
        return is_done(self.run)


def is_done(run: Path) -> bool:
    """Whether a run is finished: its report is the last thing that it writes."""
    return (run / "report.html").exists()


def train(cell: Cell) -> None:
    """Trains one cell on one thread, unless that is done."""
    if cell.is_done:
        return
    run = str(cell.run)
    if (cell.run / "config.yaml").exists():
        arguments = ("--resume", run, *(flag for flag in cell.arguments if flag == "--no-test"))
    else:
        arguments = (*cell.arguments, "--out", run)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "semivox", "train", *arguments], check=True, cwd=ROOT, env=environment)


def train_all(cells: Iterable[Cell], jobs: int) -> None:
    """Trains the cells in their order, `jobs` at once."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train, cells))
