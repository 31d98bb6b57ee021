import numpy as np
import pytest
import torch

from semivox.networks import memory_bank
from semivox.networks.memory_bank import Memories, MemoryBank, replaced, retrieval_probabilities

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


def elements(*features, scores=None, embeddings=None) -> Memories:
    """Memories (N, 2, 1, 1)."""
    maps = torch.tensor(features).view(-1, 2, 1, 1)
    given = maps if embeddings is None else torch.as_tensor(embeddings).view(len(maps), -1, 1, 1)
    return Memories(maps, given, torch.zeros(len(maps)) if scores is None else torch.tensor(scores))


def test_memories_are_drawn_with_replacement_as_often_as_their_probability_says():
    cosines = torch.tensor([0.9, 0.5, -0.2])
    bank = elements(*BANK.tolist(), embeddings=torch.stack([cosines, (1 - cosines.square()).sqrt()], 1))
    numbers = (torch.arange(1000) + 0.5).view(1, -1) / 1000
    found = bank.drawn(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1), numbers)[0, :, :, 0, 0]
    shares = [(found == one).all(1).float().mean().item() for one in BANK]
    assert shares == pytest.approx([0.499203, 0.334626, 0.166170], abs=2e-3)
    assert torch.equal(bank.drawn(torch.ones(1, 2, 1, 1), torch.tensor([[1.0]]))[0, 0], bank.features[-1])


def test_a_bank_takes_what_comes_until_it_is_full_and_then_sorts_itself(monkeypatch):
    monkeypatch.setattr(memory_bank, "CAPACITY", 3)
    start = elements(*BANK[:2].tolist(), scores=[0.1, 0.8])
    # The third fits; of the worked example's new one element 1 makes room; what equals one that is there is discarded.
    found = start.after(elements(BANK[2].tolist(), NEW.tolist(), [0.0, 1.0], scores=[0.99, 0.71, 1.0]))
    assert torch.equal(found.features[..., 0, 0], torch.stack([BANK[0], BANK[2], NEW]))
    assert found.scores.tolist() == pytest.approx([0.1, 0.99, 0.71])
    low = start.after(elements(BANK[2].tolist(), NEW.tolist(), scores=[0.99, 0.69]))
    assert torch.equal(low.features[..., 0, 0], BANK), "its IoU is too low"


def test_a_bank_survives_in_its_state():
    bank, again = (MemoryBank(2, 2, (1, 1)) for _ in range(2))
    assert len(bank.read()) == 0
    bank.keep(elements(*BANK.tolist(), scores=[0.1, 0.8, 0.99]))
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.read().features[..., 0, 0], BANK)
    assert again.read().scores.tolist() == pytest.approx([0.1, 0.8, 0.99])
    bank.keep(bank.read().after(elements(NEW.tolist())))
    assert torch.equal(bank.read().features[-1, :, 0, 0], NEW)
