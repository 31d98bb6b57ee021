import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semivox.evaluation import surface
from semivox.evaluation.surface import surface_distances


def slow_surface(mask):
    """Coordinates of the voxels of `mask` that have a face neighbour outside it, voxel by voxel."""

    def inside(voxel):
        return all(0 <= i < n for i, n in zip(voxel, mask.shape, strict=True)) and mask[voxel]

    def neighbours(voxel):
        for axis, side in product(range(mask.ndim), (-1, 1)):
            yield tuple(i + side * (axis == other) for other, i in enumerate(voxel))

    return [v for v in np.ndindex(mask.shape) if mask[v] and not all(inside(n) for n in neighbours(v))]


def slow_distances(a, b, spacing):
    """Directed distances by comparing every surface voxel with every other one."""
    a, b = (np.array(slow_surface(mask), float).reshape(-1, mask.ndim) * spacing for mask in (a, b))
    return [math.dist(p, min(b, key=lambda q: math.dist(p, q))) for p in a]


def worked_masks():
    a, b = np.zeros((2, 7, 7), bool)
    a[1:5, 1:5] = True
    b[2:6, 2:5] = True
    return a, b


def test_worked_values():
    found = surface_distances(*worked_masks(), (1.0, 1.0))
    assert sorted(found.to_reference) == pytest.approx([0.0] * 4 + [1.0] * 7 + [math.sqrt(2)])
    assert sorted(found.to_prediction) == pytest.approx([0.0] * 4 + [1.0] * 6)
    assert found.asd == pytest.approx(0.701184, abs=1e-6)
    assert found.assd == pytest.approx(0.655192, abs=1e-6)
    assert found.hd95 == pytest.approx(1.0)


def test_worked_values_with_unequal_spacing():
    found = surface_distances(*worked_masks(), (2.0, 1.0))
    assert found.asd == pytest.approx(1.019672, abs=1e-6)
    assert found.hd95 == pytest.approx(2.0)


def test_asd_is_directed_from_prediction_to_reference():
    a, b = worked_masks()
    assert surface_distances(b, a, (1.0, 1.0)).asd == pytest.approx(0.6)


def test_surface_dice_counts_both_surfaces_within_the_tolerance():
    found = surface_distances(*worked_masks(), (1.0, 1.0))
    assert found.surface_dice(0.0) == pytest.approx(8 / 22)
    assert found.surface_dice(1.0) == pytest.approx(21 / 22)
    assert found.surface_dice(1.5) == 1.0


def test_tolerance_forgives_the_rounding_of_a_header():
    a, b = np.zeros((2, 9, 9), bool)
    a[2, 2], b[2, 4] = True, True
    assert surface_distances(a, b, (1.0, float(np.float32(1.00000006)))).surface_dice(2.0) == 1.0


CASES = [
    ((12, 11, 10), (1.0, 1.0, 1.0)),
    ((12, 11, 7), (0.7, 1.3, 5.0)),
    ((9, 12, 11), (4.0, 0.6, 0.6)),
    ((28, 31), (0.5, 2.0)),
    ((60,), (0.3,)),
]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("disagreement", [0.3, 3.0])
def test_equals_comparing_all_pairs(blobs, shape, spacing, disagreement):
    prediction, reference = blobs(shape, seed=1, disagreement=disagreement)
    found = surface_distances(prediction, reference, spacing)
    assert np.sort(found.to_reference) == pytest.approx(np.sort(slow_distances(prediction, reference, spacing)))
    assert np.sort(found.to_prediction) == pytest.approx(np.sort(slow_distances(reference, prediction, spacing)))


@pytest.mark.parametrize("query_cost", [0, 10**9], ids=["tree", "map"])
def test_tree_and_map_find_the_same(blobs, monkeypatch, query_cost):
    prediction, reference = blobs((14, 15, 9), seed=2, disagreement=5.0)
    reference[4:] = False  # far from much of the prediction
    spacing = (1.5, 0.8, 3.0)
    monkeypatch.setattr(surface, "TREE_QUERY_VOXELS", query_cost)
    found = surface_distances(prediction, reference, spacing)
    assert np.sort(found.to_reference) == pytest.approx(np.sort(slow_distances(prediction, reference, spacing)))
    assert found.to_reference.max() > 2 * surface.REACH * min(spacing)


def test_what_lies_outside_the_array_is_background():
    full = np.ones((5, 5), bool)
    ring = full.copy()
    ring[1:-1, 1:-1] = False
    assert surface_distances(full, ring, (1.0, 1.0)).to_reference.size == 16
    assert surface_distances(full, ring, (1.0, 1.0)).hd95 == 0


