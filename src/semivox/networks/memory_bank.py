"""The self-sorting memory bank of Medical SAM 2 (Zhu et al., 2024): which memories are read, and which are kept.

A bank is N elements in order, each a memory feature, a predicted IoU and an image embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
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


@dataclass(frozen=True)
class Memories:
    """N elements, the eldest first: float32, without gradient."""

    features: Tensor
    """(N, 64, h, w)."""
    embeddings: Tensor
    """(N, C, h, w): the image's stride-16 map after memory attention."""
    scores: Tensor
    """(N,): u, the predicted IoU of the mask."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor | slice | Sequence[int]) -> "Memories":
        return Memories(self.features[chosen], self.embeddings[chosen], self.scores[chosen])

    def drawn(self, embeddings: Tensor, numbers: Tensor) -> Tensor:
        """Features (B, M, 64, h, w) for images with stride-16 maps (B, C, h, w), before memory attention: M elements
        each, drawn with replacement by `retrieval_probabilities`; numbers (B, M) in [0, 1) say which."""
        shares = retrieval_probabilities(embeddings.flatten(1), self.embeddings.flatten(1))
        # The last bound may fall below 1 by rounding.
        place = torch.searchsorted(shares.cumsum(1), numbers.to(shares), right=True).clamp_max(len(self) - 1)
        return self.features[place]

    def after(self, new: "Memories") -> "Memories":
        """With new elements, one after the other: appended while there is room, then self-sorting by `replaced`.

        The public code appends a whole batch where there is any room, and so may hold more than `CAPACITY`; this never
        does.
        """
        every = Memories(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(new).values(), strict=True)))
        flat = every.features.flatten(1)
        kept = list(range(len(self)))
        for candidate in range(len(self), len(every)):
            if len(kept) == CAPACITY:
                gone = replaced(flat[kept], every.scores[kept], flat[candidate], float(every.scores[candidate]))
                if gone is None:
                    continue
                del kept[gone]
            kept.append(candidate)
        return every[kept]


class MemoryBank(nn.Module):
    """Keeps memories between steps, and with the run.

    feature_width, width: channels of features and embeddings. grid: (h, w) of all maps.
    """

    features: Tensor
    embeddings: Tensor
    scores: Tensor
    count: Tensor

    def __init__(self, feature_width: int, width: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(CAPACITY, feature_width, *grid))
        self.register_buffer("embeddings", torch.zeros(CAPACITY, width, *grid))
        self.register_buffer("scores", torch.zeros(CAPACITY))
        self.register_buffer("count", torch.tensor(0))

    def read(self) -> Memories:
        """What is kept."""
        return Memories(self.features, self.embeddings, self.scores)[: int(self.count)]

    def keep(self, memories: Memories) -> None:
        """These, and no others."""
        for name, part in vars(memories).items():
            getattr(self, name)[: len(part)] = part
        self.count.fill_(len(memories))
