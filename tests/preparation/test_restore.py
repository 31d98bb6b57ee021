import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from semivox.data.labels import IGNORE
from semivox.data.volume import Grid, Volume
from semivox.errors import DataError
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.resampling import resample
from semivox.preparation.restore import restore_labels, restore_map, restore_probabilities
from semivox.preparation.settings import Normalisation, Preparation

ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
AS_IT_IS = Preparation(normalisation=(Normalisation(),))


def grid_of(shape, axes=(0, 1, 2), signs=(1, 1, 1), spacing=(1.0, 1.0, 1.0), oblique=False):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[axes[axis], axis] = signs[axis] * spacing[axis]
    affine[:3, 3] = (-40.0, 12.5, 8.0)
    if oblique:
        c, s = np.cos(0.4), np.sin(0.4)
        affine = np.array([[c, -s, 0, 3], [s, c, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1.0]]) @ affine
    return Grid(shape, affine)


def body(shape, margin=2, seed=0):
    """A scan (1, X, Y, Z) with a constant background round its body."""
    values = np.zeros(shape, np.int16)
    inside = tuple(slice(margin, -margin) for _ in range(3))
    values[inside] = np.random.default_rng(seed).integers(1, 500, values[inside].shape)
    return values[None]


def organs(shape, spacing=(1.0, 1.0, 1.0)):
    """Two touching, tilted ellipsoids, some 60 x 45 x 40 mm: classes 1 and 2 in a background."""
    points = np.stack(
        np.meshgrid(*(step * np.arange(n) for n, step in zip(shape, spacing, strict=True)), indexing="ij")
    )
    label = np.zeros(shape, np.uint8)
    for index, centre, tilt in [(1, (36, 30, 24), 0.5), (2, (62, 58, 40), -0.7)]:
        x, y, z = (axis - middle for axis, middle in zip(points, centre, strict=True))
        x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        label[(x / 30) ** 2 + (y / 22) ** 2 + ((z + 0.2 * x) / 19) ** 2 < 1] = index
    return label


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def one_hot(classes, count):
    return (np.arange(count).reshape(-1, 1, 1, 1) == classes).astype(np.float32)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_label_comes_back_exactly_in_every_orientation(axes, signs, oblique):
    shape = (9, 11, 13)
    grid = grid_of(shape, axes, signs, (0.7, 1.2, 2.5), oblique)
    image, placement = prepare_image(Volume(body(shape), grid), AS_IT_IS)
    assert image.shape[1:] == tuple(n - 4 for n in np.array(shape)[np.argsort(axes)])
    label = np.zeros(shape, np.uint8)
    label[2:-2, 2:-2, 2:-2] = np.random.default_rng(1).choice([0, 1, 2, IGNORE], (5, 7, 9))
    prepared = prepare_label(label, placement, AS_IT_IS)
    assert (restore_labels(prepared, placement) == label).all()
    prepared[prepared == IGNORE] = 3
    label[label == IGNORE] = 3
    assert (restore_probabilities(one_hot(prepared, 4), placement) == label).all()
    numbers = np.where(label == 0, 0, np.random.default_rng(2).normal(size=shape)).astype(np.float32)
    assert (restore_map(placement.region(numbers), placement) == numbers).all()
    assert placement.source_grid.shape == shape
    assert (placement.source_grid.affine == grid.affine).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_a_label_on_any_border_of_scan_and_body_survives(axis, side):
    for margin in (0, 2):
        shape = (8, 9, 10)
        values = body(shape, margin) if margin else np.random.default_rng(0).integers(1, 9, (1, *shape))
        _, placement = prepare_image(Volume(values, grid_of(shape, (2, 0, 1), (-1, 1, -1))), AS_IT_IS)
        label = np.zeros(shape, np.uint8)
        np.moveaxis(label[tuple(slice(margin, n - margin) for n in shape)], axis, 0)[side] = 1
        assert (restore_labels(prepare_label(label, placement, AS_IT_IS), placement) == label).all()


