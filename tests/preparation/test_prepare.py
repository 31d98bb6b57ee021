import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from semivox.data.volume import Grid, Volume
from semivox.errors import DataError
from semivox.preparation.placement import Placement, largest_shape
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.restore import restore_labels
from semivox.preparation.settings import Normalisation, Preparation


def preparation(**fields):
    return Preparation(normalisation=(Normalisation(),), **fields)


def scan(shape=(30, 26, 20), spacing=(1.0, 1.0, 2.0), seed=0):
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return Volume(
        (1000 * smooth).astype(np.int16)[None], Grid(shape, np.diag([-spacing[0], spacing[1], spacing[2], 1]))
    )


def test_the_values_are_those_of_normalising_then_cubic_zoom():
    volume = scan()
    array, placement = prepare_image(volume, preparation(spacing_mm=(1.3, 0.8, 2.0), crop="none"))
    values = volume.array[0, ::-1].astype(np.float64)
    values = (values - values.mean()) / values.std()
    expected = zoom(values, (23 / 30, 32 / 26, 1), order=3, mode="nearest", grid_mode=True)
    assert array.shape == (1, 23, 32, 20)
    assert array.dtype == np.float32
    assert np.abs(array[0] - np.clip(expected, values.min(), values.max())).max() < 1e-5 * np.abs(expected).max()
    assert placement.spacing_mm == pytest.approx((30 / 23, 26 / 32, 2.0))


def test_overshoot_of_the_spline_is_clipped_to_the_scans_range():
    values = np.zeros((1, 20, 1, 1), np.float32)
    values[0, 10:] = 1
    plan = Preparation(normalisation=(Normalisation(kind="none"),), spacing_mm=(0.7, None, None), crop="none")
    array, _ = prepare_image(Volume(values, Grid((20, 1, 1), np.eye(4))), plan)
    assert array.min() == 0
    assert array.max() == 1


@pytest.mark.parametrize(("target", "length"), [(None, 20), (2.0, 20), (2.0015, 20), (2.1, 19), (500.0, 1), (0.5, 80)])
def test_the_length_of_an_axis_follows_from_its_spacing(target, length):
    array, _ = prepare_image(scan(), preparation(spacing_mm=(None, None, target), crop="none"))
    assert array.shape[1:] == (30, 26, length)


def test_size_sets_voxels_whatever_the_spacing():
    array, placement = prepare_image(scan(), preparation(resample="size", size=(15, None, 40), crop="none"))
    assert array.shape == (1, 15, 26, 40)
    assert placement.spacing_mm == pytest.approx((2.0, 1.0, 1.0))


def test_resample_none_ignores_spacing():
    array, _ = prepare_image(scan(), preparation(resample="none", spacing_mm=(3.0, 3.0, 3.0), crop="none"))
    assert array.shape == (1, 30, 26, 20)


def test_spacing_belongs_to_the_axes_after_reorientation():
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3.0, 1.0, 2.0, 1
    volume = Volume(scan((10, 20, 30)).array, Grid((10, 20, 30), affine))
    array, placement = prepare_image(volume, preparation(spacing_mm=(2.0, 2.0, 1.5), crop="none"))
    assert array.shape == (1, 10, 30, 20)
    assert placement.spacing_mm == pytest.approx((2.0, 2.0, 1.5))


@pytest.mark.parametrize("fields", [{"spacing_mm": (0.5, 0.5, 0.2)}, {"resample": "size", "size": (48, 40, 9)}])
def test_the_slice_axis_of_a_picture_is_never_resampled(fields):
    picture = np.random.default_rng(1).integers(0, 255, (3, 24, 20, 1)).astype(np.uint8)
    plan = Preparation(normalisation=(Normalisation(),) * 3, **fields)
    array, _ = prepare_image(Volume(picture, Grid((24, 20, 1), np.eye(4)), is_picture=True), plan)
    assert array.shape == (3, 48, 40, 1)


def test_channels_are_normalised_each_by_its_own_plan():
    array = np.concatenate([scan(seed=1).array, scan(seed=2).array])
    plan = Preparation(normalisation=(Normalisation(), Normalisation(kind="none")), crop="none")
    result, _ = prepare_image(Volume(array, scan().grid), plan)
    assert result[0].std() == pytest.approx(1, abs=1e-4)
    assert (result[1, ::-1] == array[1]).all()


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(DataError, match="1 channels, the plan normalises 2"):
        prepare_image(scan(), Preparation(normalisation=(Normalisation(),) * 2))


def test_a_label_of_another_shape_is_refused():
    _, placement = prepare_image(scan(), preparation())
    with pytest.raises(DataError, match="must agree"):
        prepare_label(np.zeros((30, 26, 19), np.uint8), placement, preparation())


def test_a_label_lies_on_its_image():
    volume = scan((40, 44, 24))
    volume.array[:, :5] = volume.array[:, :, 40:] = 0
    volume.array[0, 0, 0] = volume.array[0, -1, 0] = volume.array[0, :, :, 0] = volume.array[0, :, :, -1] = 0
    bright = (volume.array[0] > volume.array.std()).astype(np.uint8)
    plan = preparation(spacing_mm=(0.8, 1.25, 1.5))
    image, placement = prepare_image(volume, plan)
    label = prepare_label(bright, placement, plan)
    assert label.shape == image.shape[1:]
    assert label.shape != bright.shape
    assert image[0][label == 1].mean() > 1
    assert image[0][label == 0].mean() < 0.2


