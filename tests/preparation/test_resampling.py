import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from semivox.data.labels import IGNORE
from semivox.preparation.resampling import matrix, resample, resample_classes

SHAPES = [((40, 33, 21), (31, 47, 9)), ((7, 100, 3), (20, 77, 8)), ((64, 1, 30), (50, 1, 70))]


def by_scipy(array, shape, order):
    factors = [after / before for before, after in zip(array.shape, shape, strict=True)]
    return zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_values_are_those_of_scipy(source, target, order):
    array = np.random.default_rng(0).normal(100, 20, source).astype(np.float32)
    expected = by_scipy(array, target, order)
    assert np.abs(resample(array, target, order) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_linear_ramp_is_sampled_at_voxel_centres_between_shared_edges():
    ramp = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    # Centres of two voxels over the extent of four lie at 0.5 and 2.5 of the old indices.
    assert resample(ramp, (2, 1, 1), 1).ravel().tolist() == [0.5, 2.5]


@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([0, 1, 3]))
@settings(max_examples=40, deadline=None)
def test_a_constant_stays_constant(source, target, order):
    assert np.allclose(matrix(source, target, order).sum(axis=1), 1, atol=1e-6)


def test_the_coarse_axis_takes_the_nearest_slice():
    array = np.random.default_rng(1).normal(size=(10, 12, 4)).astype(np.float32)
    result = resample(array, (15, 9, 10), 3, coarse_axis=2)
    in_plane = resample(array, (15, 9, 4), 3)
    assert np.allclose(result, by_scipy(in_plane, (15, 9, 10), 0), atol=1e-6)


def test_equal_sizes_come_back_untouched():
    array = np.random.default_rng(2).normal(size=(5, 6, 7)).astype(np.float32)
    assert resample(array, (5, 6, 7), 3) is array


def largest_share(classes, shape, coarse_axis):
    """The definition, slowly: every class's mask interpolated over the whole grid by scipy, then the largest."""
    indices = np.unique(classes)
    shares = []
    for index in indices:
        share = (classes == index).astype(np.float64)
        for axis in range(3):
            size = [*share.shape]
            size[axis] = shape[axis]
            share = by_scipy(share, size, 0 if axis == coarse_axis else 1)
        shares.append(share)
    stacked = np.round(np.stack(shares), 6)
    clear = np.sort(stacked, axis=0)
    clear = clear[-1] - clear[-2] if len(indices) > 1 else np.ones(shape)
    return indices[stacked.argmax(axis=0)], clear


@pytest.mark.parametrize("coarse_axis", [None, 0, 2])
@pytest.mark.parametrize("shape", [(30, 18, 9), (11, 40, 26), (20, 24, 31)])
def test_labels_take_the_largest_interpolated_share(shape, coarse_axis):
    rng = np.random.default_rng(3)
    noise = np.stack([gaussian_filter(rng.normal(size=(20, 24, 16)), 2) for _ in range(5)])
    classes = np.array([0, 1, 2, 7, IGNORE], np.uint8)[noise.argmax(axis=0)]
    expected, margin = largest_share(classes, shape, coarse_axis)
    result = resample_classes(classes, shape, 1, coarse_axis)
    assert result.dtype == np.uint8
    sure = margin > 1e-4
    assert sure.mean() > 0.8
    assert (result[sure] == expected[sure]).all()


def test_ties_between_classes_go_to_the_lower_index():
    # Halving the size puts each new centre half-way between two voxels of different classes.
    for lower, higher in [(0, 1), (1, 2), (2, IGNORE)]:
        for pair in itertools.permutations((lower, higher)):
            classes = np.array(pair * 3, np.uint8).reshape(6, 1, 1)
            assert (resample_classes(classes, (3, 1, 1), 1) == lower).all()


def test_smoothing_keeps_shares_and_acts_only_where_the_grid_becomes_finer():
    classes = np.zeros((12, 12, 12), np.uint8)
    classes[4:8, 4:8, 4:8] = 1
    fine, coarse = (40, 40, 40), (8, 8, 8)
    linear, smooth = (resample_classes(classes, fine, 1, smooth=smooth) for smooth in (False, True))
    assert (resample_classes(classes, coarse, 1, smooth=True) == resample_classes(classes, coarse, 1)).all()
    # The corner of a block goes, its sides stay where they were.
    assert np.flatnonzero(smooth[20, 20]).tolist() == np.flatnonzero(linear[20, 20]).tolist()
    assert np.count_nonzero(smooth) < np.count_nonzero(linear)


def test_order_zero_takes_the_nearest_voxel_of_labels():
    classes = np.random.default_rng(4).integers(0, 4, (9, 10, 11)).astype(np.uint8)
    assert (resample_classes(classes, (14, 7, 11), 0) == by_scipy(classes, (14, 7, 11), 0)).all()


def test_a_label_without_foreground_stays_empty():
    assert not resample_classes(np.zeros((4, 5, 6), np.uint8), (7, 3, 6), 1).any()
