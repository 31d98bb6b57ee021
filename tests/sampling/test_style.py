from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from semivox.planning.demand import Views
from semivox.sampling import style
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.intensity import NoisySettings, StrongSettings
from semivox.sampling.loader import PatchLoader
from semivox.sampling.style import StyleSettings, counterparts, match_histograms, mix_amplitudes, styled
from semivox.sampling.views import ViewSettings, make_batch

SPACES = [(10, 7), (6, 5, 8)]
OFF = {name: 0.0 for name in StrongSettings.model_fields if name.endswith("_probability")}
ALWAYS = StyleSettings(fourier_probability=1, histogram_probability=1)
STILL = ViewSettings(
    weak=WeakSettings(affine_probability=0),
    noisy=NoisySettings(deviation=0),
    strong=StrongSettings(**OFF),
    style=ALWAYS,
)
"""Views that change nothing but the look."""


def pair_of(space, count=3, channels=2):
    """Images and, with another spread and place, the looks they get."""
    random = torch.Generator().manual_seed(0)
    shape = (count, channels, *space)
    images, looks = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return images + 0.3, 3 * looks - 1


def slow_amplitudes(image, look, band, mix):
    """One channel, frequency by frequency."""
    own, other = np.fft.fftn(image), np.fft.fftn(look)
    for place in product(*map(range, image.shape)):
        cycles = [min(k, n - k) / n for k, n in zip(place, image.shape, strict=True)]
        if not any(place):
            own[place] = (1 - mix) * own[place] + mix * other[place]
        elif max(cycles) <= band + 1e-6:
            own[place] *= ((1 - mix) * abs(own[place]) + mix * abs(other[place])) / abs(own[place])
    return np.fft.ifftn(own)


def slow_histogram(image, valid, look, look_valid, mix):
    """One channel, voxel by voxel: the mean rank of its value among all quantiles, then the other's at that rank."""
    levels = np.linspace(0, 1, style.LEVELS)
    own, other = (np.quantile(values[kept], levels) for values, kept in ((image, valid), (look, look_valid)))
    result = np.empty_like(image)
    for place in np.ndindex(image.shape):
        value = image[place]
        equal = np.flatnonzero(own == value)
        if len(equal):
            rank = equal.mean()
        elif value < own[0]:
            rank = 0.0
        elif value > own[-1]:
            rank = style.LEVELS - 1.0
        else:
            low = np.flatnonzero(own < value)[-1]
            rank = low + (value - own[low]) / (own[low + 1] - own[low])
        matched = np.interp(rank, np.arange(style.LEVELS), other)
        result[place] = (1 - mix) * value + mix * matched
    return result


def each_channel(images, function):
    result = np.empty(images.shape)
    for b, c in np.ndindex(images.shape[:2]):
        result[b, c] = function(b, c)
    return torch.from_numpy(result)


@pytest.mark.parametrize("space", SPACES)
def test_amplitudes_are_mixed_frequency_by_frequency(space):
    images, looks = pair_of(space)
    band, mix = (torch.tensor(values, dtype=torch.float64) for values in ([0.12, 0.3, 0.5], [1.0, 0.4, 0.7]))

    def slow(b, c):
        found = slow_amplitudes(images[b, c].numpy(), looks[b, c].numpy(), band[b].item(), mix[b].item())
        assert np.abs(found.imag).max() < 1e-12
        return found.real

    torch.testing.assert_close(mix_amplitudes(images, looks, band, mix), each_channel(images, slow))


def test_an_exchange_of_all_amplitudes_keeps_nothing_but_the_phase():
    images, looks = pair_of((8, 9))
    found = mix_amplitudes(images, looks, torch.full((3,), 0.5), torch.ones(3))
    spectrum, own, other = (torch.fft.fftn(x, dim=(2, 3)) for x in (found, images, looks))
    torch.testing.assert_close(spectrum.abs(), other.abs())
    rest = torch.ones(8, 9, dtype=torch.bool)
    rest[0, 0] = False
    torch.testing.assert_close((spectrum / own)[..., rest].angle(), torch.zeros(3, 2, 71, dtype=torch.float64))
    torch.testing.assert_close(found.mean((2, 3)), looks.mean((2, 3)))


