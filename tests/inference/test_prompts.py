import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semivox.inference.prompts import PromptRules, bounds, box_maps, find_prompts, keep_continuous, tight_boxes

SURE = 0.9


def worked_example() -> tuple[np.ndarray, np.ndarray]:
    """Example E5: a blob that moves over three slices, a speck, and a blob that no slice beside it has."""
    label = np.zeros((4, 8, 8), int)
    label[0, 2:5, 2:5] = label[1, 2:5, 3:7] = label[2, 3:6, 4:7] = label[2, 0:2, 0:1] = label[3, 6:8, 0:3] = 1
    confidence = np.full(label.shape, SURE)
    confidence[1, 2, 6] = 0.4
    return label, confidence


def components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected components of one slice, in raster order of their first pixels."""
    left, found = [tuple(map(int, pixel)) for pixel in np.argwhere(mask)], []
    while left:
        todo, component = [left[0]], set()
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                component.add((y, x))
                todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        found.append(component)
    return found


def widened(pixels: set[tuple[int, int]], shape: tuple[int, int], margin: float) -> list[float]:
    ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
    wide, high = margin * (max(xs) - min(xs) + 1), margin * (max(ys) - min(ys) + 1)
    return [
        max(min(xs) - wide, 0),
        max(min(ys) - high, 0),
        min(max(xs) + wide, shape[1] - 1),
        min(max(ys) + high, shape[0] - 1),
    ]


def slow_prompts(label, confidence, classes, rules):
    """Boxes, their validity and masks of one stack: the document's steps, one component at a time."""
    depth, height, width = label.shape
    least = rules.minimum_area or max(1, round(16 * height * width / 65536))
    boxes = np.zeros((depth, classes - 1, 4))
    valid = np.zeros((depth, classes - 1), bool)
    masks = np.zeros((depth, classes - 1, height, width), bool)
    for k in range(1, classes):
        nodes = [
            (t, pixels)
            for t in range(depth)
            for pixels in components((label[t] == k) & (confidence[t] >= rules.confidence))
            if len(pixels) >= least
        ]
        edges = []
        for u, (i, first) in enumerate(nodes):
            for v, (j, second) in enumerate(nodes):
                small, large = sorted((len(first), len(second)))
                shared = len(first & second)
                near = 1 <= j - i <= rules.window - 1
                if near and shared and shared >= rules.overlap * small and small >= rules.area_ratio * large:
                    edges.append((u, v))
        groups, seen = [], set()
        for start in range(len(nodes)):
            stack, group = [start], []
            while stack:
                u = stack.pop()
                if u not in seen:
                    seen.add(u)
                    group.append(u)
                    stack += [b if a == u else a for a, b in edges if u in (a, b)]
            groups.append(group)
        wanted = min(rules.minimum_slices, depth)
        groups = [group for group in groups if group and len({nodes[u][0] for u in group}) >= wanted]
        if rules.keep == "largest" and groups:
            groups = [max(groups, key=lambda group: sum(len(nodes[u][1]) for u in group))]
        kept = {u for group in groups for u in group}
        for t in range(depth):
            pixels = set().union(*(nodes[u][1] for u in kept if nodes[u][0] == t))
            if pixels:
                boxes[t, k - 1], valid[t, k - 1] = widened(pixels, (height, width), rules.margin), True
                masks[t, k - 1][tuple(np.array(sorted(pixels)).T)] = True
        tight = boxes.copy()
        for u, v in sorted(edges):
            i, j = nodes[u][0], nodes[v][0]
            for t in range(i + 1, j):
                if u in kept and not valid[t, k - 1]:
                    boxes[t, k - 1], valid[t, k - 1] = (tight[i, k - 1] + tight[j, k - 1]) / 2, True
    return boxes, valid, masks


def compare(label, confidence, classes, rules):
    found = find_prompts(label, confidence, classes, rules)
    boxes, valid, masks = slow_prompts(label, confidence, classes, rules)
    assert np.array_equal(found.valid.numpy(), valid)
    assert np.array_equal(found.masks.numpy(), masks)
    assert np.allclose(found.boxes.numpy(), boxes, atol=1e-5)


