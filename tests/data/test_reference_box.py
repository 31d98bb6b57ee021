import numpy as np
import pytest

from semivox.data.download import Arrays
from semivox.data.reference_box import cut_out, extent, widened
from semivox.data.volume import Grid

GRID = Grid((200, 200, 60), np.diag([1.0, 1.0, 2.0, 1.0]))


def side(start, stop, grid=GRID, axis=0):
    box = [slice(0, 1)] * 3
    box[axis] = slice(start, stop)
    wide = widened(box, grid)[axis]
    return wide.start, wide.stop


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (60, 130, (35, 155)),  # 25 on each side
        (10, 130, (0, 155)),  # as far as the scan goes
        (60, 190, (35, 200)),
        (100, 120, (62, 158)),  # 70 long with its margins: widened to 96
        (100, 121, (63, 159)),  # an odd voxel more goes to the end
        (5, 15, (0, 96)),  # widened, and shifted at the border
        (190, 195, (104, 200)),
    ],
)
def test_a_box_is_widened_by_25_mm_and_to_96_mm(start, stop, expected):
    assert side(start, stop) == expected


def test_margins_are_of_millimetres_and_a_short_scan_is_kept_whole():
    assert side(20, 40, axis=2) == (6, 54), "12 voxels of 2 mm on each side would be 44, 48 are 96 mm"
    short = Grid((200, 200, 30), GRID.affine)
    assert side(5, 10, short, axis=2) == (0, 30)


def test_the_extent_is_the_smallest_box_and_none_of_nothing():
    mask = np.zeros((6, 5, 4), bool)
    assert extent(mask) is None
    mask[2, 1, 3] = mask[4, 3, 3] = True
    assert extent(mask) == (slice(2, 5), slice(1, 4), slice(3, 4))


def test_what_is_cut_out_stays_where_it_is():
    image = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    affine = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3, -2], [0, 0, 0, 1]])
    cut = cut_out(Arrays(image, image % 2, Grid((6, 5, 4), affine)), [slice(1, 4), slice(2, 5), slice(3, 4)])
    assert (cut.grid.shape, cut.image.shape) == ((3, 3, 1), (3, 3, 1))
    np.testing.assert_array_equal(cut.grid.affine @ [1, 1, 0, 1], affine @ [2, 3, 3, 1])
    assert cut.image[1, 1, 0] == image[2, 3, 3]
    np.testing.assert_array_equal(cut.label, cut.image % 2)
