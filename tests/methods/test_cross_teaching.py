"""CTCT: a CNN and a transformer learn from each other's hard labels, by Dice alone."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from slow_pseudo_labels import dice

from semivox.methods.cross_teaching import CrossTeaching
from semivox.methods.model import save_model
from semivox.testing import Workbench
from semivox.training.fit import initialise

NAME = "cross_teaching"
RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""
SMALL = {"transformer_width": 12, "transformer_window": 4}


def make_bench(dimensions=2, **settings):
    settings = {"consistency_weight": 0.7, **SMALL} | settings
    return Workbench(NAME, dimensions, settings=settings, dropout=False).decide()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_learns_the_others_hard_labels_by_dice_alone_as_in_a_slow_version(dimensions):
    bench = make_bench(dimensions)
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    terms = bench.losses(batch)
    valid = batch.unlabelled.valid.numpy()
    with torch.no_grad():
        cnn, transformer = (
            network(batch.unlabelled.image).numpy() for network in (bench.method.cnn, bench.method.transformer)
        )
    assert (cnn.argmax(1) != transformer.argmax(1)).any()
    for name, own, other in (("cross_cnn", cnn, transformer), ("cross_transformer", transformer, cnn)):
        assert terms[name].item() == pytest.approx(0.7 * RAMP * dice(own, other.argmax(1), valid), rel=1e-3)


def test_both_learn_from_labels():
    bench = make_bench()
    batch = bench.batch()
    terms = bench.losses(batch)
    for name, network in (("supervised_cnn", bench.method.cnn), ("supervised_transformer", bench.method.transformer)):
        with torch.no_grad():
            expected = bench.problem.supervised_loss(network(batch.labelled.image), batch.labelled)
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("term", "other"), [("cross_cnn", "transformer"), ("cross_transformer", "cnn")])
def test_hard_labels_carry_no_gradient(term, other):
    bench = make_bench()
    bench.losses(bench.batch())[term].backward()
    assert all(p.grad is None for p in getattr(bench.method, other).parameters())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_one_network_is_the_plans_and_the_other_attends(dimensions):
    method = Workbench(NAME, dimensions, settings=SMALL).method
    attention = [name for name, _ in method.transformer.named_modules() if name.endswith(".attn.qkv")]
    assert len(attention) == 8, "two blocks on each of four levels"
    assert not any("attn" in name for name, _ in method.cnn.named_modules())
    assert type(method.cnn).__name__ == {2: "UNet", 3: "VNet"}[dimensions]
    with torch.no_grad():
        assert method.transformer(torch.randn(1, 1, *(19, 24, 10)[:dimensions])).shape[2:] == (19, 24, 10)[:dimensions]


def test_settings_of_the_transformer_reach_it():
    settings = {"transformer_width": 24, "transformer_depths": (2, 4, 2, 2), "drop_path": 0.3}
    names = dict(Workbench(NAME, settings=settings).method.transformer.named_modules())
    assert sum(name.endswith(".attn.qkv") for name in names) == 10
    assert next(module for name, module in names.items() if name.endswith(".attn.qkv")).in_features == 24
    assert any(type(module).__name__ == "DropPath" and module.drop_prob > 0.2 for module in names.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"transformer_width": 20},
        {"transformer_width": 0},
        {"transformer_window": 1},
        {"transformer_depths": (2, 2, 0, 2)},
    ],
)
def test_a_transformer_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValidationError):
        CrossTeaching.Settings(**wrong)


def test_the_cnns_average_predicts_and_a_model_holds_no_transformer(tmp_path):
    bench = make_bench()
    assert bench.method.inference_modules() == (bench.method.average,)
    assert bench.method.average.source is bench.method.cnn


def test_weights_to_begin_from_fill_the_cnn_alone(tmp_path):
    donor, bench = Workbench("supervised", seed=1), Workbench(NAME, settings=SMALL)
    known = {"channels": ("image",), "file_ending": ".nii.gz", "facts": {"method": "supervised"}}
    save_model(tmp_path, donor.method, donor.problem, **known)
    transformer = {name: tensor.clone() for name, tensor in bench.method.transformer.state_dict().items()}
    initialise(bench.method, tmp_path)
    given = donor.method.average.module.state_dict()
    pairs = (("cnn", given), ("average.module", given), ("transformer", transformer))
    for place, expected in pairs:
        state = bench.method.get_submodule(place).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items()), place


def test_the_demand_names_the_transformer_that_is_built():
    demand = CrossTeaching.demand(CrossTeaching.Settings(transformer_width=48))
    (transformer,) = demand.companions
    assert transformer.cost == 4 * CrossTeaching.demand(CrossTeaching.Settings()).companions[0].cost
    bench = make_bench()
    (own,) = CrossTeaching.demand(bench.method.settings).companions
    built = bench.problem.network(own.name, **own.settings)
    shapes = [{name: p.shape for name, p in net.named_parameters()} for net in (built, bench.method.transformer)]
    assert shapes[0] == shapes[1]
