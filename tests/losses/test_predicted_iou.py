import itertools

import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.predicted_iou import predicted_iou_error

SPACES = [(4, 3), (3, 2, 3)]


def sample(space):
    random = torch.Generator().manual_seed(len(space))
    label = torch.randint(0, 4, (3, *space), generator=random)
    label[torch.rand(3, *space, generator=random) < 0.2] = IGNORE
    masks = torch.randn(3, 3, *space, generator=random, dtype=torch.float64)
    scores = torch.rand(3, 3, generator=random, dtype=torch.float64)
    return scores, masks, label, torch.rand(3, 3, generator=random) < 0.7


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_count_voxel_by_voxel(space):
    scores, masks, label, asked = sample(space)
    label[0][label[0] == 1] = 0
    masks[0, 0] = -1  # both empty
    asked[0, 0] = True
    errors = []
    for b, p in itertools.product(range(3), range(3)):
        shared = either = 0
        for voxel in itertools.product(*(range(n) for n in space)):
            found, true = masks[(b, p, *voxel)] > 0, label[(b, *voxel)] == p + 1
            if label[(b, *voxel)] != IGNORE:
                shared, either = shared + bool(found & true), either + bool(found | true)
        if asked[b, p]:
            errors.append((scores[b, p].item() - (shared / either if either else 0.0)) ** 2)
    assert 1 < len(errors) < 9
    assert predicted_iou_error(scores, masks, label, asked).item() == pytest.approx(sum(errors) / len(errors))


@pytest.mark.parametrize("space", SPACES)
def test_only_the_scores_have_a_gradient_and_it_is_right(space):
    scores, masks, label, asked = sample(space)
    assert torch.autograd.gradcheck(lambda u: predicted_iou_error(u, masks, label, asked), scores.requires_grad_())
    predicted_iou_error(scores, masks.requires_grad_(), label, asked).backward()
    assert masks.grad is None


def test_nothing_asked_for_costs_nothing():
    scores, masks, label, asked = sample((4, 3))
    assert predicted_iou_error(scores, masks, label, torch.zeros_like(asked)) == 0
    assert predicted_iou_error(scores.half(), masks, label, asked).dtype == torch.float32