def test_the_worked_example():
    label, confidence = worked_example()
    found = find_prompts(label, confidence, 2, PromptRules(minimum_area=1))
    expected = [[1.85, 1.85, 4.15, 4.15], [2.80, 1.85, 6.20, 4.15], [3.85, 2.85, 6.15, 5.15], [0, 0, 0, 0]]
    assert np.allclose(found.boxes[:, 0].numpy(), expected, atol=1e-6)
    assert found.valid[:, 0].tolist() == [True, True, True, False]
    assert found.masks[:, 0].sum((1, 2)).tolist() == [9, 11, 9, 0]


@pytest.mark.parametrize("seed", range(60))
def test_random_stacks_give_what_the_slow_version_gives(seed):
    rng = np.random.default_rng(seed)
    depth, height, width = rng.integers(1, 7), rng.integers(3, 11), rng.integers(3, 11)
    coarse = rng.choice(4, (depth, 4, 4), p=(0.55, 0.25, 0.1, 0.1))
    label = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    label = np.where(rng.random(label.shape) < 0.1, rng.integers(0, 4, label.shape), label)
    rules = PromptRules(
        window=int(rng.integers(2, 5)),
        minimum_area=None if seed % 3 else int(rng.integers(1, 5)),
        overlap=float(rng.choice((0.0, 0.3, 0.5, 1.0))),
        area_ratio=float(rng.choice((0.0, 0.25, 0.8))),
        minimum_slices=int(rng.integers(1, 4)),
        margin=float(rng.choice((0.0, 0.05, 0.4))),
        keep=str(rng.choice(("all", "largest"))),  # type: ignore[arg-type]
    )
    compare(label, rng.random(label.shape) ** 0.3, 4, rules)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 2)))
def test_boxes_hold_their_masks_and_stay_in_the_slice(label):
    found = find_prompts(label, None, 3, PromptRules(minimum_area=1))
    assert (found.label.numpy() * (found.label.numpy() != label) == 0).all(), "a mask is part of what was predicted"
    for t, k in np.argwhere(found.valid.numpy()):
        x0, y0, x1, y1 = found.boxes[t, k].tolist()
        ys, xs = np.nonzero(found.masks[t, k].numpy())
        assert 0 <= x0 <= xs.min(initial=9)
        assert 0 <= y0 <= ys.min(initial=9)
        assert xs.max(initial=0) <= x1 <= 5
        assert ys.max(initial=0) <= y1 <= 4
    assert not found.boxes[~found.valid].any()
    assert not found.masks[~found.valid].any()
    again = find_prompts(found.label, None, 3, PromptRules(minimum_area=1))
    assert torch.equal(again.label, found.label), "what is continuous stays"


def test_mirroring_a_stack_mirrors_its_masks():
    label, confidence = worked_example()
    rules = PromptRules(minimum_area=1)
    found = find_prompts(label, confidence, 2, rules).label
    for axis in range(3):
        mirrored = find_prompts(np.flip(label, axis).copy(), np.flip(confidence, axis).copy(), 2, rules).label
        assert torch.equal(mirrored, found.flip(axis))


def test_a_slice_between_two_that_have_a_class_gets_the_mean_of_their_boxes():
    label = np.zeros((3, 20, 20), int)
    label[0, 4:8, 4:8], label[2, 4:12, 4:8] = 1, 1
    found = find_prompts(label, None, 2, PromptRules(minimum_area=1, margin=0.0))
    assert found.boxes[:, 0].tolist() == [[4, 4, 7, 7], [4, 4, 7, 9], [4, 4, 7, 11]]
    assert found.valid.all()
    assert not found.label[1].any(), "a box, but no mask"
    near = find_prompts(label, None, 2, PromptRules(minimum_area=1, window=2))
    assert not near.valid.any(), "a window of two slices sees no gap"


def test_slices_of_different_clips_are_never_linked():
    label = np.zeros((4, 10, 10), int)
    label[1:3, 2:6, 2:6] = 1
    rules = PromptRules(minimum_area=1)
    assert find_prompts(label, None, 2, rules).valid[1:3].all()
    assert not find_prompts(label, None, 2, rules, clip=torch.tensor([0, 0, 1, 1])).valid.any()
    both = find_prompts(np.concatenate([label, label]), None, 2, rules, clip=[0] * 4 + [7] * 4)
    alone = find_prompts(label, None, 2, rules)
    assert torch.equal(both.boxes, alone.boxes.repeat(2, 1, 1))
    assert torch.equal(both.label, alone.label.repeat(2, 1, 1))
    largest = find_prompts(np.concatenate([label, label]), None, 2, PromptRules(keep="largest"), clip=[0] * 4 + [7] * 4)
    assert torch.equal(largest.valid, both.valid), "the largest group of each clip"


