import numpy as np
import pytest
import torch

from semivox.sampling.mixing import boxes, copy_paste, cutmix, mixing_shares, mixup, partners, similar_boxes

SPACES = [(40, 30), (24, 20, 16)]


def extents(mask):
    """Per axis, first and one past the last True of one mask; also that it is a box."""
    found = np.argwhere(mask.numpy())
    first, last = found.min(0), found.max(0) + 1
    assert np.prod(last - first) == len(found)
    return first, last


@pytest.mark.parametrize("space", SPACES)
def test_masks_are_boxes_of_the_share_asked_for(space):
    mask = boxes(space, range(300), share=(0.1, 0.3))
    shares = mask.flatten(1).float().mean(1)
    for one in mask:
        extents(one)
    assert mask.shape == (300, *space)
    assert (shares > 0.08).all()
    assert (shares < 0.34).all()
    assert abs(shares.mean() - 0.2) < 0.01


@pytest.mark.parametrize("space", SPACES)
def test_copy_paste_box_has_two_thirds_per_side_rounded_down_at_any_place(space):
    mask = similar_boxes(space, range(200), 2 / 3)
    sides = [2 * n // 3 for n in space]
    firsts = []
    for one in mask:
        first, last = extents(one)
        assert list(last - first) == sides
        firsts.append(first)
    for axis, (size, side) in enumerate(zip(space, sides, strict=True)):
        assert {int(first[axis]) for first in firsts} == set(range(size - side + 1))


def test_copy_paste_boxes_have_the_published_sizes():
    for space, sides in (((112, 112, 80), [74, 74, 53]), ((256, 256), [170, 170])):
        first, last = extents(similar_boxes(space, [0], 2 / 3)[0])
        assert list(last - first) == sides


def test_stretch_bounds_the_ratio_of_sides():
    ratios = []
    for one in boxes((300, 300), range(200), share=0.1, stretch=3):
        first, last = extents(one)
        width, height = last - first
        ratios.append(max(width / height, height / width))
    assert 2.5 < max(ratios) < 3.1


def test_a_large_stretched_box_keeps_its_share_and_stays_inside():
    shares = boxes((100, 100), range(100), share=0.9, stretch=100).flatten(1).float().mean(1)
    assert (abs(shares - 0.9) < 0.02).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 20)])
def test_extreme_shares_are_nothing_and_everything(share, expected):
    assert (boxes((5, 4), [1, 2], share=share).flatten(1).sum(1) == expected).all()


def test_share_can_follow_any_distribution():
    shares = boxes((64, 64), range(500), share=lambda random: 1 - random.beta(4, 4)).flatten(1).float().mean(1)
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.std() - np.sqrt(1 / 36)) < 0.02


def test_a_box_is_a_function_of_its_seed_and_draw():
    together = boxes((16, 16), [3, 4, 5])
    assert torch.equal(together[1:2], boxes((16, 16), [4]))
    assert not torch.equal(together[1:2], boxes((16, 16), [4], draw=1))


def test_slices_of_odd_and_single_size_work():
    assert boxes((1, 7, 3), range(20), share=0.5).flatten(1).any(1).all()


def test_partners_are_neighbours_and_mutual():
    assert partners(6).tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_odd_numbers_have_partners_too(count):
    found = partners(count).tolist()
    assert sorted(found) == list(range(count))
    assert count == 1 or all(partner != i for i, partner in enumerate(found))


def test_slices_of_a_clip_meet_the_same_slices_of_another():
    assert partners(6, clip=3).tolist() == [3, 4, 5, 0, 1, 2]


def test_partners_are_the_same_on_one_rank_and_two():
    assert partners(8).tolist() == [*partners(4).tolist(), *(4 + partners(4)).tolist()]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_cutmix_takes_the_partner_inside_the_box(space, dtype):
    mask = boxes(space, [1, 2])
    images = torch.arange(2).view(2, 1, *[1] * len(space)).expand(2, 3, *space).to(dtype)
    mixed = cutmix(images, partners(2), mask)
    assert mixed.dtype == dtype
    assert ((mixed[0] == 1) == mask[0]).all()
    assert ((mixed[1] == 0) == mask[1]).all()
    labels = images[:, 0]
    assert torch.equal(cutmix(labels, partners(2), mask), mixed[:, 0])


@pytest.mark.parametrize("space", SPACES)
def test_copy_paste_goes_both_ways_and_loses_nothing(space):
    mask = boxes(space, [1, 2])
    first, second = torch.rand(2, 3, *space), torch.rand(2, 3, *space)
    outward, inward = copy_paste(first, second, mask)
    over = mask[:, None].expand_as(first)
    assert torch.equal(outward[over], second[over])
    assert torch.equal(outward[~over], first[~over])
    assert torch.equal(outward + inward, first + second)


@pytest.mark.parametrize("space", SPACES)
def test_mixup_takes_its_share_of_the_second_everywhere(space):
    first, second = torch.rand(2, 2, 3, *space)
    mixed = mixup(first, second, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(mixed[0], 0.75 * first[0] + 0.25 * second[0])
    torch.testing.assert_close(mixed[1], second[1])


def test_shares_follow_a_beta_distribution_each_from_its_own_seed():
    shares = mixing_shares(range(4000), 0.2)
    assert shares.dtype == torch.float32
    # Beta(a, a) has the variance 1 / (4 (2a + 1)).
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / 5.6, rel=0.05)
    assert torch.equal(mixing_shares([7, 3], 0.2), shares[[7, 3]])
    assert mixing_shares(range(4000), 5.0).var().item() == pytest.approx(1 / 44, rel=0.1)
