import numpy as np
import pytest
import torch

from semivox.networks.memory_bank import replaced, retrieval_probabilities

BANK = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
NEW = torch.tensor([-0.6, 0.8])


def test_retrieval_of_the_worked_example():
    cosines = torch.tensor([0.9, 0.5, -0.2])
    stored = torch.stack([cosines, (1 - cosines.square()).sqrt()], 1)
    found = retrieval_probabilities(torch.tensor([[3.0, 0.0]]), stored)
    assert torch.allclose(found, torch.tensor([[0.499203, 0.334626, 0.166170]]), atol=1e-6)


def test_each_image_has_a_distribution_of_its_own_that_no_scale_changes():
    random = torch.Generator().manual_seed(0)
    embeddings, stored = torch.randn(3, 5, generator=random), torch.randn(4, 5, generator=random)
    found = retrieval_probabilities(embeddings, stored)
    assert torch.allclose(found.sum(1), torch.ones(3))
    assert torch.allclose(found, retrieval_probabilities(9 * embeddings, 0.1 * stored), atol=1e-6)
    for image, row in zip(embeddings.numpy(), found.numpy(), strict=True):
        cosine = [image @ s / np.linalg.norm(image) / np.linalg.norm(s) for s in stored.numpy()]
        assert np.allclose(row, np.exp(cosine) / np.exp(cosine).sum(), atol=1e-6)


@pytest.mark.parametrize(("score", "expected"), [(0.71, 1), (0.69, None)])
def test_insertion_of_the_worked_example(score, expected):
    assert replaced(BANK, torch.tensor([0.1, 0.8, 0.99]), NEW, score) == expected


def test_a_new_memory_that_is_nearer_than_what_is_there_is_discarded():
    stored = torch.eye(3)
    new = torch.tensor([0.6, 0.6, 0.5])  # nearer to each than they are to one another
    assert replaced(stored, torch.zeros(3), new, 1.0) is None


def test_lengths_of_features_do_not_matter():
    scores = torch.tensor([0.1, 0.8, 0.99])
    assert replaced(BANK * torch.tensor([[5.0], [0.1], [2.0]]), scores, 7 * NEW, 0.9) == 1
