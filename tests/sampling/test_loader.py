import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.planning.demand import Views
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.loader import PatchLoader, batches
from semivox.sampling.order import EqualOrder
from semivox.sampling.views import ViewSettings

BOTH = Views(labelled=("weak",), unlabelled=("weak", "strong"))
PLAIN = Views(labelled=("plain",), unlabelled=("plain",))
LABELLED_ONLY = Views(labelled=("plain",))


def samples(stream):
    """Everything of each sample of a raw stream, comparable."""
    images = list(stream.crops(stream.image, stream.channels))
    labels = list(stream.crops(stream.label)) if stream.label is not None else [torch.zeros(1)] * len(images)
    return [
        (
            seed,
            case,
            image.numpy().tobytes(),
            label.numpy().tobytes(),
            affine.tobytes(),
            flips.tobytes(),
            inside.tobytes(),
        )
        for seed, case, image, label, affine, flips, inside in zip(
            stream.seeds,
            stream.case,
            images,
            labels,
            stream.geometry.affine,
            stream.geometry.flips,
            stream.inside,
            strict=True,
        )
    ]


def both_streams(batch):
    return samples(batch.labelled) + samples(batch.unlabelled)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("patch", [(8, 8, 6), (8, 6)])
def test_ranks_together_make_the_batch_of_one(world, plan, ranks, patch):
    dataset, store = world()
    plan = plan(patch, labelled=4, unlabelled=4)
    whole = PatchLoader(store, dataset, plan, BOTH, seed=3)
    parts = [PatchLoader(store, dataset, plan, BOTH, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in (0, 5):
        for name in ("labelled", "unlabelled"):
            shares = [sample for part in parts for sample in samples(getattr(part[step], name))]
            assert shares == samples(getattr(whole[step], name))


def test_a_step_does_not_depend_on_the_steps_before(world, plan):
    dataset, store = world()
    walked = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=3)
    for step in range(7):
        batch = walked[step]
    fresh = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=3)
    assert both_streams(fresh[6]) == both_streams(batch)
    assert both_streams(walked[2]) == both_streams(fresh[2])


def test_steps_seeds_streams_and_places_all_differ(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=3)
    other = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=4)
    streams = [loader[0].labelled, loader[0].unlabelled, loader[1].labelled, other[0].labelled]
    assert len({seed for stream in streams for seed in stream.seeds}) == 8


def test_workers_give_the_same_batches(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=3)
    alone = [both_streams(batch) for batch in batches(loader, 2, 6)]
    shared = [both_streams(batch) for batch in batches(loader, 2, 6, workers=2)]
    assert alone == shared
    assert [batch.step for batch in batches(loader, 2, 6)] == [2, 3, 4, 5]


def test_a_loader_and_its_batches_can_be_sent_to_another_process(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=3)
    loader[0]
    copy = pickle.loads(pickle.dumps(loader))
    assert both_streams(pickle.loads(pickle.dumps(copy[1]))) == both_streams(loader[1])


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_every_case_is_seen_equally_often(world, plan, batch):
    dataset, store = world(labelled=4, unlabelled=7)
    loader = PatchLoader(store, dataset, plan((8, 8, 6), labelled=batch, unlabelled=batch), PLAIN, seed=0)
    labelled, unlabelled = Counter(), Counter()
    for step in range(28):
        raw = loader[step]
        labelled.update(raw.labelled.case)
        unlabelled.update(raw.unlabelled.case)
    assert set(labelled.values()) == {28 * batch // 4}
    assert set(unlabelled.values()) == {28 * batch // 7}


def test_the_order_of_cases_changes_from_round_to_round(world):
    order = EqualOrder(world(unlabelled=9)[0], seed=0)
    rounds = [tuple(order("unlabelled", 9 * turn + i).id for i in range(9)) for turn in range(4)]
    assert len(set(rounds)) == 4
    assert all(len(set(one)) == 9 for one in rounds)


def test_streams_hold_the_cases_they_should(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), PLAIN, seed=0)
    for step in range(10):
        raw = loader[step]
        assert all(case.startswith("l") for case in raw.labelled.case)
        assert all(case.startswith("u") for case in raw.unlabelled.case)
        assert raw.unlabelled.domain == ("other", "other")
        assert raw.labelled.known.all()


def test_labels_of_unlabelled_cases_are_never_opened(world, plan):
    dataset, store = world()
    with pytest.raises(AssertionError, match="hidden label"):
        store.label("u0")
    store.touched.clear()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), BOTH, seed=0, foreground_share=1)
    for step in range(10):
        assert loader[step].unlabelled.label is None
    assert set(store.touched) == {"l0", "l1", "l2"}


