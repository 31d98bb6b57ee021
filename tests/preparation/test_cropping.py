import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semivox.preparation.cropping import body_box, centre_box, whole_box


def test_the_box_holds_what_differs_from_the_corners():
    array = np.full((1, 10, 12, 14), -1024, np.int16)
    array[0, 2:5, 3:4, 6:14] = 7
    assert body_box(array) == ((2, 5), (3, 4), (6, 14))


def test_one_differing_corner_means_no_crop():
    array = np.zeros((1, 6, 6, 6))
    array[0, 3, 3, 3] = 1
    array[0, 5, 0, 5] = 2
    assert body_box(array) == whole_box(array.shape)


def test_a_body_that_touches_a_border_is_kept_to_its_last_voxel():
    array = np.zeros((1, 6, 7, 8))
    array[0, 0, 3, 7] = 1
    array[0, 5, 3, 4] = 1
    assert body_box(array) == ((0, 6), (3, 4), (4, 8))


def test_the_box_holds_the_body_of_every_channel():
    array = np.zeros((2, 8, 8, 8))
    array[0, 1:3, 4, 4] = 1
    array[1] = 9
    array[1, 4, 5:7, 2] = 1
    assert body_box(array) == ((1, 5), (4, 7), (2, 5))


def test_a_constant_scan_is_kept_whole():
    assert body_box(np.ones((1, 4, 5, 6))) == whole_box((4, 5, 6))


def test_nan_in_the_corners_means_no_crop():
    array = np.full((1, 4, 4, 4), np.nan)
    array[0, 1, 1, 1] = 1
    assert body_box(array) == whole_box(array.shape)


def test_a_picture_loses_its_black_border_but_not_its_slice():
    picture = np.zeros((3, 9, 8, 1), np.uint8)
    picture[:, 2:7, 1:6] = 200
    assert body_box(picture) == ((2, 7), (1, 6), (0, 1))


@given(st.lists(st.tuples(*(st.integers(1, n - 2) for n in (5, 6, 4))), min_size=1, max_size=5))
def test_the_box_is_the_smallest_that_holds_the_body(voxels):
    array = np.zeros((1, 5, 6, 4))
    for voxel in voxels:
        array[(0, *voxel)] = 1
    assert body_box(array) == tuple((min(places), max(places) + 1) for places in zip(*voxels, strict=True))


@given(st.tuples(*[st.integers(1, 700)] * 3))
def test_two_thirds_are_the_half_of_the_axis_plus_and_minus_its_third(shape):
    box = centre_box(shape, (2 / 3, 2 / 3, None))
    for length, ends in zip(shape[:2], box[:2], strict=True):
        third = length // 3
        assert ends == ((length // 2 - third, length // 2 + third) if third else (length // 2, length // 2 + 1))
    assert box[2] == (0, shape[2])


@given(st.integers(1, 300), st.floats(0.01, 1))
def test_the_middle_lies_inside_and_has_at_most_its_share(length, share):
    start, stop = centre_box((length, 1, 1), (share, None, None))[0]
    assert 0 <= start < stop <= length
    assert stop - start <= max(length * share + 1e-3, 1)
