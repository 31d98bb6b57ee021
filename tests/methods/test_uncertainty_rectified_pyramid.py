import itertools

import numpy as np
import pytest
import torch

from semivox.errors import SettingError
from semivox.methods.problem import Problem
from semivox.methods.uncertainty_rectified_pyramid import UncertaintyRectifiedPyramid
from semivox.planning.plan import NetworkChoice
from semivox.sampling.features import channel_dropout, dropout, feature_drop, feature_noise
from semivox.testing.phantom import tiny_plan
from semivox.testing.workbench import Workbench

RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""
NAME = "uncertainty_rectified_pyramid"
SEEDS = (3, 4)


def with_network(dimensions: int, name: str | None = None, **settings) -> UncertaintyRectifiedPyramid:
    """The method with another network than the workbench's."""
    plan = tiny_plan(dimensions, dropout=False)
    choice = plan.network.model_copy(update={"settings": {**plan.network.settings, **settings}})
    if name is not None:
        choice = NetworkChoice(name=name, settings=settings)
    problem = Problem(
        plan=plan.model_copy(update={"network": choice}),
        channels=1,
        labels=Workbench("supervised").problem.labels,
        requires=UncertaintyRectifiedPyramid.requires,
    )
    method = UncertaintyRectifiedPyramid()
    method.build(problem)
    return method


def upsampled(logits: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """(B, K, *coarse) at full size: the nearest voxel in 2-D, linear between the centres of voxels in 3-D."""
    for axis, size in enumerate(space, start=2):
        coarse = logits.shape[axis]
        if len(space) == 2:
            logits = logits.take(np.arange(size) * coarse // size, axis)
        else:
            places = (np.arange(size) + 0.5) * coarse / size - 0.5
            logits = np.apply_along_axis(lambda row, at=places: np.interp(at, np.arange(len(row)), row), axis, logits)
    return logits


def disturbances(dimensions: int):
    """What the paper's code does to the maps before the heads, coarse to fine."""
    if dimensions == 2:
        return [
            lambda x, seeds: dropout(x, seeds, 0.5),
            lambda x, seeds: feature_drop(x, seeds, (0.7, 0.9)),
            lambda x, seeds: feature_noise(x, seeds, 0.3),
            lambda x, seeds: x,
        ]
    return [
        lambda x, seeds, p=p, draw=draw: channel_dropout(x, seeds, p, draw)
        for draw, p in enumerate((0.5, 0.3, 0.2, 0.1))
    ]


def slow_consistency(logits: list[np.ndarray], valid: np.ndarray) -> float:
    odds = [np.exp(z) for z in logits]
    scales = [e / e.sum(1, keepdims=True) for e in odds]
    total = 0.0
    for p in scales:
        squares, weights, divergences = [], [], []
        for b, *voxel in itertools.product(*(range(n) for n in valid.shape)):
            if not valid[(b, *voxel)]:
                continue
            at = (b, slice(None), *voxel)
            mean = sum(q[at] for q in scales) / len(scales)
            divergences.append(sum(mean * np.log(mean / p[at])))
            weights.append(np.exp(-divergences[-1]))
            squares.append(np.mean((mean - p[at]) ** 2) * weights[-1])
        total += np.sum(squares) / np.sum(weights) + np.mean(divergences)
    return total / len(scales)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_consistency_equals_a_slow_version(dimensions):
    bench = Workbench(NAME, dimensions, settings={"consistency_weight": 0.7}, dropout=False).decide()
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    method, image = bench.method, batch.unlabelled.image
    assert len(method.perturbations) == 2
    first, last = disturbances(dimensions)[0], disturbances(dimensions)[-1]
    with torch.no_grad():
        coarse, fine = method.network.decode(method.network.encode(image))
        logits = [
            method.coarse_heads[0](first(coarse, batch.unlabelled.seeds)),
            method.network.head(last(fine, batch.unlabelled.seeds)),
        ]
    full = [upsampled(z.double().numpy(), image.shape[2:]) for z in logits]
    expected = 0.7 * RAMP * slow_consistency(full, batch.unlabelled.valid.numpy())
    assert bench.losses(batch)["consistency"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_of_four_scales_has_a_head_its_disturbance_and_full_size(dimensions):
    method = with_network(dimensions, levels=6, width=2)
    image = torch.randn(2, 1, *(64, 64, 32)[:dimensions], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scales = method.pyramid(image, SEEDS)
        maps = method.network.decode(method.network.encode(image))
    assert len(maps) == 5
    heads = [*method.coarse_heads, method.network.head]
    for logits, head, features, disturb in zip(scales, heads, maps[1:], disturbances(dimensions), strict=True):
        with torch.no_grad():
            expected = upsampled(head(disturb(features, SEEDS)).numpy(), image.shape[2:])
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_heads_have_no_dropout_beside_the_pyramids_own(dimensions):
    method = with_network(dimensions, name="vnet", dropout=0.5, levels=4, width=4).train()
    maps = [torch.ones(1, channels, *[4] * dimensions) for channels in method.network.map_channels]
    heads = [*method.coarse_heads, method.network.head]
    assert len(heads) == len(maps)
    for head, features in zip(heads, maps, strict=True):
        assert torch.equal(head(features), head(features))
    assert method.network.encoder.dropout.p == 0.5


def test_every_scale_is_supervised_at_full_resolution():
    bench = Workbench(NAME, dropout=False)
    batch = bench.batch()
    seeds = batch.labelled.seeds + batch.unlabelled.seeds
    scales = bench.method.pyramid(torch.cat([batch.labelled.image, batch.unlabelled.image]), seeds)
    expected = [bench.problem.supervised_loss(logits[: len(batch.labelled)], batch.labelled) for logits in scales]
    torch.testing.assert_close(bench.losses(batch)["supervised"], sum(expected) / 2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_prediction_is_the_finest_head_undisturbed(dimensions):
    bench = Workbench(NAME, dimensions)
    bench.train_step(bench.batch())
    bench.method.eval()
    image = bench.batch().unlabelled.image
    network = bench.method.average.module
    with torch.no_grad():
        expected = network.head(network.decode(network.encode(image))[-1]).softmax(1)
        torch.testing.assert_close(bench.method.predict(image, "default"), expected)


def test_a_network_with_one_decoder_scale_is_refused_with_the_mend():
    with pytest.raises(SettingError, match=r"network 'unet' has one decoder scale.*plan\.network\.settings"):
        with_network(2, levels=2)


def test_a_closed_network_is_refused():
    with pytest.raises(SettingError, match="cannot give features, head, maps"):
        with_network(2, name="monai:UNet")
