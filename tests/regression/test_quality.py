"""Guards of what we publish: a short run with a fixed seed must not fall below what it once reached.

Run by `make regression`; each takes some minutes. The floors are the scores measured when the test was written, less a
tolerance for other machines' rounding.
"""

import json
from pathlib import Path

import pytest

from semivox.experiments.demo import demo
from semivox.experiments.train import train

ROOT = Path(__file__).resolve().parents[2]
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "hippocampus"
TOLERANCE = 0.02

pytestmark = pytest.mark.regression


def mean_dice(run: Path) -> float:
    return json.loads((run / "metrics.json").read_text())["summary"]["mean"]["dice"]["mean"]


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the real scans are not at hand")
def test_labelled_only_on_hippocampus_with_eight_labels(tmp_path):
    plan = ROOT / "benchmarks" / "plans" / "hippocampus.yaml"
    run = train([HIPPOCAMPUS], "supervised", out=tmp_path / "run", labelled=8, plan=plan, iterations=500, seed=0)
    assert mean_dice(run) > 0.835 - TOLERANCE


def test_the_demo_learns_the_phantom(tmp_path):
    run = demo(tmp_path / "demo")
    assert mean_dice(run) > 0.5
    assert (run / "report.html").exists()