def test_more_unlabelled_batches_make_a_longer_stream(world, plan):
    dataset, store = world()
    views = Views(unlabelled=("plain",), unlabelled_batches=3)
    raw = PatchLoader(store, dataset, plan((8, 8, 6)), views, seed=0)[0]
    assert (len(raw.labelled.case), len(raw.unlabelled.case)) == (2, 6)


def test_no_unlabelled_stream_unless_declared(world, plan):
    dataset, store = world()
    assert PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0)[0].unlabelled is None


@pytest.mark.parametrize("patch", [(8, 8, 6), (8, 7)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_labelled_crops_hold_foreground_as_often_as_asked(world, plan, patch, share):
    dataset, store = world(size=(60, 50, 40))
    loader = PatchLoader(store, dataset, plan(patch, labelled=10), LABELLED_ONLY, seed=0, foreground_share=share)
    found = Counter()
    for step in range(30):
        stream = loader[step].labelled
        for label in stream.crops(stream.label):
            found[1] += bool((label == 1).any())
            found[2] += bool((label == 2).any())
    # By chance alone a crop meets the two tiny objects in less than 5 % of cases.
    assert share / 2 - 0.08 < found[1] / 300 < share / 2 + 0.12
    assert share / 2 - 0.08 < found[2] / 300 < share / 2 + 0.08
    if share == 1:
        assert found[1] + found[2] >= 300


@pytest.mark.parametrize("patch", [(16, 16, 12), (16, 15)])
def test_rotation_does_not_turn_the_foreground_out_of_the_patch(world, plan, patch):
    dataset, store = world(size=(60, 50, 40))
    # At the border of the scan a crop cannot always be moved so that a voxel stays in sight; take one inside.
    store.foreground = lambda case: {1: np.argwhere(store.label(case) == 1)}
    always = ViewSettings(weak=WeakSettings(affine_probability=1, rotation_deg=45, scale=(1, 1.5)))
    views = Views(labelled=("weak",))
    loader = PatchLoader(store, dataset, plan(patch, labelled=20), views, seed=0, settings=always, foreground_share=1)
    seen = 0
    for step in range(5):
        stream = loader[step].labelled
        for row, label in enumerate(stream.crops(stream.label)):
            (label,) = stream.geometry.take(row, label)
            seen += bool((label == 1).any())
    assert seen == 100


def test_crops_without_foreground_in_the_case_are_drawn_evenly(world, plan):
    dataset, store = world()
    store.foreground = lambda case_id: {1: np.zeros((0, 3), np.int32), IGNORE: np.zeros((4, 3), np.int32)}
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0, foreground_share=1)
    assert len(loader[0].labelled.case) == 2


def first_voxels(store, stream):
    """Where in the scan each plain crop begins, read from its values."""
    starts = []
    for case, image in zip(stream.case, stream.crops(stream.image, stream.channels), strict=True):
        starts.append(np.unravel_index(int(image[0].flatten()[0]) - 1, store.shapes[case]))
    return starts


def test_crops_reach_every_place_of_the_scan_the_last_included(world, plan):
    dataset, store = world(labelled=1, size=(10, 9, 8))
    loader = PatchLoader(store, dataset, plan((8, 8, 6), labelled=20), LABELLED_ONLY, seed=0, foreground_share=0)
    starts = Counter(start for step in range(27) for start in first_voxels(store, loader[step].labelled))
    assert set(starts) == {(x, y, z) for x in range(3) for y in range(2) for z in range(3)}
    assert max(starts.values()) < 2.5 * min(starts.values())


def test_crops_are_the_scan_itself(world, plan):
    dataset, store = world()
    stream = PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0)[0].labelled
    for case, image, label, start in zip(
        stream.case,
        stream.crops(stream.image, 2),
        stream.crops(stream.label),
        first_voxels(store, stream),
        strict=True,
    ):
        box = tuple(slice(s, s + n) for s, n in zip(start, (8, 8, 6), strict=True))
        np.testing.assert_array_equal(image, store.image(case)[(slice(None), *box)])
        np.testing.assert_array_equal(label, store.label(case)[box])


