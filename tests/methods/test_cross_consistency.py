"""CCT: decoders that see disturbed features agree with the one that sees them as they are."""

import numpy as np
import pytest
import torch
from slow_pseudo_labels import softmax

from semivox.methods.cross_consistency import CrossConsistency
from semivox.sampling.features import dropout, feature_drop, feature_noise
from semivox.testing import Workbench

NAME = "cross_consistency"
RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""
SLOW = {
    "noise": lambda x, seeds, draw: feature_noise(x, seeds, 0.3, draw),
    "dropout": lambda x, seeds, draw: dropout(x, seeds, 0.3, draw),
    "drop": lambda x, seeds, draw: feature_drop(x, seeds, (0.7, 0.9), draw),
}
PAPER = {"auxiliary_supervision": False, "detach": True}


def make_bench(dimensions=2, **settings):
    settings = {"consistency_weight": 0.7} | settings
    return Workbench(NAME, dimensions, settings=settings, dropout=False).decide()


@torch.no_grad()
def logits_of(bench, stream, kinds=("noise", "dropout", "drop")):
    """Main and auxiliary logits, each stream encoded by itself."""
    network = bench.method.network
    features = network.encode(stream.image)
    logits = [network.head(network.decode(features)[-1])]
    for number, (kind, branch) in enumerate(zip(kinds, bench.method.auxiliary, strict=True)):
        levels = range(number * len(features), (number + 1) * len(features))
        disturbed = [SLOW[kind](f, stream.seeds, draw) for f, draw in zip(features, levels, strict=True)]
        logits.append(branch.head(branch.decoder(disturbed)[-1]))
    return logits


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("settings", [{}, PAPER], ids=["public script", "paper"])
def test_every_auxiliary_decoder_is_held_against_the_main_one_as_in_a_slow_version(dimensions, settings):
    bench = make_bench(dimensions, **settings)
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    term = bench.losses(batch)["consistency"]
    valid = batch.unlabelled.valid.numpy()
    main, *others = (softmax(z.numpy()) for z in logits_of(bench, batch.unlabelled))
    squares = [np.moveaxis((one - main) ** 2, 1, -1)[valid].mean() for one in others]
    assert len(squares) == 3
    assert min(squares) > 0
    assert term.item() == pytest.approx(0.7 * RAMP * np.mean(squares), rel=1e-3)


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["public script", "paper"])
def test_who_learns_from_labels(settings):
    bench = make_bench(**settings)
    batch = bench.batch()
    term = bench.losses(batch)["supervised"]
    losses = [bench.problem.supervised_loss(z, batch.labelled).item() for z in logits_of(bench, batch.labelled)]
    expected = losses[0] if settings else np.mean(losses)
    assert term.item() == pytest.approx(expected, rel=1e-4)
    term.backward()
    reached = [parameter.grad is not None for parameter in bench.method.auxiliary.parameters()]
    assert all(reached) if not settings else not any(reached)


@pytest.mark.parametrize("detach", [False, True])
def test_whether_the_main_decoder_learns_from_the_others_is_a_setting(detach):
    bench = make_bench(detach=detach)
    bench.losses(bench.batch())["consistency"].backward()
    network = bench.method.network
    main = [p.grad for p in (*network.decoder.parameters(), *network.classifier.parameters())]
    assert all(grad is None for grad in main) if detach else all(grad.abs().max() > 0 for grad in main)
    assert any(p.grad.abs().max() > 0 for p in network.encoder.parameters())


def test_a_kind_may_come_twice_with_other_draws():
    bench = make_bench(perturbations=("noise", "noise"))
    first, second = bench.method.auxiliary
    second.load_state_dict(first.state_dict())
    batch = bench.batch()
    features = [f.detach() for f in bench.method.network.encode(batch.unlabelled.image)]
    one, other = bench.method.disturbed(features, batch.unlabelled.seeds)
    assert not torch.allclose(one, other)


def test_levels_are_disturbed_apart():
    bench = make_bench(perturbations=("noise",))
    ones = [torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)]
    seen = []
    bench.method.auxiliary[0].forward = lambda features: seen.extend(features)
    bench.method.disturbed(ones, (5,))
    assert not torch.equal(*seen)


def test_an_image_is_encoded_once():
    bench = make_bench()
    passes = []
    bench.method.network.encoder.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert passes == [4]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_prediction_is_the_main_decoder_undisturbed(dimensions):
    bench = make_bench(dimensions)
    bench.train_step(bench.batch())
    method, image = bench.method.eval(), bench.batch().unlabelled.image
    assert method.inference_modules() == (method.average,)
    with torch.no_grad():
        torch.testing.assert_close(method.predict(image, "default"), method.average.module(image).softmax(1))


def test_the_published_number_of_parameters():
    """U-Net with three auxiliary decoders, one channel and four classes."""
    bench = Workbench(NAME)
    choice = bench.problem.plan.network.model_copy(update={"settings": {}})
    plan = bench.problem.plan.model_copy(update={"network": choice, "patch": (256, 256)})
    method = CrossConsistency()
    with torch.device("meta"):
        method.build(type(bench.problem)(plan=plan, channels=1, labels=bench.problem.labels))
    assert bench.problem.classes == 4
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == 3_713_664


def test_the_demand_counts_auxiliary_decoders_as_parts_of_a_network():
    public, paper = (CrossConsistency.demand(CrossConsistency.Settings(**settings)) for settings in ({}, PAPER))
    assert public.unlabelled_forwards == public.labelled_forwards == paper.unlabelled_forwards > 3
    assert paper.labelled_forwards == 1
    assert public.networks == paper.networks == pytest.approx(1.9)
