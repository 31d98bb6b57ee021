import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from semivox.sampling import intensity
from semivox.sampling.intensity import NoisySettings, StrongSettings

SPACES = [(13, 10), (9, 8, 7)]
OFF = {name: 0.0 for name in StrongSettings.model_fields if name.endswith("_probability")}


def images_of(space, channels=2, count=3):
    return torch.randn(count, channels, *space, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1


def each_channel(images, function):
    """The same with a NumPy function of (array, sample, channel), one channel at a time."""
    result = np.empty(images.shape)
    for b, sample in enumerate(images.numpy()):
        for c, channel in enumerate(sample):
            result[b, c] = function(channel, b, c)
    return torch.from_numpy(result)


@pytest.mark.parametrize("space", SPACES)
def test_brightness_adds_deviations(space):
    images, shift = images_of(space), torch.tensor([[0.5, -0.5], [0.0, 1.0], [2.0, 0.1]], dtype=torch.float64)
    expected = each_channel(images, lambda x, b, c: x + shift[b, c].item() * x.std())
    torch.testing.assert_close(intensity.brightness(images, shift), expected)


@pytest.mark.parametrize("space", SPACES)
def test_contrast_scales_about_the_mean(space):
    images, factor = images_of(space), torch.tensor([[0.5, 1.0], [1.5, 2.0], [0.1, 0.9]], dtype=torch.float64)
    expected = each_channel(images, lambda x, b, c: (x - x.mean()) * factor[b, c].item() + x.mean())
    torch.testing.assert_close(intensity.contrast(images, factor), expected)


@pytest.mark.parametrize("space", SPACES)
def test_gamma_bends_intensities_within_their_range(space):
    images, exponent = images_of(space), torch.tensor([[0.5, 1.0], [1.5, 2.0], [0.7, 0.9]], dtype=torch.float64)
    inverted = torch.tensor([False, True, True])

    def bent(x, b, c):
        scaled = (x - x.min()) / (x.max() - x.min())
        power = exponent[b, c].item()
        scaled = 1 - (1 - scaled) ** power if inverted[b] else scaled**power
        return scaled * (x.max() - x.min()) + x.min()

    torch.testing.assert_close(intensity.gamma(images, exponent, inverted), each_channel(images, bent))


def test_a_constant_image_survives_every_change():
    images = torch.full((4, 1, 8, 8), 3.0)
    settings = StrongSettings(**dict.fromkeys(OFF, 1.0))
    result = intensity.strong(images, [1, 2, 3, 4], [1, 2, 3, 4], (0, 1), settings)
    torch.testing.assert_close(result, images)


@pytest.mark.parametrize("space", SPACES)
def test_blur_is_a_gaussian_normalised_at_the_border(space):
    images, deviation = images_of(space), torch.tensor([0.0, 0.6, 1.5], dtype=torch.float64)
    axes = tuple(range(len(space)))

    def blurred(x, b, c):
        sigma = deviation[b].item()
        if sigma == 0:
            return x
        ones = np.ones_like(x)
        smooth = [ndimage.gaussian_filter(y, sigma, mode="constant", truncate=12) for y in (x, ones)]
        return smooth[0] / smooth[1]

    torch.testing.assert_close(intensity.blur(images, deviation, axes), each_channel(images, blurred))


def test_blur_leaves_the_other_axes_alone():
    images = torch.zeros(1, 1, 5, 5, 5)
    images[0, 0, 2, 2, 2] = 1
    result = intensity.blur(images, torch.tensor([1.0]), (0, 1))
    assert (result[..., 2] > 0).all()
    assert (result[..., [0, 1, 3, 4]] == 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_low_resolution_keeps_nearest_voxels_and_interpolates(space):
    images, share = images_of(space), torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64)
    axes = tuple(range(len(space)))

    def coarse(x, b, c):
        for axis, size in enumerate(space):
            kept = int(np.clip(np.rint(share[b].item() * size), 1, size))
            low = np.take(x, [int((k + 0.5) * size / kept) for k in range(kept)], axis)
            place = (np.arange(size) + 0.5) * kept / size - 0.5
            x = np.apply_along_axis(lambda line, p=place, k=kept: np.interp(p, np.arange(k), line), axis, low)
        return x

    result = intensity.low_resolution(images, share, axes)
    torch.testing.assert_close(result, each_channel(images, coarse))
    torch.testing.assert_close(result[0], images[0])
    assert not torch.allclose(result[1], images[1])


def test_low_resolution_of_one_voxel_is_constant():
    images = images_of((6, 5))
    result = intensity.low_resolution(images, torch.full((3,), 0.01, dtype=torch.float64), (0, 1))
    torch.testing.assert_close(result, images[..., 3:4, 2:3].expand_as(images))


@pytest.mark.parametrize("space", [(60, 50), (20, 15, 10)])
def test_clipped_noise_stays_within_its_limit(space):
    images = torch.zeros(2, 1, *space)
    noise = intensity.clipped_noise(images, (1, 2), 0.1, 0.2)
    assert noise.abs().max() == pytest.approx(0.2)
    # The deviation of a normal variable of 0.1 cut at two deviations: 0.1 · sqrt(0.9206).
    assert noise.std().item() == pytest.approx(0.0959, abs=0.003)
    assert not torch.equal(noise[0], noise[1])


def test_relative_noise_follows_the_spread_of_each_channel():
    images = images_of((64, 64)).float()
    images[:, 1] *= 10
    noise = intensity.relative_noise(images, (1, 2, 3), torch.tensor([0.0, 0.1, 0.5])) - images
    ratio = noise.std((2, 3)) / images.std((2, 3))
    torch.testing.assert_close(ratio, torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.5, 0.5]]), atol=0.01, rtol=0)