def test_a_margin_changes_nothing(blobs):
    prediction, reference = blobs((9, 10, 11), seed=3)
    spacing = (1.0, 2.0, 0.5)
    tight = surface_distances(prediction, reference, spacing)
    wide = surface_distances(np.pad(prediction, 6), np.pad(reference, 6), spacing)
    np.testing.assert_array_equal(tight.to_reference, wide.to_reference)
    np.testing.assert_array_equal(tight.to_prediction, wide.to_prediction)


def test_memory_order_changes_nothing(blobs):
    prediction, reference = blobs((9, 10, 11), seed=3)
    spacing = (1.0, 2.0, 0.5)
    c = surface_distances(prediction, reference, spacing)
    fortran = surface_distances(np.asfortranarray(prediction), np.asfortranarray(reference), spacing)
    np.testing.assert_array_equal(c.to_reference, fortran.to_reference)


@pytest.mark.parametrize(("in_prediction", "in_reference", "dice"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_empty_masks_have_no_distance(in_prediction, in_reference, dice):
    prediction, reference = np.zeros((2, 4, 4, 4), bool)
    prediction[1, 1, 1], reference[1, 1, 1] = in_prediction, in_reference
    found = surface_distances(prediction, reference, (1.0, 1.0, 1.0))
    assert all(math.isnan(value) for value in (found.hd95, found.asd, found.assd))
    assert found.surface_dice(2.0) == dice


masks = arrays(bool, (4, 5, 3))


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.tuples(*[st.sampled_from([0.4, 1.0, 2.5])] * 3))
def test_any_masks_equal_comparing_all_pairs(prediction, reference, spacing):
    found = surface_distances(prediction, reference, spacing)
    if reference.any():
        assert np.sort(found.to_reference) == pytest.approx(np.sort(slow_distances(prediction, reference, spacing)))
    if prediction.any() and reference.any():
        swapped = surface_distances(reference, prediction, spacing)
        assert (found.hd95, found.assd) == (pytest.approx(swapped.hd95), pytest.approx(swapped.assd))
        np.testing.assert_array_equal(found.to_prediction, swapped.to_reference)


def far_apart():
    prediction, reference = np.zeros((2, 30, 30, 30), bool)
    prediction[1:4, 1:4, 1:4] = True
    reference[24:29, 20:29, 22:29] = True
    return prediction, reference


ORACLE_CASES = [
    *((shape, spacing, disagreement) for shape, spacing in CASES[:4] for disagreement in (0.4, 2.0)),
    ("far apart", (1.0, 0.5, 2.0), 0.0),
]


@pytest.mark.parametrize(("shape", "spacing", "disagreement"), ORACLE_CASES)
def test_agrees_with_medpy(blobs, shape, spacing, disagreement):
    medpy = pytest.importorskip("medpy.metric.binary")
    masks = far_apart() if shape == "far apart" else blobs(shape, seed=4, disagreement=disagreement)
    found = surface_distances(*masks, spacing)
    assert found.hd95 == pytest.approx(medpy.hd95(*masks, spacing), abs=1e-6)
    assert found.asd == pytest.approx(medpy.asd(*masks, spacing), abs=1e-6)
    assert found.assd == pytest.approx(medpy.assd(*masks, spacing), abs=1e-6)


@pytest.mark.parametrize(("shape", "spacing", "disagreement"), ORACLE_CASES)
def test_agrees_with_monai_where_definitions_agree(blobs, shape, spacing, disagreement):
    metrics = pytest.importorskip("monai.metrics")
    masks = far_apart() if shape == "far apart" else blobs(shape, seed=4, disagreement=disagreement)
    found = surface_distances(*masks, spacing)
    prediction, reference = (mask[None, None].astype(np.float32) for mask in masks)
    inputs = {"include_background": True, "spacing": list(spacing)}
    directed = metrics.compute_average_surface_distance(prediction, reference, symmetric=False, **inputs)
    # MONAI pools no distances: its HD95 is the greater of the two directed percentiles.
    percentile = metrics.compute_hausdorff_distance(prediction, reference, percentile=95, **inputs)
    expected = max(np.percentile(found.to_reference, 95), np.percentile(found.to_prediction, 95))
    assert found.asd == pytest.approx(float(directed), abs=1e-4)
    assert expected == pytest.approx(float(percentile), abs=1e-4)
