import itertools

import nibabel as nib
import numpy as np
import pytest

from semivox.errors import DataError
from semivox.preparation.orientation import prepared_axes, ras_axes, reorient, slice_axis

ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(axes, signs, spacing=(0.7, 1.1, 2.0)):
    """Array axis i points along world axis `axes[i]`, in direction `signs[i]`."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[axes[axis], axis] = signs[axis] * spacing[axis]
    affine[:3, 3] = (12.5, -30.0, 7.0)
    return affine


def rotation(angle, axis):
    """A turn about one world axis, in degrees."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.eye(4)
    first, second = [other for other in range(3) if other != axis]
    turn[first, first] = turn[second, second] = c
    turn[first, second], turn[second, first] = -s, s
    return turn


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_every_orientation_becomes_ras_as_nibabel_makes_it(axes, signs):
    affine = affine_of(axes, signs)
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine))
    assert (reorient(array, *ras_axes(affine)) == np.asarray(expected.dataobj)).all()


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_oblique_scan_goes_where_the_nearest_straight_one_goes(axes, signs, axis):
    affine = affine_of(axes, signs)
    assert ras_axes(rotation(30, axis) @ affine) == ras_axes(affine)


def test_reorienting_is_a_view_and_keeps_leading_axes():
    array = np.zeros((2, 3, 4, 5))
    view = reorient(array, (2, 0, 1), (True, False, False))
    assert view.shape == (2, 5, 3, 4)
    view[1, 0, 2, 3] = 1
    assert array[1, 2, 3, 4] == 1


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan)])
def test_an_affine_without_three_directions_is_refused(affine):
    with pytest.raises(DataError, match="three directions"):
        ras_axes(affine)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_slices_lie_across_the_last_axis_and_their_own_axes_keep_the_anatomical_order(axes, signs):
    affine = affine_of(axes, signs, spacing=(0.7, 1.1, 5.0))
    (x, y, z), flips = prepared_axes(affine, slices_last=True)
    assert z == 2
    assert axes[x] < axes[y]
    assert all(flip == (signs[axis] < 0) for flip, axis in zip(flips, (x, y, z), strict=True))
    assert prepared_axes(affine, slices_last=False) == ras_axes(affine)


def test_slices_are_the_thick_voxels_else_the_last_axis_of_the_file():
    assert slice_axis((5.0, 1.0, 1.0)) == 0
    assert slice_axis((1.2, 1.0, 1.0)) == 2
    assert slice_axis((1.2, 1.0, 1.0), last=1) == 1


def test_an_oblique_short_axis_stack_keeps_its_slices():
    affine = rotation(35, 0) @ rotation(40, 2) @ affine_of((1, 2, 0), (-1, -1, -1), spacing=(1.5, 1.5, 5.0))
    assert prepared_axes(affine, slices_last=True) == ((0, 1, 2), (True, True, True))
