"""Every method that ramps terms up has a setting for how long, and it is what they go by."""

import pytest
from test_contract import SMALLER

from semivox.losses.schedules import sigmoid_ramp
from semivox.methods import METHODS, find_method
from semivox.testing import Workbench

SHARE = 0.8
RAMPED = [name for name in METHODS if "ramp_share" in find_method(name).Settings.model_fields]


@pytest.mark.parametrize("name", RAMPED)
def test_a_ramp_takes_the_share_of_the_stage_that_its_setting_says(name):
    found = set()
    settings = dict(SMALLER.get(name, {}))
    if "threshold" in find_method(name).Settings.model_fields:
        settings["threshold"] = 0.0  # so that every pseudo-label counts
    for stage in range(len(find_method(name)().stages())):
        terms = []
        for share in (0.0, SHARE):
            bench = Workbench(name, stage=stage, settings=settings | {"ramp_share": share}, dropout=False).decide()
            terms.append(bench.losses(bench.batch()))
        grown, growing = terms
        ramp = sigmoid_ramp(bench.clock.stage_progress, SHARE)
        for term in grown.keys() & growing.keys():
            if grown[term] > 1e-6:
                ratio = (growing[term] / grown[term]).item()
                assert ratio == pytest.approx(1, rel=1e-3) or ratio == pytest.approx(ramp, rel=1e-3), term
                found.add(round(ratio, 2))
    assert len(found) == 2, "some terms are ramped and others, at least the supervised ones, are not"
