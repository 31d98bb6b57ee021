"""How rare each class is among the labels seen lately: weights by which rare classes count more."""

import torch
from torch import Tensor, nn


class ClassDistribution(nn.Module):
    """w_k = K · ln(n_max / n_k) / max_j ln(n_max / n_j), n the voxels of each class in a batch.

    The most frequent class, as a rule the background, has weight 0, the rarest K. Distribution-aware weighting of DHC
    (Wang & Li, DHC: dual-debiased heterogeneous co-training framework for class-imbalanced semi-supervised medical
    image segmentation, MICCAI 2023), as their code has it.

    Ours: n is averaged over the steps, with decay 1 - 1/window, and a voxel is added to every class. There the weights
    themselves are averaged, so that one batch without a class, of ratio 1e8 and more, takes the others' weights away;
    here it hardly changes them. Classes that are all equally frequent, there 0/0, have equal weights. There n is of a
    network's predictions of unlabelled patches, and of the labelled set before the first step; here of what labels say.
    """

    count: Tensor
    """n (K,), 0 before the first step."""

    def __init__(self, classes: int, window: int = 100) -> None:
        super().__init__()
        self.keep = 1 - 1 / window
        self.register_buffer("count", torch.zeros(classes, dtype=torch.float64))
        self._next: Tensor | None = None

    @torch.no_grad()
    def forward(self, count: Tensor) -> Tensor:
        """The weights (K,) at a step whose labels hold `count` (K,) voxels of each class. The step is taken in by
        `advance`, not before, so that a step that is computed again has the same weights."""
        count = count.to(self.count)
        self._next = torch.where(self.count.sum() > 0, self.count.lerp(count, 1 - self.keep), count)
        return self._weights(self._next)

    def _weights(self, count: Tensor) -> Tensor:
        ratio = ((count.max() + 1) / (count + 1)).log()
        weights = len(count) * ratio / ratio.max()
        return torch.where(ratio.max() > 0, weights, 1.0).float()

    @property
    def weights(self) -> Tensor:
        """(K,), those of the last step that was taken in."""
        return self._weights(self.count)

    @torch.no_grad()
    def advance(self) -> None:
        """Takes in the last step; once a step, where there was one."""
        if self._next is not None:
            self.count.copy_(self._next)
        self._next = None
