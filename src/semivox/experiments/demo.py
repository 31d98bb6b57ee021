"""The demo: a made-up data set through everything, in minutes on a laptop."""

import shutil
from pathlib import Path

from semivox.data.phantom import write_phantom
from semivox.errors import RunError
from semivox.experiments.train import train

ITERATIONS = 360
"""Steps of each of the two trainings: enough for sensible organs, few enough for two cores."""


def demo(out: str | Path, iterations: int = ITERATIONS) -> Path:
    """Writes a phantom data set to `out`/phantom and trains mean teacher and labelled-only on it; returns the run.

    Raises RunError where `out` holds something else than an earlier demo.
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        if not (out / "phantom" / "dataset.json").exists():
            raise RunError(f"--out {out}: holds other files; give a new folder")
        shutil.rmtree(out)
    phantom = write_phantom(out / "phantom", cases=16, labelled=4, test=4)
    return train(
        [phantom.root],
        "mean_teacher",
        out=out / "run",
        iterations=iterations,
        baseline=True,
        # For so short a run: the usual 0.99 would average over its poor beginning.
        settings=["average_decay=0.95"],
    )
