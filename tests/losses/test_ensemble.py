import itertools
import math

import pytest
import torch

from semivox.losses.ensemble import combat_conflicts, entropy_weighted_ensemble

SPACES = [(3, 4), (2, 3, 2)]


def voxels(shape):
    return itertools.product(*(range(n) for n in shape))


def sample(space, classes=3):
    """Logits of two teachers and a student."""
    generator = torch.Generator().manual_seed(len(space))
    return [2 * torch.randn(2, classes, *space, generator=generator, dtype=torch.float64) for _ in range(3)]


def maps(*voxels):
    """Probabilities per voxel → logits (1, K, voxels, 1)."""
    return torch.tensor(voxels, dtype=torch.float64).T.log()[None, :, :, None]


FIRST = maps([0.9, 0.1], [0.6, 0.4], [0.55, 0.45])
SECOND = maps([0.7, 0.3], [0.2, 0.8], [0.3, 0.7])
STUDENT = maps([0.5, 0.5], [0.97, 0.03], [0.52, 0.48])


def test_worked_value_of_the_ensemble():
    ensemble = entropy_weighted_ensemble(FIRST, SECOND)[0, :, :, 0].T
    expected = [[0.820328, 0.179672], [0.375226, 0.624774], [0.418039, 0.581961]]
    torch.testing.assert_close(ensemble, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_worked_value_of_conflict_combating():
    ensemble = entropy_weighted_ensemble(FIRST, SECOND)
    label, confidence = combat_conflicts(ensemble, FIRST, SECOND, STUDENT)
    assert label.flatten().tolist() == [0, 0, 1]
    assert confidence.flatten().tolist() == pytest.approx([0.820328, 0.97, 0.581961], abs=1e-6)
    assert (confidence >= 0.8).flatten().tolist() == [True, True, False]


def slow_softmax(logits):
    powers = [math.exp(z) for z in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    first, second, student = sample(space)
    ensemble = entropy_weighted_ensemble(first, second)
    label, confidence = combat_conflicts(ensemble, first, second, student)
    told = 0
    for b, *voxel in voxels(label.shape):
        place = (b, slice(None), *voxel)
        p1, p2, own = (slow_softmax(logits[place].tolist()) for logits in (first, second, student))
        h1, h2 = (-sum(p * math.log2(p + 1e-10) for p in each) for each in (p1, p2))
        w1 = math.exp(-h1) / (math.exp(-h1) + math.exp(-h2))
        psi = [w1 * a + (1 - w1) * b for a, b in zip(p1, p2, strict=True)]
        assert ensemble[place].tolist() == pytest.approx(psi, abs=1e-8)
        expected, sure = psi.index(max(psi)), max(psi)
        quarrel = p1.index(max(p1)) != p2.index(max(p2))
        if quarrel and own.index(max(own)) != expected and max(own) > sure:
            expected, sure, told = own.index(max(own)), max(own), told + 1
        assert label[(b, *voxel)] == expected
        assert confidence[(b, *voxel)].item() == pytest.approx(sure, abs=1e-8)
    assert told, "the student never had its way: the loop proves little"


@pytest.mark.parametrize("space", SPACES)
def test_the_ensemble_is_a_probability_between_its_teachers(space):
    first, second, _ = sample(space)
    ensemble = entropy_weighted_ensemble(first, second)
    torch.testing.assert_close(ensemble.sum(1), torch.ones_like(ensemble[:, 0]))
    low, high = torch.minimum(first.softmax(1), second.softmax(1)), torch.maximum(first.softmax(1), second.softmax(1))
    assert ((ensemble >= low - 1e-12) & (ensemble <= high + 1e-12)).all()
    assert torch.allclose(ensemble, entropy_weighted_ensemble(second, first))


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    first, second, _ = (logits.requires_grad_() for logits in sample(space))
    assert torch.autograd.gradcheck(entropy_weighted_ensemble, (first, second))


def test_teachers_that_agree_are_never_overruled():
    label, confidence = combat_conflicts(maps([0.6, 0.4]).exp(), maps([0.6, 0.4]), maps([0.7, 0.3]), maps([0.01, 0.99]))
    assert label.item() == 0
    assert confidence.item() == pytest.approx(0.6)


def test_half_precision_is_computed_in_float32_and_certainty_stays_finite():
    sure = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ensemble = entropy_weighted_ensemble(sure, -sure)
    assert ensemble.dtype == torch.float32
    assert ensemble.flatten().tolist() == pytest.approx([0.5, 0.5, 0.0])
