import math

import numpy as np
import pytest

from semivox.data.labels import IGNORE
from semivox.errors import DataError
from semivox.evaluation.calibration import reliability


def two_classes(foreground, reference):
    foreground = np.array(foreground, np.float32)
    return np.stack([1 - foreground, foreground]), np.array(reference, np.uint8)


def test_worked_value():
    # Confidences 0.9 (right), 0.9 (wrong), 0.6 (right), 0.7 (right), in bins (0.5, 0.75] and (0.75, 1].
    found = reliability(*two_classes([0.9, 0.1, 0.6, 0.7], [1, 1, 1, 1]), bins=4)
    assert found.count.tolist() == [0, 0, 2, 2]
    assert found.confidence[2:] == pytest.approx([0.65, 0.9])
    assert found.accuracy[2:] == pytest.approx([1.0, 0.5])
    assert found.expected_error == pytest.approx(0.5 * 0.35 + 0.5 * 0.4)


def test_equals_a_loop_over_bins_in_3d():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], (5, 6, 7)).transpose(3, 0, 1, 2)
    reference = rng.integers(0, 3, (5, 6, 7))
    confidence, right = probabilities.max(0), probabilities.argmax(0) == reference
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert reliability(probabilities, reference, bins=10).expected_error == pytest.approx(expected)


def test_certain_and_right_has_no_error():
    assert reliability(*two_classes([1, 0, 1], [1, 0, 1])).expected_error == 0


def test_unknown_voxels_are_left_out():
    assert reliability(*two_classes([1, 1, 0], [1, IGNORE, IGNORE])).count.sum() == 1
    assert math.isnan(reliability(*two_classes([1], [IGNORE])).expected_error)


def test_cases_add_up_to_all_their_voxels():
    rng = np.random.default_rng(1)
    foreground, reference = rng.random(200), rng.integers(0, 2, 200)
    halves = [reliability(*two_classes(foreground[part], reference[part])) for part in (slice(60), slice(60, None))]
    together = reliability(*two_classes(foreground, reference))
    added = halves[0] + halves[1]
    np.testing.assert_array_equal(added.count, together.count)
    np.testing.assert_allclose(added.accuracy, together.accuracy)
    assert added.expected_error == pytest.approx(together.expected_error)


def test_shapes_and_bins_that_do_not_fit_are_refused():
    probabilities, reference = two_classes([0.2, 0.8], [0, 1])
    with pytest.raises(DataError, match="shape"):
        reliability(probabilities, reference[:1])
    with pytest.raises(DataError, match="bins"):
        reliability(probabilities, reference, bins=5) + reliability(probabilities, reference, bins=6)
