import builtins

import numpy as np
import pytest
import torch

from semivox.data.volume import Grid
from semivox.inference.postprocessing import keep_largest_component, keep_largest_components, slice_axis


@pytest.fixture(params=["cc3d", "scipy"])
def library(request, monkeypatch):
    """Both ways to find components: the extra where it is installed, and scipy as when it is not."""
    if request.param == "cc3d":
        pytest.importorskip("cc3d")
        return
    real = builtins.__import__

    def without_cc3d(name, *arguments, **named):
        if name == "cc3d":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_cc3d)


def slow_components(mask):
    """Components by flood fill, corners connect."""
    left, components = {tuple(map(int, voxel)) for voxel in np.argwhere(mask)}, []
    while left:
        front, component = [min(left)], set()
        left.remove(front[0])
        while front:
            voxel = front.pop()
            component.add(voxel)
            near = {other for other in left if all(abs(a - b) <= 1 for a, b in zip(voxel, other, strict=True))}
            left -= near
            front += near
        components.append(component)
    return components


def test_each_class_keeps_its_largest_component(library):
    classes = np.zeros((8, 6, 5), np.uint8)
    classes[0:2, 0:2, 0:2] = 1
    classes[4, 4, 4] = 1
    classes[5:8, 0:2, 0:1] = 2
    classes[0, 5, 0:2] = 2
    expected = classes.copy()
    expected[4, 4, 4] = 0
    expected[0, 5, 0:2] = 0
    np.testing.assert_array_equal(keep_largest_component(classes), expected)
    assert classes[4, 4, 4] == 1, "the input stays as it was"


@pytest.mark.parametrize("shape", [(7, 6, 5), (12, 9, 1)])
def test_components_agree_with_a_flood_fill(library, shape):
    for seed in range(5):
        mask = np.random.default_rng(seed).random(shape) < 0.15
        sizes = sorted(len(component) for component in slow_components(mask))
        kept = keep_largest_component(mask.astype(np.uint8))
        assert kept.sum() == sizes[-1]
        assert [len(component) for component in slow_components(kept)] == [sizes[-1]]
        assert not (kept.astype(bool) & ~mask).any()


def test_voxels_that_share_a_corner_are_connected(library):
    classes = np.zeros((4, 4, 4), np.uint8)
    classes[0, 0, 0] = classes[1, 1, 1] = classes[3, 3, 3] = 1
    assert np.argwhere(keep_largest_component(classes)).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_an_empty_map_stays_empty(library):
    assert not keep_largest_component(np.zeros((4, 4, 4), np.uint8)).any()


@pytest.mark.parametrize("shape", [(1, 11, 1), (7, 1, 1), (1, 1, 6), (3, 3, 1)])
def test_thin_masks_have_components_too(library, shape):
    for seed in range(60):
        mask = np.random.default_rng(seed).random(shape) < 0.5
        sizes = sorted(len(component) for component in slow_components(mask))
        assert keep_largest_component(mask.astype(np.uint8)).sum() == sum(sizes[-1:])


@pytest.mark.parametrize("space", [(9, 8), (7, 6, 5)])
def test_each_sample_of_a_batch_keeps_its_own_components(space):
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (4, *space), generator=generator) * (torch.rand(4, *space, generator=generator) < 0.4)
    kept = keep_largest_components(classes)
    assert kept.dtype == torch.int64
    assert not torch.equal(kept, classes)
    for one, found in zip(classes, kept, strict=True):
        volume = one.numpy() if len(space) == 3 else one.numpy()[..., None]
        assert np.array_equal(found.numpy().reshape(volume.shape), keep_largest_component(volume))


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "axis"),
    [
        ((9, 8, 7), (1, 1, 5), 2),
        ((9, 8, 7), (1, 4, 1), 1),
        ((9, 8, 7), (1, 1, 0.5), 1),
        ((9, 8, 7), (1, 1.0001, 1), 2),
        ((9, 8, 1), (1, 1, 0.1), 2),
    ],
)
def test_slices_lie_across_the_coarsest_axis(shape, spacing_mm, axis):
    assert slice_axis(Grid(shape, np.diag([*spacing_mm, 1.0]))) == axis