def test_scans_smaller_than_the_patch_are_padded_with_unknown(world, plan):
    dataset, store = world(labelled=1, unlabelled=1, size=(5, 20, 4))
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0)
    offsets = set()
    for step in range(20):
        stream = loader[step].labelled
        for image, label, (first, last) in zip(
            stream.crops(stream.image, 2), stream.crops(stream.label), stream.inside, strict=True
        ):
            assert tuple(last - first) == (5, 8, 4)
            box = tuple(map(slice, first, last))
            assert (image[0][box] > 0).all()
            assert (label[box] != IGNORE).all()
            image[0][box] = 0
            label[box] = IGNORE
            assert (image[0] == 0).all()
            assert (label == IGNORE).all()
            offsets.add(tuple(first))
    assert {x for x, _, _ in offsets} == {0, 1, 2, 3}


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_2d_plan_cuts_slices_across_its_axis(world, plan, slice_axis):
    dataset, store = world()
    plan = plan((8, 7), slice_axis=slice_axis)
    loader = PatchLoader(store, dataset, plan, LABELLED_ONLY, seed=0, foreground_share=0)
    slices = set()
    for step in range(30):
        stream = loader[step].labelled
        for case, image, index in zip(stream.case, stream.crops(stream.image, 2), stream.slice_index, strict=True):
            assert image.shape == (2, 8, 7)
            plane = np.take(store.image(case)[0], index, slice_axis)
            x, y = np.argwhere(plane == image[0, 0, 0].item())[0]
            np.testing.assert_array_equal(image[0], plane[x : x + 8, y : y + 7])
            slices.add(int(index))
        assert stream.clip.tolist() == [0, 1]
    assert len(slices) > 10


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_clip_holds_adjacent_slices_that_share_one_draw(world, plan, slice_axis):
    dataset, store = world(unlabelled=2)
    views = Views(labelled=("weak",), unlabelled=("weak",), clip=3)
    loader = PatchLoader(store, dataset, plan((8, 7), slice_axis=slice_axis), views, seed=0)
    stream = loader[0].labelled
    assert stream.clip.tolist() == [0, 0, 0, 1, 1, 1]
    assert (np.diff(stream.slice_index.reshape(2, 3)) == 1).all()
    assert len(set(stream.seeds)) == 2
    assert len(stream.case) == len(stream.seeds) == len(stream.known) == len(stream.geometry) == 6
    affine = stream.geometry.affine.reshape(2, 3, 2, 2)
    assert (affine == affine[:, :1]).all()
    stream = PatchLoader(store, dataset, plan((8, 7), slice_axis=slice_axis), Views(("plain",), clip=3), seed=0)[
        0
    ].labelled
    first, second, third = list(stream.crops(stream.image, 2))[:3]
    step = np.prod(store.shapes[stream.case[0]][slice_axis + 1 :])
    assert (second - first == torch.tensor([step, -step]).view(2, 1, 1)).all()
    assert (third - second == torch.tensor([step, -step]).view(2, 1, 1)).all()