@pytest.mark.parametrize("space", SPACES)
def test_histograms_are_matched_voxel_by_voxel(space):
    images, looks = pair_of(space)
    images[0] = images[0].round()  # many voxels of one value
    images[1] = images[1].clamp_min(0)  # air
    random = torch.Generator().manual_seed(1)
    valid, looks_valid = (torch.rand(3, *space, generator=random) > 0.2 for _ in range(2))
    mix = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)

    def slow(b, c):
        own, other = images[b, c].numpy(), looks[b, c].numpy()
        return slow_histogram(own, valid[b].numpy(), other, looks_valid[b].numpy(), mix[b].item())

    found = match_histograms(images, valid, looks, looks_valid, mix)
    torch.testing.assert_close(found, each_channel(images, slow))


def test_a_matched_image_has_the_quantiles_of_the_look_and_the_order_of_its_own():
    images, looks = pair_of((40, 41), count=1, channels=1)
    valid = torch.ones(1, 40, 41, dtype=torch.bool)
    found = match_histograms(images, valid, looks, valid, torch.ones(1))
    assert distance(found, looks) < 0.02 < distance(images, looks)
    assert (found.flatten()[images.flatten().argsort()].diff() >= 0).all()


def test_quantiles_of_a_large_patch_are_of_voxels_from_all_of_it(monkeypatch):
    images = torch.arange(64 * 64 * 64, dtype=torch.float64).view(1, 1, 64, 64, 64) % 64  # its last axis
    valid = torch.ones(1, 64, 64, 64, dtype=torch.bool)
    found = style.quantiles(images, valid)
    torch.testing.assert_close(
        found, images.quantile(torch.linspace(0, 1, 256).double()).view(1, 1, 256), atol=1, rtol=0
    )
    assert found.unique().numel() == 64


@pytest.mark.parametrize("fill", [0.0, 2.5])
def test_constant_and_empty_images_stay_finite(fill):
    images, looks = torch.full((2, 1, 6, 6), fill), torch.zeros(2, 1, 6, 6)
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    none = torch.zeros_like(valid)
    for own, other in ((valid, valid), (none, valid), (valid, none)):
        found = styled(images, own, looks, other, [1, 2], ALWAYS)
        assert found.isfinite().all()
        if not own.all():
            assert torch.equal(found, images)


def test_what_is_drawn_depends_on_the_sample_alone():
    images, looks = (part.float() for part in pair_of((8, 8), count=4))
    valid = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.1
    settings = StyleSettings(fourier_probability=0.5, histogram_probability=0.5)
    whole = styled(images, valid, looks, valid, [5, 6, 7, 8], settings)
    rows = [slice(0, 2), slice(2, 4)]
    halves = [styled(images[r], valid[r], looks[r], valid[r], [5, 6, 7, 8][r], settings) for r in rows]
    assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(whole[:, :, ~valid[0]][0], images[:, :, ~valid[0]][0])
    changed = [not torch.equal(one, other) for one, other in zip(whole, images, strict=True)]
    assert any(changed)


@pytest.mark.parametrize(
    ("count", "others", "clip", "expected"),
    [
        (4, 4, 1, [0, 1, 2, 3]),
        (4, 2, 1, [0, 0, 1, 1]),
        (2, 4, 1, [0, 2]),
        (6, 3, 3, [0, 1, 2, 0, 1, 2]),
        (4, 8, 2, [0, 1, 4, 5]),
    ],
)
def test_counterparts_have_the_same_place(count, others, clip, expected):
    assert counterparts(count, others, clip).tolist() == expected


