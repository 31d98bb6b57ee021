import base64
import io
import itertools
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from semivox.data.volume import Grid, Volume
from semivox.reporting.pictures import Picture, overlay

CLASSES = {"organ": (1,)}


def volume_of(array: np.ndarray, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(array[None], Grid(array.shape, np.diag([*spacing_mm, 1.0])))


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.image.partition("base64,")[2]))))


def polygons(path: str) -> list[np.ndarray]:
    return [
        np.array([[float(number) for number in point.split()] for point in ring.split("L")])
        for ring in re.findall(r"M([^Z]+)Z", path)
    ]


def area(path: str) -> float:
    """Area inside the outlines by the shoelace formula; holes run the other way round."""
    rings = [(ring[:, 0], ring[:, 1]) for ring in polygons(path)]
    return abs(sum(0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) for x, y in rings))


ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(nib.orientations.ornt2axcodes(o)))
def test_right_is_left_and_anterior_and_superior_are_up_however_the_scan_is_stored(orientation: np.ndarray) -> None:
    shape = (12, 16, 20)
    ras = np.zeros(shape, np.float32)
    ras[9:11, 12:14, 16:18] = 100  # right, anterior, superior
    ras[2:10, 2:14, 2:18] += 1
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
    stored = nib.orientations.apply_orientation(ras, back)
    affine = np.diag([1.0, 2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(back, shape)
    scan = Volume(stored[None], Grid(stored.shape, affine))
    pictures = overlay(scan, (stored > 50).astype(np.uint8), None, CLASSES)
    assert [picture.plane for picture in pictures] == ["axial", "coronal", "sagittal"]
    for picture, (left, top) in zip(pictures, ("RA", "RS", "AS"), strict=True):
        assert picture.letters[0] == left
        assert picture.letters[2] == top
    # The box of the segmented 2 × 2 × 2 voxels with a margin of 8 ends at the scan's right, front and head.
    axial, coronal, sagittal = (pixels(picture) for picture in pictures)
    assert (axial.shape, coronal.shape, sagittal.shape) == ((12, 11), (12, 11), (12, 12))
    for picture in (axial, coronal):
        rows, columns = np.nonzero(picture > 200)
        assert columns.tolist() == [1, 2, 1, 2]
        assert rows.tolist() == [2, 2, 3, 3]
    assert np.argwhere(sagittal > 200).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert [round(picture.height / picture.width, 6) for picture in pictures] == pytest.approx(
        [24 / 11, 36 / 11, 36 / 24], abs=1e-5
    )


def test_an_outline_encloses_the_area_of_its_mask_in_mm() -> None:
    scan = np.random.default_rng(0).random((30, 30, 30)).astype(np.float32)
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[5:25, 8:20, 10:15] = 1
    axial, coronal, sagittal = overlay(volume_of(scan, (0.5, 2.0, 3.0)), mask, mask, CLASSES)
    corner = 0.5 * 0.5 * 0.5  # each corner of a box is cut by half a quarter of a voxel
    for picture, voxels, pitch in ((axial, 20 * 12, 0.5 * 2), (coronal, 20 * 5, 0.5 * 3), (sagittal, 12 * 5, 2 * 3)):
        (contour,) = picture.contours
        assert area(contour.prediction) == pytest.approx((voxels - 4 * corner) * pitch, rel=1e-3)
        assert contour.reference == contour.prediction


def test_a_hole_is_cut_out_and_two_parts_are_two_outlines() -> None:
    mask = np.zeros((30, 30, 1), np.uint8)
    mask[5:15, 5:15] = 1
    mask[8:12, 8:12] = 0
    mask[20:24, 20:24] = 1
    (picture,) = overlay(volume_of(mask.astype(np.float32)), mask, None, CLASSES)
    path = picture.contours[0].prediction
    assert len(polygons(path)) == 3
    assert area(path) == pytest.approx(100 - 16 + 16, abs=1)


def test_the_slice_with_most_of_the_organ_is_shown() -> None:
    scan = np.zeros((20, 20, 10), np.float32)
    mask = np.zeros((20, 20, 10), np.uint8)
    mask[8:10, 8:10, 2:5] = 1
    mask[5:15, 5:15, 7] = 1
    axial, *_ = overlay(volume_of(scan), mask, None, CLASSES)
    assert area(axial.contours[0].prediction) > 90


def test_a_prediction_that_is_far_too_large_does_not_lead_away_from_the_reference() -> None:
    reference = np.zeros((20, 20, 10), np.uint8)
    reference[8:10, 8:10, 2] = 1
    prediction = np.zeros_like(reference)
    prediction[:, :, 7] = 1
    axial, *_ = overlay(volume_of(np.zeros(reference.shape, np.float32)), prediction, reference, CLASSES)
    assert area(axial.contours[0].reference) > 3
    empty = np.zeros_like(reference)
    axial, *_ = overlay(volume_of(np.zeros(reference.shape, np.float32)), prediction, empty, CLASSES)
    assert area(axial.contours[0].prediction) > 390


def test_a_flat_scan_has_one_plane() -> None:
    scan = np.random.default_rng(0).random((20, 1, 30)).astype(np.float32)
    (picture,) = overlay(volume_of(scan), np.zeros((20, 1, 30), np.uint8), None, CLASSES)
    assert picture.plane == "coronal"
    assert picture.contours[0].prediction == ""


def test_a_colour_picture_is_shown_as_it_is_stored() -> None:
    array = np.zeros((3, 20, 10, 1), np.uint8)
    array[0, 15:, :5] = 255  # red at the right of the top
    photograph = Volume(array, Grid((20, 10, 1), np.eye(4)), is_picture=True)
    (picture,) = overlay(photograph, np.zeros((20, 10, 1), np.uint8), None, CLASSES)
    shown = pixels(picture)
    assert shown.shape == (10, 20, 3)
    assert shown[1, 18].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert shown[8, 1].max() < 12
    assert picture.letters == ("", "", "", "")
    assert picture.scale_mm == 0


def test_regions_are_outlined_as_the_union_of_their_classes() -> None:
    classes = np.zeros((20, 20, 1), np.uint8)
    classes[5:10, 5:15] = 1
    classes[10:15, 5:15] = 2
    scan = volume_of(classes.astype(np.float32))
    (picture,) = overlay(scan, classes, None, {"whole": (1, 2), "core": (2,)})
    assert area(picture.contours[0].prediction) == pytest.approx(100, abs=1)
    assert area(picture.contours[1].prediction) == pytest.approx(50, abs=1)
    assert picture.contours[0].colour != picture.contours[1].colour


def test_voxels_that_are_no_numbers_and_constant_scans_do_not_stop_the_report() -> None:
    broken = np.full((20, 20, 20), np.nan, np.float32)
    broken[5:9] = np.inf
    for array in (broken, np.zeros((20, 20, 20), np.float32)):
        pictures = overlay(volume_of(array), np.ones((20, 20, 20), np.uint8), None, CLASSES)
        assert all(pixels(picture).shape == (20, 20) for picture in pictures)


def test_large_slices_are_reduced_but_keep_their_size_in_mm() -> None:
    array = np.random.default_rng(0).random((2000, 1000, 1)).astype(np.float32)
    (picture,) = overlay(volume_of(array, (0.1, 0.1, 1.0)), np.zeros((2000, 1000, 1), np.uint8), None, CLASSES)
    assert max(pixels(picture).shape) <= 512
    assert (picture.width, picture.height) == pytest.approx((200, 100))