@given(
    st.permutations(range(3)),
    st.tuples(*(st.sampled_from((1, -1)) for _ in range(3))),
    st.tuples(*(st.integers(1, 9) for _ in range(3))),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_preparing_restoring_and_preparing_again_is_the_identity(axes, signs, shape, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (1, *shape))
    _, placement = prepare_image(Volume(values, grid_of(shape, axes, signs)), AS_IT_IS)
    prepared = rng.integers(0, 4, placement.shape).astype(np.uint8)
    restored = restore_labels(prepared, placement)
    assert restored.shape == shape
    assert np.count_nonzero(restored) == np.count_nonzero(prepared)
    assert (prepare_label(restored, placement, AS_IT_IS) == prepared).all()


@pytest.mark.parametrize("target", [0.8, 1.3, (0.8, 1.3, None), (1.3, 1.3, 1.0)])
def test_organs_keep_their_shape_through_another_spacing(target):
    spacing = target if isinstance(target, tuple) else (target,) * 3
    plan = AS_IT_IS.model_copy(update={"spacing_mm": spacing})
    shape = (96, 90, 64)
    label = organs(shape)
    _, placement = prepare_image(Volume(label[None].astype(np.int16), grid_of(shape, (1, 0, 2), (1, -1, -1))), plan)
    prepared = prepare_label(label, placement, plan)
    assert prepared.shape == placement.shape != placement.cropped_shape
    shares = [resample(np.ascontiguousarray(mask), placement.shape, 1) for mask in placement.region(one_hot(label, 3))]
    by_label = restore_labels(prepared, placement)
    by_probability = restore_probabilities(np.stack(shares).astype(np.float16), placement)
    for restored in (by_label, by_probability):
        for index in (1, 2):
            assert dice(restored == index, label == index) >= 0.99


def test_organs_in_thick_slices_keep_their_shape():
    plan = AS_IT_IS.model_copy(update={"spacing_mm": (1.0, 1.0, 2.5), "coarse_axis": 2})
    shape, spacing = (77, 72, 13), (1.25, 1.25, 5.0)
    label = organs(shape, spacing)
    _, placement = prepare_image(Volume(label[None].astype(np.int16), grid_of(shape, spacing=spacing)), plan)
    restored = restore_labels(prepare_label(label, placement, plan), placement)
    assert placement.shape[2] == 2 * placement.cropped_shape[2]
    for index in (1, 2):
        assert dice(restored == index, label == index) >= 0.99


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_are_interpolated_before_they_are_compared(dtype):
    plan = AS_IT_IS.model_copy(update={"spacing_mm": (1.4, 0.9, 0.7)})
    shape = (70, 30, 25)
    _, placement = prepare_image(Volume(body(shape), grid_of(shape)), plan)
    rng = np.random.default_rng(0)
    probabilities = np.stack([gaussian_filter(rng.normal(size=placement.shape), 2) for _ in range(4)]).astype(dtype)
    factors = [after / before for before, after in zip(placement.shape, placement.cropped_shape, strict=True)]
    full = np.stack([zoom(p.astype(float), factors, order=1, mode="nearest", grid_mode=True) for p in probabilities])
    clear = np.diff(np.sort(full, axis=0)[-2:], axis=0)[0] > 1e-6
    restored = restore_probabilities(probabilities, placement)
    assert clear.mean() > 0.99
    assert (placement.region(restored) == full.argmax(axis=0))[clear].all()
    assert np.count_nonzero(restored) == np.count_nonzero(placement.region(restored))
    first = restore_map(probabilities[0], placement, outside=-9)
    assert np.allclose(placement.region(first), full[0], atol=1e-6)
    assert (first == -9).sum() == first.size - full[0].size


def test_ties_between_probabilities_go_to_the_lower_class():
    _, placement = prepare_image(Volume(np.ones((1, 3, 4, 5)), grid_of((3, 4, 5))), AS_IT_IS)
    equal = np.full((3, 3, 4, 5), 1 / 3, np.float32)
    equal[0] = 0
    assert (restore_probabilities(equal, placement) == 1).all()


def test_a_picture_comes_back_at_its_own_size():
    plan = Preparation(normalisation=(Normalisation(),) * 3, resample="size", size=(64, 64, None))
    picture = np.random.default_rng(0).integers(0, 255, (3, 80, 60, 1)).astype(np.uint8)
    _, placement = prepare_image(Volume(picture, Grid((80, 60, 1), np.eye(4)), is_picture=True), plan)
    label = np.zeros((80, 60, 1), np.uint8)
    label[20:60, 15:45] = 1
    prepared = prepare_label(label, placement, plan)
    assert prepared.shape == (64, 64, 1)
    restored = restore_labels(prepared, placement)
    assert restored.shape == label.shape
    assert dice(restored == 1, label == 1) >= 0.98


def test_a_scan_reduced_to_one_slice_comes_back():
    plan = AS_IT_IS.model_copy(update={"spacing_mm": (None, None, 50.0), "crop": "none"})
    _, placement = prepare_image(Volume(body((12, 10, 8)), grid_of((12, 10, 8))), plan)
    assert placement.shape == (12, 10, 1)
    prepared = np.random.default_rng(0).integers(0, 3, placement.shape).astype(np.uint8)
    assert (restore_labels(prepared, placement) == prepared).all()


@pytest.mark.parametrize("restore", [restore_labels, restore_probabilities, restore_map])
def test_an_array_of_another_shape_is_refused(restore):
    _, placement = prepare_image(Volume(body((8, 9, 10)), grid_of((8, 9, 10))), AS_IT_IS)
    leading = (2,) if restore is restore_probabilities else ()
    with pytest.raises(DataError, match="must agree"):
        restore(np.zeros((*leading, 8, 9, 10), np.uint8), placement)


def test_no_full_resolution_map_is_held_per_class():
    import tracemalloc

    plan = AS_IT_IS.model_copy(update={"spacing_mm": (1.5, 1.5, 1.5), "crop": "none"})
    shape = (160, 128, 128)
    _, placement = prepare_image(Volume(np.ones((1, *shape), np.uint8), grid_of(shape)), plan)
    probabilities = np.random.default_rng(0).random((5, *placement.shape), np.float32).astype(np.float16)
    restore_probabilities(probabilities, placement)
    tracemalloc.start()
    restore_probabilities(probabilities, placement)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    slab = 32 * shape[1] * shape[2] * 4
    assert peak < np.prod(shape) + 4 * slab
