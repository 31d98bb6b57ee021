import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from semivox.data.labels import IGNORE
from semivox.sampling.geometry import Geometry, WeakSettings, flip_axes

EXACT = WeakSettings(affine_probability=0, turn_probability=0.75)
ALWAYS = WeakSettings(affine_probability=1)


def draw(settings, patch, count=40, spacing_mm=None, rotatable=None, flippable=None):
    dimensions = len(patch)
    spacing_mm = np.tile(spacing_mm or [1.0] * dimensions, (count, 1))
    axes = tuple(range(dimensions))
    flippable = axes if flippable is None else flippable
    return Geometry.draw(range(count), patch, spacing_mm, settings, flippable, axes if rotatable is None else rotatable)


@pytest.mark.parametrize("patch", [(6, 6), (7, 5), (5, 5, 5), (6, 6, 3), (4, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.uint8])
def test_undo_reverses_apply_exactly_for_flips_and_turns(patch, dtype):
    geometry = draw(EXACT, patch)
    maps = torch.randint(0, 2 if dtype == torch.bool else 100, (40, *patch)).to(dtype)
    moved = geometry.apply(maps)
    assert moved.dtype == dtype
    assert torch.equal(geometry.undo(moved), maps)
    assert torch.equal(geometry.apply(geometry.undo(maps)), maps)
    assert not torch.equal(moved, maps)


def test_turns_are_quarter_turns_of_numpy():
    settings = WeakSettings(flip_axes=(), affine_probability=0, turn_probability=1)
    geometry = draw(settings, (5, 5, 3), flippable=())
    maps = torch.rand(40, 5, 5, 3)
    counts = set()
    for before, after in zip(maps.numpy(), geometry.apply(maps).numpy(), strict=True):
        turns = [k for k in range(4) if np.array_equal(np.rot90(before, k), after)]
        assert len(turns) == 1
        counts.add(turns[0])
    assert counts == {1, 2, 3}


def test_a_cube_turns_in_all_three_planes():
    geometry = draw(WeakSettings(affine_probability=0, turn_probability=1), (4, 4, 4), count=100)
    assert {tuple(order) for order in geometry.axes} == {(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)}


@pytest.mark.parametrize(("patch", "spacing_mm"), [((5, 5), (1, 1)), ((5, 5, 3), (1, 1, 3)), ((5, 5, 5), (1, 1, 3))])
def test_turns_alone_are_no_to_three_quarter_turns_in_the_square_plane(patch, spacing_mm):
    maps = torch.rand(60, *patch)
    counts = []
    for before, after in zip(maps.numpy(), Geometry.draw_turns(range(60), patch, spacing_mm).apply(maps), strict=True):
        counts += [k for k in range(4) if np.array_equal(np.rot90(before, k), after.numpy())]
    assert len(counts) == 60
    assert min(counts.count(k) for k in range(4)) > 5


def test_without_a_square_plane_turns_alone_are_half_turns_or_none():
    maps = torch.rand(60, 6, 5, 4)
    turned = Geometry.draw_turns(range(60), (6, 5, 4), (1, 1, 1)).apply(maps)
    planes = ((0, 1), (0, 2), (1, 2))
    found = [
        [plane for plane in planes if torch.equal(torch.rot90(before, 2, plane), after)]
        for before, after in zip(maps, turned, strict=True)
    ]
    still = sum(torch.equal(before, after) for before, after in zip(maps, turned, strict=True))
    assert {plane for each in found for plane in each} == set(planes)
    assert 15 < still == sum(not each for each in found) < 45


def test_axes_of_unequal_size_or_spacing_never_turn():
    settings = WeakSettings(affine_probability=0, turn_probability=1)
    assert (draw(settings, (6, 6, 5), spacing_mm=(1, 2, 1)).axes == np.arange(3)).all()
    assert (draw(settings, (6, 5)).axes == np.arange(2)).all()


def test_each_flip_happens_half_of_the_time_and_only_where_allowed():
    flips = draw(EXACT, (6, 5, 4), count=600, flippable=(0, 2)).flips
    assert not flips[:, 1].any()
    assert (abs(flips[:, [0, 2]].mean(axis=0) - 0.5) < 0.07).all()


@pytest.mark.parametrize("patch", [(16, 12), (12, 10, 8)])
def test_untouched_samples_are_bit_for_bit_the_crop(patch):
    geometry = draw(WeakSettings(flip_axes=(), affine_probability=0.5), patch, flippable=())
    still = [row for row in range(40) if np.array_equal(geometry.affine[row], np.eye(len(patch)))]
    assert 8 < len(still) < 32
    maps = torch.rand(40, 2, *patch)
    moved = geometry.apply(maps)
    assert torch.equal(moved[still], maps[still])
    assert (geometry.margin()[still] == 0).all()


@pytest.mark.parametrize(("patch", "spacing_mm"), [((17, 13), (1.0, 1.5)), ((11, 9, 8), (1.0, 0.8, 2.0))])
def test_affine_agrees_with_scipy(patch, spacing_mm):
    geometry = draw(ALWAYS, patch, count=6, spacing_mm=spacing_mm)
    random = np.random.default_rng(0)
    for row, margin in enumerate(geometry.margin()):
        crop = random.random([n + 2 * m for n, m in zip(patch, margin, strict=True)])
        centre = (np.array(crop.shape) - 1) / 2
        offset = centre - geometry.affine[row] @ ((np.array(patch) - 1) / 2)
        expected = ndimage.affine_transform(crop, geometry.affine[row], offset, output_shape=patch, order=1)
        for axis in np.flatnonzero(geometry.flips[row]):
            expected = np.flip(expected, axis)
        (patch_of_row,) = geometry.take(row, torch.from_numpy(crop))
        np.testing.assert_allclose(patch_of_row.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("patch", [(16, 12), (10, 12, 8)])
def test_margin_suffices_and_is_no_larger_than_needed(patch):
    geometry = draw(ALWAYS, patch, count=30)
    assert (geometry.margin() > 0).any()
    half = (np.array(patch) - 1) / 2
    for row, margin in enumerate(geometry.margin()):
        corners = np.array(np.meshgrid(*[(-h, h) for h in half])).reshape(len(patch), -1)
        extent = np.abs(geometry.affine[row] @ corners).max(axis=1)
        assert (extent <= half + margin + 1e-5).all()
        assert (margin == 0)[extent <= half].all()
        assert (extent > half + margin - 1)[margin > 0].all()
        (ones,) = geometry.take(row, torch.ones([n + 2 * m for n, m in zip(patch, margin, strict=True)]))
        assert ones.min() > 0.999


@pytest.mark.parametrize("patch", [(17, 17), (9, 13, 11), (1, 8)])
def test_what_lies_within_reach_is_seen(patch):
    geometry = draw(ALWAYS, patch, count=30)
    half = (np.array(patch) - 1) / 2
    for affine, reach in zip(geometry.affine, geometry.reach(), strict=True):
        corners = np.array(np.meshgrid(*[(-r, r) for r in reach])).reshape(len(patch), -1)
        seen = np.abs(np.linalg.inv(affine) @ corners).max(axis=1)
        assert (seen <= half + 1e-9).all()


def test_rotation_and_scale_stay_within_their_settings_in_millimetres():
    spacing = np.array([1.0, 2.0, 0.5])
    settings = WeakSettings(affine_probability=1, rotation_deg=15, scale=(0.5, 2))
    for affine in draw(settings, (8, 8, 8), spacing_mm=list(spacing)).affine:
        in_mm = spacing[:, None] * affine / spacing[None]
        zoom = np.linalg.det(in_mm) ** (-1 / 3)
        rotation = in_mm * zoom
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert 0.5 <= zoom <= 2
        assert np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) <= 15 + 1e-6


def test_the_coarse_axis_is_never_rotated_nor_scaled():
    affine = draw(ALWAYS, (8, 8, 4), rotatable=(0, 1)).affine
    np.testing.assert_array_equal(affine[:, 2], np.tile([0, 0, 1], (40, 1)))
    np.testing.assert_array_equal(affine[:, :, 2], np.tile([0, 0, 1], (40, 1)))
    assert (affine[:, 0, 1] != 0).all()


@pytest.mark.parametrize("patch", [(64, 48), (32, 28, 24)])
def test_undo_brings_a_rotated_smooth_map_back(patch):
    geometry = draw(WeakSettings(affine_probability=1, rotation_deg=15, scale=(0.9, 1.1)), patch, count=6)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in patch], indexing="ij")
    bump = torch.exp(-5 * sum((axis - 0.1 * i) ** 2 for i, axis in enumerate(axes)))
    bump = bump.expand(6, 2, *patch)
    moved = geometry.apply(bump)
    assert (geometry.undo(moved) - bump).abs().max() < 0.05
    assert (moved - bump).abs().max() > 0.1


