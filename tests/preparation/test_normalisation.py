import numpy as np
import pytest
from pydantic import ValidationError

from semivox.errors import DataError, SettingError
from semivox.preparation.normalisation import normalise
from semivox.preparation.settings import Normalisation


def slow_percentile(values, percent):
    """Between the two nearest of the sorted values, by the share of the way."""
    ordered = sorted(float(value) for value in np.ravel(values))
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@pytest.fixture
def scan():
    return np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)


def test_zscore_gives_zero_mean_and_unit_variance(scan):
    values = scan.astype(np.float64)
    expected = (values - values.mean()) / values.std()
    assert np.allclose(normalise(scan, Normalisation(kind="zscore")), expected, atol=1e-5)


def test_minmax_goes_from_0_to_1_whatever_the_units(scan):
    result = normalise(scan, Normalisation(kind="minmax"))
    expected = (scan - scan.min()) / (scan.max() - scan.min())
    assert np.allclose(result, expected, atol=1e-6)
    assert (result.min(), result.max()) == (0, 1)
    assert (normalise(np.full((3, 4, 5), 7.5), Normalisation(kind="minmax")) == 0).all()


def test_zscore_is_exact_for_values_far_from_zero():
    values = np.random.default_rng(1).normal(30000, 3, (30, 40, 50)).astype(np.float32)
    result = normalise(values, Normalisation(kind="zscore")).astype(np.float64)
    assert abs(result.mean()) < 1e-3
    assert result.std() == pytest.approx(1, abs=1e-4)


def test_a_constant_scan_becomes_zero():
    assert (normalise(np.full((3, 4, 5), 7.5), Normalisation(kind="zscore")) == 0).all()


def test_ct_clips_and_uses_the_plans_numbers(scan):
    plan = Normalisation(kind="ct", low=-160, high=240, mean=40, deviation=50)
    assert np.allclose(normalise(scan, plan), (np.clip(scan.astype(float), -160, 240) - 40) / 50, atol=1e-5)


def test_range_maps_low_and_high_to_zero_and_one():
    values = np.array([-5, 0, 51, 255, 300]).reshape(5, 1, 1)
    result = normalise(values, Normalisation(kind="range", low=0, high=255))
    assert np.allclose(result.ravel(), [0, 0, 0.2, 1, 1])


def test_none_keeps_values_and_copies(scan):
    result = normalise(scan, Normalisation(kind="none"))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert (result == scan).all()
    result[:] = 0
    assert scan.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(wrong):
    values = np.ones((3, 3, 3))
    values[1, 2, 0] = wrong
    with pytest.raises(DataError, match="NaN or infinite"):
        normalise(values, Normalisation(kind="zscore"))


def test_a_number_that_the_plan_lacks_is_named(scan):
    with pytest.raises(SettingError, match="needs `mean`"):
        normalise(scan, Normalisation(kind="ct", low=0, high=1, deviation=1))


def test_percentiles_of_the_case_clip_it_first(scan):
    low, high = slow_percentile(scan, 0.5), slow_percentile(scan, 99.5)
    expected = [(min(max(float(value), low), high) - low) / (high - low) for value in scan.ravel()]
    settings = Normalisation(kind="minmax", low_percentile=0.5, high_percentile=99.5)
    assert np.allclose(normalise(scan, settings).ravel(), expected, atol=1e-5)


def test_one_end_may_be_a_number_and_the_other_a_percentile(scan):
    high = slow_percentile(scan, 98)
    clipped = np.array([min(max(float(value), 0.0), high) for value in scan.ravel()])
    expected = (clipped - clipped.mean()) / clipped.std()
    settings = Normalisation(kind="zscore", low=0, high_percentile=98)
    assert np.allclose(normalise(scan, settings).ravel(), expected, atol=1e-5)
    assert normalise(scan, Normalisation(kind="none", low=0, high_percentile=98)).min() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0, "low_percentile": 1}, "low and low_percentile exclude each other"),
        ({"kind": "ct", "high_percentile": 99}, "give high in place of high_percentile"),
        ({"low": 5, "high": 5}, r"clips to \[5, 5\]; the first must be the smaller one"),
        ({"low_percentile": 99, "high_percentile": 1}, "the first must be the smaller one"),
        ({"high_percentile": 101}, "less than or equal to 100"),
    ],
)
def test_a_clipping_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Normalisation(**settings)
