import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semivox.evaluation.overlap import Overlap, mean_dice


def test_worked_values():
    a, b = np.zeros((2, 7, 7), bool)
    a[1:5, 1:5] = True
    b[2:6, 2:5] = True
    overlap = Overlap.of(a, b)
    assert (overlap.prediction, overlap.reference, overlap.intersection) == (16, 12, 9)
    assert overlap.dice == pytest.approx(0.642857, abs=1e-6)
    assert overlap.jaccard == pytest.approx(0.473684, abs=1e-6)
    assert overlap.volume_error == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("prediction", "reference", "empty", "dice", "volume_error"),
    [
        (0, 0, "both", 1.0, math.nan),
        (0, 5, "prediction", 0.0, -1.0),
        (5, 0, "reference", 0.0, math.nan),
        (5, 5, None, 0, 0),
    ],
)
def test_empty_masks(prediction, reference, empty, dice, volume_error):
    overlap = Overlap(prediction, reference, 0)
    assert overlap.empty == empty
    assert overlap.dice == overlap.jaccard == dice
    assert overlap.volume_error == pytest.approx(volume_error, nan_ok=True)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_jaccard_follows_from_dice_and_neither_depends_on_the_order(only_a, only_b, both):
    overlap = Overlap(only_a + both, only_b + both, both)
    swapped = Overlap(only_b + both, only_a + both, both)
    assert overlap.jaccard == pytest.approx(overlap.dice / (2 - overlap.dice))
    assert (overlap.dice, overlap.jaccard) == (swapped.dice, swapped.jaccard)
    assert 0 <= overlap.jaccard <= overlap.dice <= 1


def test_mean_dice_equals_a_count_by_hand():
    prediction = np.array([0, 1, 1, 2, 2, 0])
    reference = np.array([0, 1, 2, 2, 255, 0])
    assert mean_dice(prediction, reference, 4) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert math.isnan(mean_dice(np.zeros(3, int), np.zeros(3, int), 2))