def test_a_clip_shorter_than_what_a_group_must_cover_asks_for_all_its_slices():
    label = np.zeros((1, 10, 10), int)
    label[0, 2:6, 2:6] = 1
    assert find_prompts(label, None, 2, PromptRules(minimum_slices=3)).valid.all()


def test_nothing_confident_gives_no_box_and_a_class_that_fills_the_slice_the_whole_one():
    full = np.ones((3, 12, 9), int)
    nothing = find_prompts(full, np.zeros(full.shape), 3)
    assert not nothing.valid.any()
    assert not nothing.boxes.any()
    assert nothing.masks.shape == (3, 2, 12, 9)
    found = find_prompts(full, np.ones(full.shape), 3)
    assert found.boxes[:, 0].tolist() == [[0, 0, 8, 11]] * 3
    assert found.valid[:, 0].all()
    assert not found.valid[:, 1].any()


def test_values_that_are_no_class_are_background():
    label = np.full((3, 9, 9), 255)
    label[:, 2:6, 2:6] = 1
    found = find_prompts(label, None, 2, PromptRules(minimum_area=1))
    assert torch.equal(found.masks[:, 0], torch.from_numpy(label == 1))
    assert torch.equal(tight_boxes(label, 2).masks[:, 0], torch.from_numpy(label == 1))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_tensors_and_arrays_give_the_same(kind):
    label, confidence = worked_example()
    rules = PromptRules(minimum_area=1)
    found = find_prompts(torch.from_numpy(label).to(kind), torch.from_numpy(confidence), 2, rules)
    expected = find_prompts(label, confidence, 2, rules)
    assert torch.equal(found.boxes, expected.boxes)
    assert found.boxes.dtype == torch.float32


def test_the_smallest_area_is_in_proportion_to_the_slice():
    for size, least in ((256, 16), (128, 4), (16, 1)):
        label = np.zeros((2, size, size), int)
        label[:, 0, :least] = 1
        assert find_prompts(label, None, 2).valid.all()
        if least > 1:
            label[:, 0, least - 1] = 0
            assert not find_prompts(label, None, 2).valid.any()


def test_tight_boxes_are_bounds_of_all_components():
    label = np.zeros((1, 10, 12), int)
    label[0, 1, 2] = label[0, 7, 9] = 1
    found = tight_boxes(label, 3, margin=0.125)
    assert found.boxes[0, 0].tolist() == [1, 0.125, 10, 7.875]
    assert found.valid.tolist() == [[True, False]]


def test_a_volume_keeps_what_continues_across_its_slices():
    label, _ = worked_example()
    cleaned = keep_continuous(np.moveaxis(label, 0, 1).astype(np.int16), PromptRules(minimum_area=1), slice_axis=1)
    assert cleaned.dtype == np.int16
    expected = label.copy()
    expected[2, 0:2, 0:1] = expected[3] = 0
    assert np.array_equal(np.moveaxis(cleaned, 1, 0), expected)
    empty = np.zeros((3, 4, 5), np.uint8)
    assert np.array_equal(keep_continuous(empty), empty)


def test_every_pixel_counts_where_no_confidence_is_given():
    label, _ = worked_example()
    found = find_prompts(label, None, 2, PromptRules(minimum_area=1))
    assert found.masks[:, 0].sum((1, 2)).tolist() == [9, 12, 9, 0]


def test_a_pixel_at_the_threshold_counts():
    label = np.ones((2, 4, 4), int)
    assert find_prompts(label, np.full(label.shape, 0.5), 2, PromptRules(confidence=0.5)).valid.all()


def test_boxes_pass_through_maps_to_whole_pixels():
    label = torch.zeros(2, 8, 9, dtype=torch.long)
    label[0, 2:5, 3:8], label[1, :, :] = 1, 2
    stack = tight_boxes(label, 3, margin=0.1)
    boxes, valid = bounds(box_maps(stack, (8, 9)))
    assert torch.equal(valid, stack.valid)
    assert torch.equal(boxes, stack.boxes.round())
    assert boxes[0, 0].tolist() == [2, 2, 8, 4]