def batch_of(world, plan, views, settings=STILL, rank=0, ranks=1, batch=(4, 4), patch=(8, 8, 6)):
    dataset, store = world(labelled=4, unlabelled=4)
    images = {case.id: np.random.default_rng(i).normal(i, 1 + i, (2, 20, 18, 13)) for i, case in enumerate(dataset)}
    store.image = lambda case: images[case].astype(np.float32)
    store.shapes = dict.fromkeys(store.shapes, (20, 18, 13))
    labelled, unlabelled = batch
    plan = plan(patch, labelled=labelled, unlabelled=unlabelled)
    loader = PatchLoader(store, dataset, plan, views, 3, rank, ranks, settings=settings)
    return make_batch(loader[1], views, "cpu", settings)


def distance(images, looks):
    """Mean distance of voxels of equal rank, in standard deviations of the look."""
    own, other = (view.flatten(2).sort(-1).values for view in (images, looks))
    return ((own - other).abs().mean(-1) / other.std(-1)).max()


BOTH = Views(labelled=("weak", "plain", "strong"), unlabelled=("weak", "strong", "strong"))


def test_labelled_samples_get_the_look_of_unlabelled_ones_and_strong_views_that_of_labelled_ones(world, plan):
    plain = batch_of(world, plan, BOTH, STILL.model_copy(update={"style": StyleSettings()}))
    exact = StyleSettings(histogram_probability=1, histogram_mix=(1, 1))
    found = batch_of(world, plan, BOTH, STILL.model_copy(update={"style": exact}))
    assert distance(found.labelled.image, plain.unlabelled.image) < 0.05
    assert torch.equal(found.labelled.views[2], found.labelled.image), "one look for all views of a labelled sample"
    assert torch.equal(found.labelled.views[1], plain.labelled.views[1]), "plain is plain"
    assert torch.equal(found.unlabelled.image, plain.unlabelled.image), "the weak view keeps its own look"
    assert distance(found.unlabelled.views[1], plain.labelled.image) < 0.05
    assert torch.equal(found.labelled.label, plain.labelled.label)


def test_two_strong_views_draw_looks_of_their_own(world, plan):
    views = batch_of(world, plan, BOTH).unlabelled.views
    assert not torch.equal(views[1], views[2])


def test_labelled_samples_can_keep_their_look(world, plan):
    style = ALWAYS.model_copy(update={"labelled": False})
    found = batch_of(world, plan, BOTH, STILL.model_copy(update={"style": style}))
    plain = batch_of(world, plan, BOTH, STILL.model_copy(update={"style": StyleSettings()}))
    assert torch.equal(found.labelled.image, plain.labelled.image)
    assert not torch.equal(found.labelled.views[2], plain.labelled.views[2]), "strong views always get one"


def test_without_unlabelled_samples_neighbours_lend_their_look(world, plan):
    style = STILL.model_copy(update={"style": StyleSettings(histogram_probability=1, histogram_mix=(1, 1))})
    found = batch_of(world, plan, Views(), style).labelled.image
    plain = batch_of(world, plan, Views(), STILL.model_copy(update={"style": StyleSettings()})).labelled.image
    assert distance(found, plain[[1, 0, 3, 2]]) < 0.05


@pytest.mark.parametrize("batch", [(4, 4), (4, 8), (8, 4)])
def test_two_ranks_get_the_looks_of_one(world, plan, batch):
    whole = batch_of(world, plan, BOTH, batch=batch)
    halves = [batch_of(world, plan, BOTH, batch=batch, rank=rank, ranks=2) for rank in (0, 1)]
    for name in ("labelled", "unlabelled"):
        for place, view in enumerate(getattr(whole, name).views):
            assert torch.equal(view, torch.cat([getattr(half, name).views[place] for half in halves])), name


def test_slices_of_a_clip_share_what_is_drawn(world, plan):
    views = Views(labelled=("weak",), unlabelled=("strong",), clip=2)
    found = batch_of(world, plan, views, batch=(2, 2), patch=(8, 8)).unlabelled
    assert found.clip.tolist() == [0, 0, 1, 1]
    assert found.seeds[0] == found.seeds[1]
    assert found.image.isfinite().all()


@pytest.mark.parametrize(
    "settings", [{"fourier_mix": (-0.1, 1)}, {"histogram_mix": (0.5, 1.5)}, {"fourier_band": (0, 0.1)}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        StyleSettings(**settings)