def test_image_and_label_move_together():
    geometry = draw(ALWAYS, (24, 20, 16), count=8)
    label = torch.zeros(8, 24, 20, 16, dtype=torch.int64)
    label[:, 8:16, 5:12, 6:13] = 1
    image = geometry.apply(label.float()[:, None])[:, 0]
    moved = geometry.apply(label)
    known = moved != IGNORE
    assert ((image > 0.5) == (moved == 1))[known].float().mean() > 0.99
    assert (moved == 1).sum() > 0


def test_beyond_the_patch_is_unknown_for_labels_false_for_masks_zero_for_maps():
    geometry = draw(WeakSettings(flip_axes=(), affine_probability=1, scale=(0.5, 0.5)), (12, 12), count=3)
    assert (geometry.apply(torch.ones(3, 12, 12, dtype=torch.int64))[:, 0, 0] == IGNORE).all()
    assert not geometry.apply(torch.ones(3, 12, 12, dtype=torch.bool))[:, 0, 0].any()
    assert (geometry.apply(torch.ones(3, 1, 12, 12))[:, 0, 0, 0] == 0).all()


def test_a_coarser_map_is_moved_like_the_patch():
    geometry = draw(WeakSettings(affine_probability=1, rotation_deg=20, scale=(1, 1)), (32, 32), count=4)
    fine = torch.linspace(-1, 1, 32)[None, None, :, None].repeat(4, 1, 1, 32) * torch.linspace(0.5, 1, 32)
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    expected = torch.nn.functional.avg_pool2d(geometry.apply(fine), 2)
    middle = (..., slice(4, 12), slice(4, 12))
    torch.testing.assert_close(geometry.apply(coarse)[middle], expected[middle], atol=2e-3, rtol=0)


