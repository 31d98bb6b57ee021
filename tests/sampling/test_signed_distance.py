import itertools
import pickle
import sys

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.planning.demand import Views
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.loader import PatchLoader, batches
from semivox.sampling.signed_distance import signed_distance
from semivox.sampling.views import ViewSettings, make_batch

SPACES = [(7, 9), (6, 7, 5)]
DISTANCES = Views(labelled=("weak",), unlabelled=("weak",), signed_distance=True)


def slow_map(label, index):
    """Voxel by voxel, each compared with every other."""
    voxels = list(itertools.product(*(range(n) for n in label.shape)))
    inside = [v for v in voxels if label[v] == index]
    outside = [v for v in voxels if label[v] not in (index, IGNORE)]
    result = np.zeros(label.shape)
    if not inside:
        return result
    for own, others, sign in ((inside, outside, -1), (outside, inside, 1)):
        nearest = {v: min((np.linalg.norm(np.subtract(v, o)) for o in others), default=np.inf) for v in own}
        for voxel, distance in nearest.items():
            result[voxel] = sign * (distance / max(nearest.values()) if distance < np.inf else 1)
    for voxel in inside:
        for axis, step in itertools.product(range(label.ndim), (-1, 1)):
            neighbour = tuple(n + step * (axis == a) for a, n in enumerate(voxel))
            if neighbour in outside:
                result[voxel] = 0
    return result


def some_label(space, unknown=0.0):
    random = np.random.default_rng(len(space))
    label = np.zeros(space, np.uint8)
    label[tuple(slice(1, n - 1) for n in space)] = 1
    label[tuple(slice(0, n // 2) for n in space)] = 3
    label[random.random(space) < unknown] = IGNORE
    return label


@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_pairs_of_voxels(space, unknown):
    label = some_label(space, unknown)
    maps = signed_distance(label, classes=4)
    assert maps.shape == (3, *space)
    assert maps.dtype == np.float32
    for index in (1, 2, 3):
        np.testing.assert_allclose(maps[index - 1], slow_map(label, index), atol=1e-6)


def test_worked_value_of_a_line():
    # Distances 3 2 1 | 1 2 | 1: the boundary is 0, inside -2/2, outside 3/3 at the far end.
    label = np.array([[0, 0, 0, 1, 1, 1, 1, 0]], np.uint8)
    expected = [1, 2 / 3, 1 / 3, 0, -1, -1, 0, 1 / 3]
    np.testing.assert_allclose(signed_distance(label, 2)[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_the_border_of_the_array_is_no_background(space):
    label = np.ones(space, np.uint8)
    label[-1] = 0
    found = signed_distance(label, 2)[0]
    assert (found[0] == -1).all()
    assert (found[-2] == 0).all()
    assert (found[-1] == 1).all()


@pytest.mark.parametrize("space", SPACES)
def test_a_class_that_is_absent_has_zeros_and_one_that_is_everywhere_minus_one(space):
    assert (signed_distance(np.zeros(space, np.uint8), 3) == 0).all()
    assert (signed_distance(np.full(space, IGNORE, np.uint8), 3) == 0).all()
    label = np.full(space, 2, np.uint8)
    label[0] = IGNORE
    absent, everywhere = signed_distance(label, 3)
    assert (absent == 0).all()
    assert (everywhere[0] == 0).all()
    assert (everywhere[1:] == -1).all()


@pytest.mark.parametrize("space", SPACES)
def test_scipy_gives_what_edt_does(space, monkeypatch):
    pytest.importorskip("edt")
    label = some_label(space, unknown=0.1)
    expected = signed_distance(label, 4)
    monkeypatch.setitem(sys.modules, "edt", None)
    np.testing.assert_allclose(signed_distance(label, 4), expected, atol=1e-6)


@pytest.mark.parametrize("patch", [(12, 10, 9), (12, 10)])
def test_a_stream_holds_the_maps_of_its_moved_label(world, plan, patch):
    dataset, store = world(size=(14, 12, 9))
    settings = ViewSettings(weak=WeakSettings(affine_probability=0.7, turn_probability=0.3))
    for step in range(3):
        raw = PatchLoader(store, dataset, plan(patch, labelled=4), DISTANCES, 3, settings=settings)[step]
        batch = make_batch(raw, DISTANCES, "cpu", settings)
        assert batch.labelled.signed_distance.shape == (4, 2, *patch)
        assert batch.labelled.signed_distance.dtype == torch.float32
        for label, maps in zip(batch.labelled.label.numpy(), batch.labelled.signed_distance.numpy(), strict=True):
            assert np.array_equal(maps, signed_distance(label, 3))
        assert batch.unlabelled.signed_distance is None
    assert batch.labelled.signed_distance.abs().max() == 1


def test_maps_are_made_only_where_they_are_asked_for(world, plan):
    dataset, store = world()
    views = Views(labelled=("weak",))
    raw = PatchLoader(store, dataset, plan((8, 8, 6)), views, 3)[0]
    assert raw.labelled.signed_distance is None
    assert make_batch(raw, views, "cpu", ViewSettings()).labelled.signed_distance is None


def test_each_slice_of_a_clip_has_its_own_map(world, plan):
    dataset, store = world()
    views = Views(labelled=("weak",), clip=3, signed_distance=True)
    raw = PatchLoader(store, dataset, plan((8, 7)), views, 3, foreground_share=1.0)[0]
    stream = make_batch(raw, views, "cpu", ViewSettings()).labelled
    for label, maps in zip(stream.label.numpy(), stream.signed_distance.numpy(), strict=True):
        assert np.array_equal(maps, signed_distance(label, 3))


def test_workers_compute_the_maps(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), DISTANCES, 3)
    (raw,) = batches(loader, 4, 5, workers=1)
    assert torch.equal(raw.labelled.signed_distance, loader[4].labelled.signed_distance)
    assert torch.equal(pickle.loads(pickle.dumps(raw)).labelled.signed_distance, raw.labelled.signed_distance)
