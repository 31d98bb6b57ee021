"""CPS: each network learns from the other's hard labels, through which no gradient goes."""

import numpy as np
import pytest
import torch

from semivox.methods.model import save_model
from semivox.testing import Workbench
from semivox.training.fit import initialise

NAME = "cross_pseudo_supervision"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_cross_supervision_equals_a_slow_version(dimensions):
    bench = Workbench(NAME, dimensions, settings={"consistency_weight": 0.7}, dropout=False).decide()
    batch = bench.batch()
    terms = bench.losses(batch)
    valid = batch.unlabelled.valid
    with torch.no_grad():
        first, second = (
            network(batch.unlabelled.image).double().softmax(1).numpy()
            for network in (bench.method.first, bench.method.second)
        )
    ramp = np.exp(-5 * (1 - 0.5) ** 2)  # the bench stands in the middle of the run
    for name, own, other in (("cross_1", first, second), ("cross_2", second, first)):
        pseudo = other.argmax(1)
        total = 0.0
        for index in np.ndindex(pseudo.shape):
            if valid[index]:
                total -= np.log(own[(index[0], pseudo[index], *index[1:])])
        assert float(terms[name]) == pytest.approx(0.7 * ramp * total / int(valid.sum()), rel=1e-4)


@pytest.mark.parametrize(("term", "other"), [("cross_1", "second"), ("cross_2", "first")])
def test_hard_labels_carry_no_gradient(term, other):
    bench = Workbench(NAME)
    bench.losses(bench.batch())[term].backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in getattr(bench.method, other).parameters())


def test_the_two_networks_begin_with_different_weights():
    bench = Workbench(NAME)
    pairs = zip(bench.method.first.parameters(), bench.method.second.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_weights_to_begin_from_fill_the_first_network_alone(tmp_path):
    donor, bench = Workbench("supervised", seed=1), Workbench(NAME)
    known = {"channels": ("image",), "file_ending": ".nii.gz", "facts": {"method": "supervised"}}
    save_model(tmp_path, donor.method, donor.problem, **known)
    second = {name: tensor.clone() for name, tensor in bench.method.second.state_dict().items()}
    initialise(bench.method, tmp_path)
    given = donor.method.average.module.state_dict()
    pairs = (("first", given), ("first_average.module", given), ("second", second), ("second_average.module", second))
    for place, expected in pairs:
        state = bench.method.get_submodule(place).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items()), place
    assert not torch.equal(given["encoder.blocks.0.0.weight"], second["encoder.blocks.0.0.weight"])


def test_the_setting_says_who_predicts():
    assert len(Workbench(NAME, settings={"evaluate": "first"}).method.inference_modules()) == 1
    assert len(Workbench(NAME, settings={"evaluate": "mean"}).method.inference_modules()) == 2
