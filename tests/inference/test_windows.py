from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from semivox.errors import SettingError
from semivox.inference import windows as module
from semivox.inference.windows import Windows


def convolve(classes: int, channels: int, dimensions: int):
    """A predictor whose answer depends on the place in the patch: a convolution that sees zeros past its border."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn((classes, channels, *[3] * dimensions), generator=generator)
    convolution = conv2d if dimensions == 2 else conv3d
    return lambda patch: convolution(patch, kernel, padding=1).softmax(1)


def slow_run(windows: Windows, function, volume: torch.Tensor) -> np.ndarray:
    """The same by definition: every window by itself, a sum of weighted probabilities over a sum of weights."""
    sizes, window = volume.shape[1:], windows.window
    before = [max(w - n, 0) // 2 for w, n in zip(window, sizes, strict=True)]
    shape = [max(w, n) for w, n in zip(window, sizes, strict=True)]
    inside = tuple(slice(b, b + n) for b, n in zip(before, sizes, strict=True))
    padded = np.zeros((len(volume), *shape), np.float32)
    padded[(slice(None), *inside)] = volume.numpy()
    weights = np.ones(window)
    if windows.weighting == "gaussian":
        for index in np.ndindex(*window):
            z = [(i - (w - 1) / 2) / (w / 8) for i, w in zip(index, window, strict=True)]
            weights[index] = np.exp(-0.5 * np.dot(z, z))
    total, count = 0.0, np.zeros(shape)
    for corner in product(*windows.starts(shape)):
        box = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        patch = torch.from_numpy(padded[(slice(None), *box)])[None]
        if windows.dimensions == 2:
            answer = function(patch.squeeze(windows.slice_axis + 2)).unsqueeze(windows.slice_axis + 2)
        else:
            answer = function(patch)
        if isinstance(total, float):
            total = np.zeros((answer.shape[1], *shape))
        total[(slice(None), *box)] += answer[0].numpy() * weights
        count[box] += weights
    return (total / count)[(slice(None), *inside)]


@pytest.mark.parametrize("weighting", ["gaussian", "uniform"])
@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((20, 13, 17), {"window": (8, 8, 6)}),
        ((9, 11, 30), {"window": (8, 8, 6), "overlap": 0.25}),
        ((14, 9, 12), {"window": (8, 8, 6), "stride": (3, 2, 4)}),
        ((5, 13, 4), {"window": (8, 8, 6)}),
        ((12, 10, 7), {"window": (6, 8, 1), "dimensions": 2}),
        ((6, 12, 10), {"window": (1, 8, 6), "dimensions": 2, "slice_axis": 0}),
    ],
)
def test_run_equals_a_slow_loop_over_windows(shape, settings, batch, weighting):
    windows = Windows(**settings, batch=batch, weighting=weighting)
    volume = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
    function = convolve(3, 2, windows.dimensions)
    result = windows.run(function, volume)
    assert result.shape == (3, *shape)
    np.testing.assert_allclose(result.numpy(), slow_run(windows, function, volume), atol=2e-6)


@pytest.mark.parametrize("shape", [(20, 13, 17), (3, 4, 5), (8, 8, 6)])
def test_a_constant_function_gives_a_constant(shape):
    answer = torch.tensor([0.1, 0.2, 0.7])
    windows = Windows((8, 8, 6))
    result = windows.run(
        lambda patch: answer.view(1, 3, 1, 1, 1).expand(len(patch), 3, *patch.shape[2:]), torch.rand(1, *shape)
    )
    torch.testing.assert_close(result, answer.view(3, 1, 1, 1).expand(3, *shape))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_2d_windows_as_large_as_the_slice_equal_a_call_per_slice(slice_axis):
    volume = torch.randn((1, 7, 8, 9), generator=torch.Generator().manual_seed(2))
    window = [7, 8, 9]
    window[slice_axis] = 1
    function = convolve(2, 1, 2)
    result = Windows(tuple(window), dimensions=2, slice_axis=slice_axis).run(function, volume)
    slices = [function(part[None])[0] for part in volume.unbind(slice_axis + 1)]
    torch.testing.assert_close(result, torch.stack(slices, slice_axis + 1))


def test_starts_follow_the_published_stride_rule():
    # The LA protocol: a 164x164x88 crop under 112x112x80 with strides 18, 18, 4 has 48 windows.
    starts = Windows((112, 112, 80), stride=(18, 18, 4)).starts((164, 164, 88))
    assert starts == ([0, 18, 36, 52], [0, 18, 36, 52], [0, 4, 8])
    assert prod(map(len, starts)) == 48
    # Aggregating & Decoupling steps finely on the first axis instead.
    assert [len(axis) for axis in Windows((112, 112, 80), stride=(4, 16, 16)).starts((130, 140, 88))] == [6, 3, 2]


def test_starts_of_an_overlap_are_evenly_spread_and_overlap_enough():
    assert Windows((10, 10, 10)).starts((10, 24, 31)) == ([0], [0, 5, 9, 14], [0, 4, 8, 13, 17, 21])


def test_flips_give_a_mirror_symmetric_prediction():
    volume = torch.randn((1, 12, 10, 8), generator=torch.Generator().manual_seed(3))
    windows = Windows((6, 6, 8), flips=(0, 2))
    function = convolve(2, 1, 3)
    result = windows.run(function, volume)
    torch.testing.assert_close(windows.run(function, volume.flip(1)), result.flip(1))
    torch.testing.assert_close(windows.run(function, volume.flip(3)), result.flip(3))
    assert not torch.allclose(windows.run(function, volume.flip(2)), result.flip(2))


def test_flips_of_a_2d_network_count_the_axes_of_the_volume():
    volume = torch.randn((1, 4, 10, 8), generator=torch.Generator().manual_seed(3))
    windows = Windows((1, 10, 8), dimensions=2, slice_axis=0, flips=(2,))
    result = windows.run(convolve(2, 1, 2), volume)
    torch.testing.assert_close(windows.run(convolve(2, 1, 2), volume.flip(3)), result.flip(3))


def test_large_results_are_half_precision_and_close(monkeypatch):
    volume = torch.randn((1, 20, 9, 8), generator=torch.Generator().manual_seed(4))
    exact = Windows((8, 8, 8)).run(convolve(2, 1, 3), volume)
    monkeypatch.setattr(module, "HALF_ABOVE_BYTES", 1000)
    half = Windows((8, 8, 8)).run(convolve(2, 1, 3), volume)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-3, rtol=0)


def test_autocast_reaches_the_function_and_the_result_is_float32():
    seen = []

    def function(patch):
        answer = conv3d(patch, torch.ones(2, 1, 1, 1, 1))
        seen.append(answer.dtype)
        return answer.float().softmax(1)

    result = Windows((4, 4, 4), autocast=torch.bfloat16).run(function, torch.rand(1, 4, 4, 4))
    assert seen == [torch.bfloat16]
    assert result.dtype == torch.float32


def test_no_gradient_is_recorded():
    weight = torch.ones(2, 1, 1, 1, 1, requires_grad=True)
    assert not Windows((4, 4, 4)).run(lambda patch: conv3d(patch, weight), torch.rand(1, 6, 4, 4)).requires_grad


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"stride": (9, 1, 1)}, "leaves voxels out"),
        ({"dimensions": 2}, "one slice thick"),
        ({"dimensions": 2, "window": (8, 8, 1), "flips": (2,)}, "slice axis"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        Windows(**{"window": (8, 8, 8), **settings})