def test_a_clip_longer_than_the_scan_has_empty_slices(world, plan):
    dataset, store = world(labelled=1, size=(9, 9, 2))
    stream = PatchLoader(store, dataset, plan((8, 8)), Views(("plain",), clip=4), seed=0)[0].labelled
    outside = (stream.slice_index < 0) | (stream.slice_index >= 2)
    assert outside.sum() == 4
    for empty, image, label, inside in zip(
        outside, stream.crops(stream.image, 2), stream.crops(stream.label), stream.inside, strict=True
    ):
        assert empty == (image == 0).all() == (label == IGNORE).all() == (inside == 0).all()


def test_a_box_of_one_slice_works_as_a_volume(world, plan):
    dataset, store = world(size=(20, 18, 1))
    store.shapes = dict.fromkeys(store.shapes, (20, 18, 1))
    batch = PatchLoader(store, dataset, plan((16, 16, 1)), BOTH, seed=0)[0]
    assert all(shape[2] >= 1 for shape in batch.labelled.shapes)


def test_stored_pseudo_labels_come_with_the_unlabelled_stream(world, plan):
    dataset, store = world()
    loader = PatchLoader(
        store, dataset, plan((8, 8, 6)), PLAIN, seed=0, pseudo=lambda case: np.full(store.shapes[case], 2, np.uint8)
    )
    raw = loader[0]
    assert (raw.unlabelled.pseudo == 2).all()
    assert raw.labelled.pseudo is None


