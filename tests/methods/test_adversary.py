import numpy as np
import pytest
import torch

from semivox.methods.adversary import Adversary, AdversarySettings
from semivox.testing import Workbench

NAMES = ("adversarial", "shape_aware")
methods = pytest.mark.parametrize("name", NAMES)
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make(dimensions=2, **settings):
    """An adversary on maps of three channels, a batch of 2 + 2 with padding, and maps of both streams."""
    bench = Workbench("adversarial", dimensions)
    batch = bench.batch()
    batch.unlabelled.valid[0, :6] = False
    batch.labelled.valid[1] = False
    torch.manual_seed(0)
    adversary = Adversary(bench.problem, 3, AdversarySettings(**settings))
    return adversary, batch, torch.rand(4, 3, *batch.labelled.image.shape[2:])


def slow(adversary, maps, streams, origins):
    """Sample by sample: -ln of the softmax at the origin, weighed by the share of voxels that are no padding."""
    total = weight = 0.0
    rows = [(stream, row, origin) for stream, origin in zip(streams, origins, strict=True) for row in range(2)]
    for own, (stream, row, origin) in zip(maps, rows, strict=True):
        valid = stream.valid[row]
        with torch.no_grad():
            z = adversary.discriminator((own * valid)[None], (stream.image[row] * valid)[None])[0].double().numpy()
        total += valid.float().mean().item() * (np.log(np.exp(z).sum()) - z[origin])
        weight += valid.float().mean().item()
    return total / weight


@in_2d_and_3d
def test_suspicion_is_the_cross_entropy_of_being_taken_for_labelled(dimensions):
    adversary, batch, maps = make(dimensions)
    expected = slow(adversary, maps[2:], [batch.unlabelled], [0])
    assert adversary.suspicion(maps[2:], batch.unlabelled).item() == pytest.approx(expected, rel=1e-4)


@in_2d_and_3d
def test_confusion_is_the_cross_entropy_of_the_true_origins(dimensions):
    adversary, batch, maps = make(dimensions, discriminator_dropout=0)
    expected = slow(adversary, maps, [batch.labelled, batch.unlabelled], [0, 1])
    assert adversary.confusion(maps, batch).item() == pytest.approx(expected, rel=1e-4)


def test_suspicion_teaches_who_made_the_maps_and_leaves_the_discriminator_alone():
    adversary, batch, maps = make()
    maps.requires_grad_()
    adversary.suspicion(maps[2:], batch.unlabelled).backward()
    assert maps.grad[2:].abs().max() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in adversary.parameters())
    adversary.confusion(maps.detach(), batch).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adversary.parameters())


def test_channels_are_dropped_only_while_the_discriminator_learns_and_by_the_samples_seeds():
    adversary, batch, maps = make(discriminator_dropout=0.9)
    once, again = (adversary.confusion(maps, batch) for _ in range(2))
    assert once == again
    assert once.item() != pytest.approx(slow(adversary, maps, [batch.labelled, batch.unlabelled], [0, 1]), rel=1e-3)
    expected = slow(adversary, maps[2:], [batch.unlabelled], [0])
    assert adversary.suspicion(maps[2:], batch.unlabelled).item() == pytest.approx(expected, rel=1e-4)
    batch.labelled.seeds = tuple(seed + 1 for seed in batch.labelled.seeds)
    assert adversary.confusion(maps, batch) != once


def test_a_discriminator_learns_to_tell_streams_apart_however_many_samples_each_has():
    adversary, batch, maps = make(discriminator_dropout=0)
    batch.labelled = batch.labelled[:1]
    batch.labelled.valid[:] = True
    maps = maps[1:]
    maps[1:] += 1
    optimiser = torch.optim.Adam(adversary.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = adversary.confusion(maps, batch)
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    assert adversary.suspicion(maps[1:], batch.unlabelled) > 1


@methods
@in_2d_and_3d
def test_segmenter_and_discriminator_step_in_turns_each_with_its_own_weights(name, dimensions):
    bench = Workbench(name, dimensions)
    batch, method = bench.batch(), bench.method
    order = []
    for optimiser, function in method.steps(batch, bench.clock):
        terms = function()
        terms = terms if isinstance(terms, dict) else next(terms)
        order.append((optimiser, sorted(terms)))
        method.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        reached = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
        assert reached == ({"adversary"} if optimiser == "discriminator" else reached - {"adversary"})
    own = (
        ["adversarial", "supervised", "supervised_distance"] if name == "shape_aware" else ["adversarial", "supervised"]
    )
    assert order == [("main", own), ("discriminator", ["discriminator"])]


@methods
@in_2d_and_3d
def test_the_discriminator_sees_what_the_new_segmenter_makes_in_evaluation_mode(name, dimensions, monkeypatch):
    bench = Workbench(name, dimensions, settings={"discriminator_dropout": 0})
    batch, method = bench.batch(), bench.method
    seen = []
    monkeypatch.setattr(method.adversary, "confusion", lambda maps, batch: seen.append(maps) or maps.sum())
    (_, first), (_, second) = method.steps(batch, bench.clock)
    next(first())
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter += 0.1 * parameter.abs().mean()
    buffers = {key: value.clone() for key, value in method.network.named_buffers()}
    second()
    assert method.training
    assert method.network.training
    assert all(torch.equal(value, buffers[key]) for key, value in method.network.named_buffers())
    method.eval()
    with torch.no_grad():
        penultimate = method.network.decode(
            method.network.encode(torch.cat([batch.labelled.image, batch.unlabelled.image]))
        )[-1]
        if name == "shape_aware":
            expected = method.distance_head(penultimate).tanh()
        else:
            expected = method.network.head(penultimate).softmax(1)
    torch.testing.assert_close(seen[0], expected)
    assert not seen[0].requires_grad


@methods
def test_the_discriminators_optimiser_is_the_published_one(name):
    bench = Workbench(name)
    main, other = bench.method.optimisers()
    assert (other.kind, other.learning_rate, other.betas) == ("adam", 1e-4, (0.9, 0.99))
    assert (other.weight_decay, other.schedule) == (0.0, "constant")
    assert (main.kind, main.learning_rate, main.schedule) == (None, None, None)


@methods
def test_the_published_discriminator_is_built(name):
    bench = Workbench(name, 3)
    maps = bench.problem.classes - (name == "shape_aware")
    discriminator = bench.method.adversary.discriminator
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 11_020_290 + (maps - 1) * 64 * 64
    assert bench.method.inference_modules() == (bench.method.average,)
