"""The self-sorting memory bank of Medical SAM 2 (Zhu et al., 2024): which memories are read, and which are kept.

Pure functions; a bank is N elements in order, each a memory feature, a predicted IoU and an image embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CAPACITY = 16
"""Elements from which on a new one must replace an old one."""
MARGIN = 0.1
"""By how much a new memory's predicted IoU may be lower than that of the one it replaces."""


def retrieval_probabilities(embeddings: Tensor, stored: Tensor) -> Tensor:
    """With which probability each stored element is drawn for each image: softmax over cosine similarities (B, N).

    embeddings: (B, D), before memory attention. stored: (N, D), of the bank. As in their code, for each image as many
    indices as the batch has are then drawn with replacement.
    """
    return (F.normalize(embeddings, dim=1) @ F.normalize(stored, dim=1).mT).softmax(1)


def replaced(stored: Tensor, scores: Tensor, new: Tensor, score: float, margin: float = MARGIN) -> int | None:
    """The element of a full bank that makes room for a new one, which is appended; None: the new one is discarded.

    stored: memory features (N, D), N at least 2. scores: predicted IoU u (N,). new: m* (D,), with its IoU u*.
    With s_i = cos(m*, m_i), a = argmin s_i, b = argmax_{i ≠ a} cos(m_a, m_i): b goes if s_a < cos(m_a, m_b), which says
    that the new one differs more from a than b does, and u* > u_b - margin.
    """
    directions = F.normalize(stored, dim=1)
    to_new = directions @ F.normalize(new, dim=0)
    a = int(to_new.argmin())
    to_a = directions @ directions[a]
    to_a[a] = -torch.inf
    b = int(to_a.argmax())
    return b if to_new[a] < to_a[b] and score > scores[b] - margin else None
