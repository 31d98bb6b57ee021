import pytest

from semivox.losses.schedules import average_decay, poly, sigmoid_ramp


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.006738), (10, 0.060055), (20, 0.286505), (39, 0.996880), (40, 1.0), (60, 1.0)]
)
def test_ramp_has_the_published_values(step, expected):
    assert sigmoid_ramp(step / 40) == pytest.approx(expected, abs=1e-6)


def test_ramp_over_a_share_of_the_run_is_the_ramp_faster():
    assert sigmoid_ramp(0.1, share=0.4) == sigmoid_ramp(0.25)
    assert sigmoid_ramp(0.5, share=0.4) == 1


def test_no_ramp_is_full_weight_at_once():
    assert sigmoid_ramp(0.0, share=0.0) == 1


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0.01), (0.5, 0.005358867), (29999 / 30000, 0.000000935), (1, 0)]
)
def test_poly_has_the_published_values(progress, expected):
    assert 0.01 * poly(progress) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (1, 0.5), (9, 0.9), (98, 0.989899), (99, 0.99), (5000, 0.99)])
def test_average_decay_warms_up_to_its_limit(step, expected):
    assert average_decay(step, 0.99) == pytest.approx(expected, abs=1e-6)


def test_average_follows_the_worked_example():
    average = 1.0
    for step, (student, expected) in enumerate([(0.5, 0.5), (0.2, 0.35), (0.8, 0.5)]):
        decay = average_decay(step, 0.99)
        average = decay * average + (1 - decay) * student
        assert average == pytest.approx(expected)
