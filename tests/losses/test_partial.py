import itertools

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.partial import certain_label, merge_label, merge_unknown

SPACES = [(3, 4), (2, 3, 2)]
KNOWN = torch.tensor([[False, True, False, True], [True, True, True, True]])


def sample(space):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(2, 4, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (2, *space), generator=generator)
    label[:, 0] = IGNORE
    return logits, label


@pytest.mark.parametrize("space", SPACES)
def test_background_takes_the_probability_of_unknown_classes(space):
    logits, _ = sample(space)
    p = logits.softmax(1).numpy()
    merged = merge_unknown(logits.log_softmax(1), KNOWN).exp().numpy()
    for b, k, *voxel in itertools.product(*(range(n) for n in p.shape)):
        if k == 0:
            hidden = [c for c in range(1, 4) if not KNOWN[b, c]]
            expected = p[(b, 0, *voxel)] + sum(p[(b, c, *voxel)] for c in hidden)
        else:
            expected = p[(b, k, *voxel)] if KNOWN[b, k] else 0.0
        assert merged[(b, k, *voxel)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_nothing_unknown_changes_nothing(space):
    logits, label = sample(space)
    known = torch.ones(2, 4, dtype=torch.bool)
    log_p = logits.log_softmax(1)
    assert torch.allclose(merge_unknown(log_p, known), log_p, rtol=1e-12)
    assert torch.equal(merge_label(label, known), label)


@pytest.mark.parametrize("space", SPACES)
def test_unknown_classes_in_a_label_become_background_and_ignore_stays(space):
    _, label = sample(space)
    merged = merge_label(label, KNOWN).numpy()
    table = {0: 0, 1: 1, 2: 0, 3: 3, IGNORE: IGNORE}
    assert np.array_equal(merged[0], np.vectorize(table.get)(label[0].numpy()))
    assert np.array_equal(merged[1], label[1].numpy())


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    logits, _ = sample(space)
    finite = KNOWN.view(2, 4, *[1] * len(space)).expand_as(logits).clone()
    finite[:, 0] = True

    def loss(z):
        return merge_unknown(z.log_softmax(1), KNOWN)[finite]

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_known_is_left_as_it_was():
    known = KNOWN.clone()
    merge_unknown(torch.randn(2, 4, 3, 3).log_softmax(1), known)
    assert torch.equal(known, KNOWN)


@pytest.mark.parametrize("space", SPACES)
def test_background_is_uncertain_where_classes_lie_hidden_in_it(space):
    _, label = sample(space)
    found = certain_label(label, KNOWN).numpy()
    for b, *voxel in itertools.product(*(range(n) for n in found.shape)):
        y = int(label[(b, *voxel)])
        hidden = b == 0 and y in (0, 2)
        assert found[(b, *voxel)] == (IGNORE if hidden else y)
