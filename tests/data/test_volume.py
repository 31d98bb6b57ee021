import nibabel as nib
import numpy as np
import pytest

from semivox.data.volume import Grid

AFFINE = np.array([[0.0, -0.5, 0.0, 3.0], [0.7, 0.0, 0.0, -2.0], [0.0, 0.0, 4.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (20, 30, 5)


def changed(**columns: np.ndarray) -> np.ndarray:
    affine = AFFINE.copy()
    for index, column in columns.items():
        affine[:3, int(index.removeprefix("c"))] = column
    return affine


def test_spacing_is_the_length_of_one_voxel_step() -> None:
    assert Grid(SHAPE, AFFINE).spacing_mm == pytest.approx((0.7, 0.5, 4.0))


def test_orientation_is_nibabels() -> None:
    assert Grid(SHAPE, AFFINE).orientation == "".join(nib.aff2axcodes(AFFINE)) == "ALS"


def test_a_grid_differs_not_from_itself() -> None:
    assert Grid(SHAPE, AFFINE).difference(Grid(SHAPE, AFFINE.copy())) is None


def test_rounding_of_a_header_is_no_difference() -> None:
    rounded = AFFINE + np.random.default_rng(0).normal(0, 1e-5, (4, 4)) * [[1], [1], [1], [0]]
    assert Grid(SHAPE, AFFINE).difference(Grid(SHAPE, rounded)) is None


@pytest.mark.parametrize(
    ("shape", "affine", "word"),
    [
        ((20, 30, 6), AFFINE, "shape"),
        (SHAPE, changed(c2=np.array([0.0, 0.0, 5.0])), "spacing"),
        (SHAPE, changed(c0=np.array([0.0, -0.7, 0.0])), "orientation"),
        (SHAPE, changed(c3=np.array([3.0, -2.0, 10.0])), "affine"),
    ],
)
def test_a_difference_is_named_by_what_differs(shape: tuple[int, int, int], affine: np.ndarray, word: str) -> None:
    difference = Grid(SHAPE, AFFINE).difference(Grid(shape, affine))
    assert difference is not None
    assert difference.startswith(word)


def test_distance_is_that_of_the_furthest_corner() -> None:
    affine = AFFINE.copy()
    affine[0, 1] -= 0.01  # each step along Y goes 0.01 mm further: 29 steps
    assert Grid(SHAPE, AFFINE).distance_mm(Grid(SHAPE, affine)) == pytest.approx(0.29)