@pytest.mark.parametrize("patch", [(5, 5), (4, 4, 3)])
def test_gradient_of_apply_and_undo(patch):
    geometry = draw(WeakSettings(affine_probability=0.7, turn_probability=0.5), patch, count=3)
    maps = torch.rand(3, 2, *patch, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.apply, maps)
    assert torch.autograd.gradcheck(geometry.undo, maps)


def test_half_precision_keeps_its_type():
    geometry = draw(ALWAYS, (8, 8), count=2)
    assert geometry.apply(torch.rand(2, 1, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_a_draw_depends_on_its_own_seed_alone():
    many = Geometry.draw([5, 6, 7], (8, 8), np.ones((3, 2)), ALWAYS, (0, 1), (0, 1))
    one = Geometry.draw([6], (8, 8), np.ones((1, 2)), ALWAYS, (0, 1), (0, 1))
    np.testing.assert_array_equal(many.affine[1], one.affine[0])
    np.testing.assert_array_equal(many.flips[1], one.flips[0])


@pytest.mark.parametrize(
    ("names", "axes"),
    [
        (("background", "left atrium"), (0, 1, 2)),
        (("background", "kidney_left", "kidney_right"), (1, 2)),
        (("background", "LeftLung", "RightLung"), (1, 2)),
        (("background", "hippocampus L", "hippocampus R"), (1, 2)),
        (("background", "Anterior", "Posterior"), (0, 2)),
        (("background", "upper lobe left", "lower lobe left", "upper lobe right"), (1,)),
        (("background", "LV", "RV", "liver"), (0, 1, 2)),
    ],
)
def test_axes_whose_sides_label_names_tell_apart_are_not_flipped(names, axes):
    assert flip_axes(WeakSettings(), names) == axes
    assert flip_axes(WeakSettings(flip_axes=(0, 1)), names) == (0, 1)


@pytest.mark.parametrize("wrong", [{"scale": (2, 1)}, {"scale": (0, 1)}, {"turn_probability": 2}, {"rotate": 1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        WeakSettings(**wrong)
