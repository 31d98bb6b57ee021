"""Guards of what we publish: with its seed and its few steps, a row must come to what it once came to.

Run by `make regression`, about a quarter of an hour of one core. Interrupted, it goes on where it stood: runs lie below
runs/regression, apart for each state of the source.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from semivox.experiments.benchmark import make_grid
from semivox.experiments.demo import demo
from semivox.experiments.engines.task import begin, watch

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SEMIVOX_DATA", ROOT.parent / "shared" / "data"))
SOURCE = ROOT / "src" / "semivox"
ROWS = yaml.safe_load((Path(__file__).parent / "rows.yaml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.regression


def state() -> str:
    """A digest of the source: runs of another are not these."""
    digest = hashlib.sha256()
    for file in sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.yaml")]):
        digest.update(str(file.relative_to(SOURCE)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not at hand; name their folder in $SEMIVOX_DATA")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['protocol']}-{row['method']}-{row['labelled']}")
def test_a_published_row_is_reached_again(row):
    out = ROOT / "runs" / "regression" / state() / row["protocol"]
    grid = make_grid(row["protocol"], [row["method"]], seeds=1, data=DATA, out=out, device="cpu")
    labelled = None if row["labelled"] == "all" else row["labelled"]
    (cell,) = [cell for cell in grid.cells if (cell.method, cell.labelled) == (row["method"], labelled)]
    assert watch(begin(grid.task(cell), threads=1)) == 0, f"see {cell.log}"
    dice = json.loads(cell.run.metrics.read_text(encoding="utf-8"))["summary"]["mean"]["dice"]["mean"]
    assert dice == pytest.approx(row["dice"], abs=row["tolerance"])


def test_the_demo_learns_the_phantom(tmp_path):
    run = demo(tmp_path / "demo")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["summary"]["mean"]["dice"]["mean"] > 0.5
    assert (run / "report.html").exists()