class OnlyFirst:
    """A case order of someone else's."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, stream, n):
        return getattr(self.dataset, stream)()[0]


def test_another_order_of_cases_can_be_given(world, plan):
    dataset, store = world()
    loader = PatchLoader(store, dataset, plan((8, 8, 6)), PLAIN, seed=0, order=OnlyFirst(dataset))
    assert {case for step in range(5) for case in loader[step].labelled.case} == {"l0"}


def test_left_and_right_labels_stop_left_right_flips(world, plan):
    dataset, store = world(names=("background", "kidney left", "kidney right"))
    loader = PatchLoader(store, dataset, plan((8, 8, 6), labelled=40), BOTH, seed=0)
    flips = loader[0].labelled.geometry.flips
    assert not flips[:, 0].any()
    assert flips[:, 1].any()
    sagittal = PatchLoader(store, dataset, plan((8, 6), labelled=40, slice_axis=0), BOTH, seed=0)
    assert sagittal[0].labelled.geometry.flips.any(axis=0).all()


def test_the_coarse_axis_of_the_plan_is_not_rotated(world, plan):
    dataset, store = world()
    always = ViewSettings(weak=WeakSettings(affine_probability=1))
    loader = PatchLoader(store, dataset, plan((8, 8, 6), coarse_axis=2), BOTH, seed=0, settings=always)
    stream = loader[0].labelled
    assert stream.fine_axes == (0, 1)
    assert all(shape[2] == 6 for shape in stream.shapes)


@pytest.mark.parametrize(
    ("cases", "plan_changes", "more", "message"),
    [
        ({"unlabelled": 0}, {}, {}, "every training case has a label"),
        ({"labelled": 0}, {}, {}, "no training case has a label"),
        ({}, {"unlabelled": 0}, {}, "batch.unlabelled is 0"),
        ({}, {}, {"ranks": 3}, "multiple of 3"),
        ({}, {}, {"foreground_share": 1.5}, "foreground_share is 1.5"),
    ],
)
def test_what_cannot_fill_a_stream_is_told_in_one_line(world, plan, cases, plan_changes, more, message):
    dataset, store = world(**cases)
    with pytest.raises(SettingError, match=message) as error:
        PatchLoader(store, dataset, plan((8, 8, 6), **plan_changes), BOTH, seed=0, **more)
    assert "\n" not in str(error.value)


def test_clips_need_a_2d_plan(world, plan):
    dataset, store = world()
    with pytest.raises(SettingError, match="patch of two numbers"):
        PatchLoader(store, dataset, plan((8, 8, 6)), Views(clip=3), seed=0)


def test_steps_before_the_first_do_not_exist(world, plan):
    dataset, store = world()
    with pytest.raises(IndexError):
        PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0)[-1]


def held(raw):
    """The classes in each labelled crop."""
    return [set(np.unique(crop.numpy())) - {0, IGNORE} for crop in raw.labelled.crops(raw.labelled.label)]


def test_balanced_classes_are_in_the_crops_equally_often(world, plan):
    dataset, store = world(labelled=4)
    loader = PatchLoader(
        store, dataset, plan((6, 6, 4), labelled=4), LABELLED_ONLY, seed=0, foreground_share=1, balance_classes=True
    )
    crops = [classes for step in range(20) for classes in held(loader[step])]
    # The organ is in the scan's middle, the corner's one voxel far from it: no crop holds both.
    assert Counter(map(tuple, crops)) == {(1,): 40, (2,): 40}


def test_the_share_of_crops_around_a_class_holds_for_balanced_classes_too(world, plan):
    dataset, store = world(labelled=4)
    loader = PatchLoader(
        store, dataset, plan((3, 3, 3), labelled=8), LABELLED_ONLY, seed=0, foreground_share=0.25, balance_classes=True
    )
    crops = [bool(classes) for step in range(60) for classes in held(loader[step])]
    assert 0.2 < np.mean(crops) < 0.35


def test_a_class_that_is_in_one_case_only_is_drawn_from_it(world, plan):
    dataset, store = world(labelled=4)
    store.classes = lambda case_id: (1, 2) if case_id == "l2" else (1,)
    loader = PatchLoader(
        store, dataset, plan((6, 6, 4), labelled=2), LABELLED_ONLY, seed=0, foreground_share=1, balance_classes=True
    )
    raws = [loader[step].labelled.case for step in range(30)]
    cases = Counter(case for pair in raws for case in pair)
    assert cases["l2"] > 30
    assert set(cases) == {"l0", "l1", "l2", "l3"}


@pytest.mark.parametrize("balance", [{"forks": ("domains",)}, {"forks": ("tasks", "domains"), "balance_classes": True}])
def test_balanced_ranks_together_make_the_batch_of_one(world, plan, balance):
    dataset, store = world(labelled=5)
    cases = [replace(case, domain="xy"[place % 3 == 0]) for place, case in enumerate(dataset.cases)]
    dataset = replace(dataset, cases=tuple(cases))
    plan = plan((8, 8, 6), labelled=4, unlabelled=4)
    whole = PatchLoader(store, dataset, plan, BOTH, seed=3, **balance)
    parts = [PatchLoader(store, dataset, plan, BOTH, seed=3, rank=rank, ranks=2, **balance) for rank in range(2)]
    for step in (4, 0):
        for name in ("labelled", "unlabelled"):
            shares = [sample for part in parts for sample in samples(getattr(part[step], name))]
            assert shares == samples(getattr(whole[step], name))
        assert Counter(whole[step].unlabelled.domain) == {"x": 2, "y": 2}
    shared = [both_streams(batch) for batch in batches(whole, 2, 4, workers=2)]
    assert shared == [both_streams(whole[step]) for step in (2, 3)]
    assert set(store.touched) <= {case.id for case in dataset.labelled()}


def test_classes_cannot_be_balanced_where_no_label_holds_one(world, plan):
    dataset, store = world()
    store.classes = lambda case_id: ()
    with pytest.raises(SettingError, match="no labelled case holds one"):
        PatchLoader(store, dataset, plan((8, 8, 6)), LABELLED_ONLY, seed=0, balance_classes=True)