def test_a_placement_survives_json_exactly():
    affine = np.random.default_rng(5).normal(size=(4, 4))
    affine[3] = (0, 0, 0, 1)
    _, placement = prepare_image(
        Volume(scan().array, Grid((30, 26, 20), affine)), preparation(spacing_mm=(0.9, 1.7, 1))
    )
    copy = Placement.from_json(placement.to_json())
    assert copy == placement
    assert (copy.source_grid.affine == affine).all()
    assert copy.source_grid.shape == (30, 26, 20)


def test_the_largest_shape_is_that_of_an_uncropped_scan():
    volume = scan()
    plan = preparation(spacing_mm=(0.7, 1.3, 1.1), crop="none")
    array, _ = prepare_image(volume, plan)
    assert largest_shape(volume.grid, plan) == array.shape[1:]


def slow_linear(values, shape):
    """Trilinear on grids that share their outer edges, voxel by voxel; beyond the border its value goes on."""
    result = np.zeros(shape)
    for place in np.ndindex(shape):
        corners = []
        for target, n, m in zip(place, values.shape, shape, strict=True):
            source = min(max((target + 0.5) * n / m - 0.5, 0), n - 1)
            below = int(source)
            corners.append(((below, 1 - (source - below)), (min(below + 1, n - 1), source - below)))
        for x, wx in corners[0]:
            for y, wy in corners[1]:
                for z, wz in corners[2]:
                    result[place] += wx * wy * wz * values[x, y, z]
    return result


def test_a_scan_is_resized_first_and_then_clipped_and_scaled_where_the_plan_says_so():
    volume = scan((7, 6, 5))
    window = Normalisation(kind="minmax", low=-75, high=275)
    fields = {"crop": "none", "resample": "size", "size": (9, 4, 8), "image_order": 1, "label_order": 0}
    after, before = (
        prepare_image(volume, Preparation(normalisation=(window,), normalise_after_resampling=late, **fields))[0][0]
        for late in (True, False)
    )
    resized = np.clip(slow_linear(volume.array[0, ::-1].astype(float), (9, 4, 8)), -75, 275)
    assert np.allclose(after, (resized - resized.min()) / (resized.max() - resized.min()), atol=1e-5)
    assert (after.min(), after.max()) == (0, 1)
    assert not np.allclose(before, after, atol=1e-3), "clipping and interpolation do not commute"


def test_nearest_neighbours_of_images_and_labels_are_the_same_voxels():
    volume = scan((7, 6, 5))
    plan = Preparation(
        crop="centre",
        crop_share=(2 / 3, 2 / 3, None),
        resample="size",
        size=(11, 9, 8),
        image_order=0,
        label_order=0,
        normalisation=(Normalisation(kind="minmax", low_percentile=0.5, high_percentile=99.5),),
        normalise_after_resampling=True,
    )
    array, placement = prepare_image(volume, plan)
    middle = volume.array[0, ::-1][1:5, 1:5]
    assert placement.box == ((1, 5), (1, 5), (0, 5))
    expected = np.zeros((11, 9, 8))
    for place in np.ndindex(expected.shape):
        source = [int((at + 0.5) * n / m) for at, n, m in zip(place, middle.shape, expected.shape, strict=True)]
        expected[place] = middle[tuple(source)]
    low, high = np.percentile(expected, (0.5, 99.5))
    assert np.allclose(array[0], (np.clip(expected, low, high) - low) / (high - low), atol=1e-5)
    classes = (volume.array[0] > 100).astype(np.uint8)
    assert np.array_equal(prepare_label(classes, placement, plan), expected > 100)


@pytest.mark.parametrize("late", [False, True])
def test_voxels_that_are_no_numbers_are_refused_in_either_order(late):
    volume = scan((7, 6, 5))
    values = volume.array.astype(np.float32)
    values[0, 2, 2, 2] = np.nan
    plan = preparation(resample="none", crop="none", normalise_after_resampling=late)
    with pytest.raises(DataError, match="NaN or infinite"):
        prepare_image(Volume(values, volume.grid), plan)


@pytest.mark.parametrize("fields", [{"crop": "centre"}, {"crop": "body", "crop_share": (0.5, 0.5, None)}])
def test_a_share_belongs_to_the_crop_of_the_centre(fields):
    with pytest.raises(ValueError, match="crop 'centre' and crop_share belong together"):
        preparation(**fields)


def test_slices_of_two_planes_become_alike_and_each_goes_back_to_its_own():
    axial = scan(spacing=(1.0, 1.0, 5.0))
    # The same voxels as if the patient had lain across: slices along the second axis of the file, from left to right.
    sagittal = Volume(axial.array.transpose(0, 2, 3, 1), Grid((26, 20, 30), np.eye(4)))
    sagittal.grid.affine[:3, :3] = [[0, 5.0, 0], [1.0, 0, 0], [0, 0, -1.0]]
    plan = preparation(spacing_mm=(1.0, 1.0, None), slices_last=True, crop="none")
    for volume in (axial, sagittal):
        array, placement = prepare_image(volume, plan)
        assert array.shape[-1] == 20
        assert largest_shape(volume.grid, plan) == array.shape[1:]
        classes = (volume.array[0] > 0).astype(np.uint8)
        label = prepare_label(classes, placement, plan)
        assert np.array_equal(restore_labels(label, placement), classes)
    across, _ = prepare_image(sagittal, plan)
    assert np.allclose(across[0], prepare_image(axial, plan)[0][0, ::-1, :, :].transpose(1, 0, 2)[:, ::-1])
