import itertools

import pytest
import torch

from semivox.losses.multi_view import dropout_confidence, fused_by_others

SPACES = [(3, 4), (2, 3, 2)]


def test_worked_value_of_the_confidence():
    # Two passes, one voxel: 0.6 and 0.8 of the first class: variance 0.01 in both classes.
    passes = torch.tensor([[0.6, 0.4], [0.8, 0.2]], dtype=torch.float64).view(2, 1, 2, 1, 1)
    assert dropout_confidence(passes, 0.01).item() == pytest.approx(50.0)
    assert dropout_confidence(passes[[0, 0]], 0.01).item() == pytest.approx(100.0)


def test_worked_value_of_the_fused_label():
    # Three views of one voxel: p = 0.9, 0.5, 0.1 with c = 1, 3, 2.
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], dtype=torch.float64).view(3, 1, 2, 1, 1)
    c = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1)
    fused = fused_by_others(p, c)[:, 0, 0, 0, 0]
    assert fused.tolist() == pytest.approx([(1.5 + 0.2) / 5, (0.9 + 0.2) / 3, (0.9 + 1.5) / 4])


def test_of_two_views_each_gets_the_others_prediction_however_sure_they_are():
    p = torch.rand(2, 1, 3, 4, 5).softmax(2)
    torch.testing.assert_close(fused_by_others(p, torch.rand(2, 1, 4, 5) + 0.1), p.flip(0))


def test_a_view_that_is_far_surer_than_the_others_leaves_no_rounding_in_its_own_label():
    p = torch.rand(3, 1, 2, 2, 2).softmax(2)
    c = torch.tensor([1e8, 1.0, 2.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    torch.testing.assert_close(fused_by_others(p, c)[0], (p[1] + 2 * p[2]) / 3)


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    generator = torch.Generator().manual_seed(len(space))
    views, passes, epsilon = 3, 4, 1e-3
    looks = torch.randn(views, passes, 2, 3, *space, generator=generator, dtype=torch.float64).softmax(3)
    confidence = torch.stack([dropout_confidence(own, epsilon) for own in looks])
    fused = fused_by_others(looks.mean(1), confidence)
    for b, *voxel in itertools.product(range(2), *(range(n) for n in space)):
        at = [[looks[(v, n, b, slice(None), *voxel)].tolist() for n in range(passes)] for v in range(views)]
        mean = [[sum(one[k] for one in own) / passes for k in range(3)] for own in at]
        variance = [
            sum(sum((one[k] - mean[v][k]) ** 2 for one in own) / passes for k in range(3)) / 3
            for v, own in enumerate(at)
        ]
        sure = [1 / (value + epsilon) for value in variance]
        for i in range(views):
            others = [j for j in range(views) if j != i]
            for k in range(3):
                expected = sum(sure[j] * mean[j][k] for j in others) / sum(sure[j] for j in others)
                assert fused[(i, b, k, *voxel)].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_gradients(space):
    looks = torch.rand(3, 2, 1, 2, *space, dtype=torch.float64, requires_grad=True)

    def function(looks):
        confidence = torch.stack([dropout_confidence(own, 0.1) for own in looks])
        return fused_by_others(looks.mean(1), confidence)

    assert torch.autograd.gradcheck(function, looks)