@pytest.mark.parametrize("space", SPACES)
def test_strong_view_of_a_sample_does_not_depend_on_its_batch(space):
    images = images_of(space, count=8).float()
    seeds = list(range(8))
    axes = tuple(range(len(space)))
    together = intensity.strong(images, seeds, seeds, axes, StrongSettings())
    halves = [
        intensity.strong(images[i : i + 4], seeds[i : i + 4], seeds[i : i + 4], axes, StrongSettings()) for i in (0, 4)
    ]
    assert torch.equal(together, torch.cat(halves))
    assert together.isfinite().all()


def test_strong_view_leaves_its_input_and_unlucky_samples_alone():
    images = images_of((8, 8), count=60).float()
    before = images.clone()
    result = intensity.strong(
        images, range(60), range(60), (0, 1), StrongSettings(**{**OFF, "contrast_probability": 0.5})
    )
    assert torch.equal(images, before)
    changed = (result != images).flatten(1).any(1)
    assert 15 < changed.sum() < 45
    assert torch.equal(result[~changed], images[~changed])


@pytest.mark.parametrize("name", sorted(OFF))
def test_each_change_is_switched_by_its_own_probability(name):
    images = images_of((8, 8)).float()
    settings = StrongSettings(**{**OFF, name: 1.0, "resolution": (0.4, 0.6)})
    result = intensity.strong(images, [1, 2, 3], [1, 2, 3], (0, 1), settings)
    assert (result != images).flatten(1).any(1).all()


def test_no_change_at_all_with_all_probabilities_zero():
    images = images_of((8, 8)).float()
    assert torch.equal(intensity.strong(images, [1, 2, 3], [1, 2, 3], (0, 1), StrongSettings(**OFF)), images)


@pytest.mark.parametrize(
    "wrong", [{"gamma": (0, 1)}, {"noise": (0.2, 0.1)}, {"resolution": (0.5, 2)}, {"blur_voxels": (-1, 1)}, {"hue": 1}]
)
def test_impossible_strengths_are_refused(wrong):
    with pytest.raises(ValidationError):
        StrongSettings(**wrong)


def test_noise_cannot_have_a_negative_width():
    with pytest.raises(ValidationError):
        NoisySettings(deviation=-0.1)
