"""Deep co-training: two networks agree, and each learns where the other is fooled."""

import numpy as np
import pytest
import torch
from slow_pseudo_labels import softmax

from semivox.losses.cross_entropy import cross_entropy
from semivox.testing import Workbench

NAME = "deep_co_training"
RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""
EPSILON = 1.0


def make_bench(dimensions=2, **settings):
    settings = {
        "agreement_weight": 3.0,
        "difference_weight": 0.7,
        "perturbation": EPSILON,
        "ramp_share": 1.0,
    } | settings
    return Workbench(NAME, dimensions, settings=settings, dropout=False).decide()


def networks(bench):
    return bench.method.first, bench.method.second


def adversarial(bench, network, batch):
    """Each stream passed by itself, one step against what the network is asked to say of it."""
    moved = []
    for stream in (batch.labelled, batch.unlabelled):
        image = stream.image.clone().requires_grad_()
        logits = network(image)
        if stream is batch.labelled:
            loss = bench.problem.supervised_loss(logits, stream)
        else:
            loss = cross_entropy(logits, logits.detach().argmax(1), stream.valid)
        (gradient,) = torch.autograd.grad(loss * 1e4, image)
        moved.append(stream.image + EPSILON * gradient.sign() * stream.valid.unsqueeze(1))
    return torch.cat(moved)


def pad_some(batch):
    batch.unlabelled.valid[0, :5] = False
    batch.labelled.valid[1, 3:5] = False
    batch.labelled.label[1, 3:5] = 255
    return torch.cat([batch.labelled.valid, batch.unlabelled.valid]).numpy()


@torch.no_grad()
def probabilities(network, image):
    return np.moveaxis(softmax(network(image).numpy()), 1, -1)


def kl(q, p):
    return (q * np.log(q / p)).sum(-1)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_on_unlabelled_scans_the_networks_agree_as_in_a_slow_version(dimensions):
    bench = make_bench(dimensions)
    batch = bench.batch()
    valid = pad_some(batch)[len(batch.labelled) :]
    term = bench.losses(batch)["agreement"]
    p, q = (probabilities(network, batch.unlabelled.image)[valid] for network in networks(bench))
    middle = (p + q) / 2
    expected = np.mean(kl(p, middle) + kl(q, middle)) / 2
    assert term.item() == pytest.approx(3 * RAMP * expected, rel=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_each_network_learns_what_the_other_says_where_the_other_is_fooled(dimensions, number):
    bench = make_bench(dimensions)
    batch = bench.batch()
    valid = pad_some(batch)
    own, other = networks(bench) if number == 1 else networks(bench)[::-1]
    fooled = adversarial(bench, other, batch)
    clean = torch.cat([batch.labelled.image, batch.unlabelled.image])
    expected = kl(probabilities(other, clean)[valid], probabilities(own, fooled)[valid]).mean()
    term = bench.losses(batch)[f"difference_{number}"]
    assert term.item() == pytest.approx(0.7 / 2 * RAMP * expected, rel=2e-3)


@pytest.mark.parametrize(("number", "own", "other"), [(1, "first", "second"), (2, "second", "first")])
def test_the_difference_trains_the_network_that_sees_the_adversarial_scan_alone(number, own, other):
    bench = make_bench()
    bench.losses(bench.batch())[f"difference_{number}"].backward()
    assert all(p.grad.abs().max() > 0 for p in getattr(bench.method, own).parameters())
    assert all(p.grad is None for p in getattr(bench.method, other).parameters())


def test_the_agreement_trains_both():
    bench = make_bench()
    bench.losses(bench.batch())["agreement"].backward()
    assert all(p.grad.abs().max() > 0 for network in networks(bench) for p in network.parameters())


@pytest.mark.parametrize(("own", "other"), [("first", "second"), ("second", "first")])
def test_each_network_sees_scans_that_fool_the_other_and_not_itself(own, other):
    bench = make_bench()
    batch, seen = bench.batch(), []
    own, other = getattr(bench.method, own), getattr(bench.method, other)
    against_own, against_other = (adversarial(bench, network, batch) for network in (own, other))
    own.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    bench.losses(batch)
    same = [(image - seen[1]).abs().flatten(1).lt(1e-4).float().mean() for image in (against_own, against_other)]
    assert same[0] < 0.9
    assert same[1] > 0.99


def test_an_adversarial_scan_is_one_step_away_and_fools_whom_it_is_made_for():
    bench = make_bench(perturbation=0.5)
    batch, seen = bench.batch(), []
    bench.method.first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    bench.losses(batch)
    clean, against_second = seen
    step = (against_second - clean).abs()
    assert step.max().item() == pytest.approx(0.5, abs=1e-6)
    assert (step > 0.49).float().mean() > 0.9
    with torch.no_grad():
        labelled = against_second[: len(batch.labelled)]
        before, after = (
            bench.problem.supervised_loss(bench.method.second(image), batch.labelled).item()
            for image in (batch.labelled.image, labelled)
        )
    assert after > before


def test_outside_the_scan_nothing_is_changed():
    bench = make_bench()
    batch, seen = bench.batch(), []
    inside = torch.from_numpy(pad_some(batch)).unsqueeze(1)
    for network in networks(bench):
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    bench.losses(batch)
    clean, _, against_second, against_first = seen
    for fooling in (against_first, against_second):
        step = (fooling - clean).abs()
        assert (step * ~inside).max() == 0
        assert (step * inside).max() > 0


def test_making_adversarial_scans_leaves_no_gradient_and_no_change_of_the_batch():
    bench = make_bench()
    batch = bench.batch()
    before = [stream.image.clone() for stream in (batch.labelled, batch.unlabelled)]
    bench.losses(batch)
    assert all(p.grad is None for p in bench.method.parameters())
    for stream, image in zip((batch.labelled, batch.unlabelled), before, strict=True):
        assert torch.equal(stream.image, image)
        assert not stream.image.requires_grad


def test_every_scan_passes_each_network_twice():
    bench = make_bench()
    passes = []
    for network in networks(bench):
        network.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert passes == [4, 4, 4, 4]
    demand = type(bench.method).demand(bench.method.settings)
    assert demand.networks == 2
    assert demand.labelled_forwards == demand.unlabelled_forwards == 4


def test_the_networks_begin_with_different_weights():
    bench = Workbench(NAME)
    pairs = zip(*(network.parameters() for network in networks(bench)), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_the_setting_says_who_predicts():
    assert len(Workbench(NAME, settings={"evaluate": "first"}).method.inference_modules()) == 1
    method = Workbench(NAME).method
    assert method.inference_modules() == (method.first_average, method.second_average)
