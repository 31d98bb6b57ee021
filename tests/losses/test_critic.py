import itertools
import math

import pytest
import torch

from semivox.losses.critic import taken_for_made, taken_for_true, vouched_for

SPACES = [(3, 4), (2, 3, 2)]


def test_worked_values():
    logits = torch.tensor([[[0.0, math.log(3)]]], dtype=torch.float64)  # σ = 0.5, 0.75
    assert taken_for_true(logits).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert taken_for_made(logits).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    # BCE(σ(z_s), 1) = 0.490415; T_m + μ · that = 0.4 + 0.5 · 0.490415 = 0.645207: only 0.75 is above it.
    assert vouched_for(logits, logits, 0.4, 0.5).tolist() == [[[False, True]]]
    assert vouched_for(logits, logits, 0.4, 0.0).tolist() == [[[True, True]]]
    assert vouched_for(logits, logits, 0.4, 1.0).tolist() == [[[False, False]]]


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    generator = torch.Generator().manual_seed(len(space))
    teacher, student = (2 * torch.randn(2, *space, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(2, *space, generator=generator) > 0.3
    true = made = count = 0.0
    for place in itertools.product(range(2), *(range(n) for n in space)):
        if weight[place]:
            sigma = 1 / (1 + math.exp(-student[place].item()))
            true, made, count = true - math.log(sigma), made - math.log(1 - sigma), count + 1
    assert taken_for_true(student, weight).item() == pytest.approx(true / count)
    assert taken_for_made(student, weight).item() == pytest.approx(made / count)
    kept = vouched_for(teacher, student, 0.3, 0.2, weight)
    assert kept.any()
    assert not kept.all()
    for place in itertools.product(range(2), *(range(n) for n in space)):
        assert kept[place] == (1 / (1 + math.exp(-teacher[place].item())) > 0.3 + 0.2 * true / count)


@pytest.mark.parametrize("space", SPACES)
def test_gradients_and_nothing_that_counts(space):
    logits = torch.randn(2, *space, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, *space) > 0.3
    assert torch.autograd.gradcheck(lambda z: taken_for_true(z, weight), logits)
    assert torch.autograd.gradcheck(lambda z: taken_for_made(z, weight), logits)
    assert taken_for_true(logits, torch.zeros(2, *space)).item() == 0
    assert not vouched_for(logits, logits, 0.4, 0.1).requires_grad
