import itertools

import numpy as np
import pytest
import torch

from semivox.losses.consistency import mean_softmax_mse, probability_mse, softmax_mse

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    student, teacher = torch.randn(2, 2, classes, *space, generator=generator, dtype=torch.float64)
    return student, teacher, torch.rand(2, *space, generator=generator) > 0.3


def slow_mse(student, teacher, mask):
    squares = []
    for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
        if mask[(b, *voxel)]:
            one, other = (np.exp(z[(b, slice(None), *voxel)]) for z in (student, teacher))
            squares += [(p - q) ** 2 for p, q in zip(one / one.sum(), other / other.sum(), strict=True)]
    return np.mean(squares)


def test_worked_value():
    # Probabilities (½, ½) against (0.731059, 0.268941): both differ by 0.231059, squared 0.053388.
    student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert softmax_mse(student, teacher).item() == pytest.approx(0.053388, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    student, teacher, mask = sample(space)
    arrays = student.numpy(), teacher.numpy()
    assert softmax_mse(student, teacher, mask).item() == pytest.approx(slow_mse(*arrays, mask.numpy()), rel=1e-12)
    assert softmax_mse(student, teacher).item() == pytest.approx(slow_mse(*arrays, np.ones(mask.shape)), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    student, teacher, mask = sample(space)
    assert torch.autograd.gradcheck(lambda z: softmax_mse(z, teacher, mask), student.requires_grad_())


@pytest.mark.parametrize("space", SPACES)
def test_an_empty_mask_costs_nothing(space):
    student, teacher, mask = sample(space)
    student.requires_grad_()
    loss = softmax_mse(student, teacher, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    student, teacher, _ = sample((4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_mse(student.bfloat16(), teacher.bfloat16())
    assert torch.equal(loss, softmax_mse(student.bfloat16().float(), teacher.bfloat16().float()))


def test_soft_targets_are_compared_as_they_are():
    # Two voxels, (0.9, 0.1) against (0.6, 0.4) and (0.2, 0.8) against (0.3, 0.7): squares 0.09 and 0.01.
    p = torch.tensor([[0.9, 0.2], [0.1, 0.8]]).view(1, 2, 1, 2)
    q = torch.tensor([[0.6, 0.3], [0.4, 0.7]]).view(1, 2, 1, 2)
    assert probability_mse(p, q).item() == pytest.approx(0.05)
    assert probability_mse(p, q, torch.tensor([[[True, False]]])).item() == pytest.approx(0.09)


@pytest.mark.parametrize("space", SPACES)
def test_several_decoders_are_compared_with_the_main_one_each(space):
    main, other, mask = sample(space)
    others = [other, 2 * other, main + other]
    expected = np.mean([slow_mse(one.numpy(), main.numpy(), mask.numpy()) for one in others])
    assert mean_softmax_mse(others, main, mask).item() == pytest.approx(expected, rel=1e-12)
    assert mean_softmax_mse(others, main, torch.zeros_like(mask)).item() == 0


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_reaches_the_main_decoder_too(space):
    main, other, mask = sample(space)
    inputs = main.requires_grad_(), other.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mean_softmax_mse([b, a + b], a, mask), inputs)
