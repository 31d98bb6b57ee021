import itertools

import numpy as np
import pytest
import torch

from semivox.losses.dual_task import distance_mse, distance_probabilities, dual_task_mse

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    # Near enough to zero that the transform is not saturated everywhere.
    distances = 2e-3 * torch.randn(2, classes - 1, *space, generator=generator, dtype=torch.float64)
    return distances, logits, torch.rand(2, *space, generator=generator) > 0.3


def slow_dual_task(distances, logits, mask, steepness):
    squares = []
    for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
        if not mask[(b, *voxel)]:
            continue
        exponentials = np.exp(logits[(b, slice(None), *voxel)])
        for c in range(1, logits.shape[1]):
            inside = 1 / (1 + np.exp(steepness * distances[(b, c - 1, *voxel)]))
            squares.append((inside - exponentials[c] / exponentials.sum()) ** 2)
    return np.mean(squares)


def test_worked_value():
    # r = ln(3) / 1500 gives σ = 1/4, equal logits give 1/2: (1/4)² = 0.0625. r = 0 gives 1/2: no difference.
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    distances = torch.tensor([np.log(3) / 1500, 0.0]).view(1, 1, 1, 2).double()
    assert dual_task_mse(distances, logits).item() == pytest.approx(0.0625 / 2, rel=1e-12)


def test_two_classes_give_the_binary_form_of_the_paper():
    distances, logits, _ = sample((5, 4), classes=2)
    sigmoid = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]).numpy()))
    paper = ((1 / (1 + np.exp(1500 * distances[:, 0].numpy())) - sigmoid) ** 2).mean()
    assert dual_task_mse(distances, logits).item() == pytest.approx(paper, rel=1e-12)


def test_the_transform_is_one_inside_half_on_the_border_and_zero_outside():
    found = distance_probabilities(torch.tensor([-1.0, -0.01, 0.0, 0.01, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("steepness", [1500.0, 300.0])
def test_agrees_with_a_loop_over_voxels(space, steepness):
    distances, logits, mask = sample(space)
    expected = slow_dual_task(distances.numpy(), logits.numpy(), mask.numpy(), steepness)
    assert dual_task_mse(distances, logits, mask, steepness).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_regression_agrees_with_a_loop_over_voxels(space):
    distances, target, _ = sample(space)
    target = target[:, 1:].tanh()
    counted = torch.rand(distances.shape, generator=torch.Generator().manual_seed(0)) > 0.4
    squares = [float(distances[i] - target[i]) ** 2 for i in np.ndindex(distances.shape) if counted[i]]
    assert distance_mse(distances, target, counted).item() == pytest.approx(np.mean(squares), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64_reaches_both_tasks(space):
    distances, logits, mask = sample(space)
    distances.requires_grad_()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, z: dual_task_mse(r, z, mask), (distances, logits), eps=1e-8)
    assert torch.autograd.gradcheck(lambda r: distance_mse(r, logits.detach()[:, 1:].tanh()), (distances,))


@pytest.mark.parametrize("space", SPACES)
def test_nothing_that_counts_costs_nothing(space):
    distances, logits, mask = sample(space)
    nothing = torch.zeros_like(mask)
    assert dual_task_mse(distances, logits, nothing).item() == 0
    assert distance_mse(distances, logits[:, 1:], nothing.unsqueeze(1).expand(distances.shape)).item() == 0


def test_half_precision_is_computed_in_float32():
    distances, logits, _ = sample((4, 5))
    half = dual_task_mse(distances.bfloat16(), logits.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, dual_task_mse(distances.bfloat16().float(), logits.bfloat16().float()))
