"""Small networks on single voxels' features, and a memory of the best features of each class.

Shapes: K classes, N voxels, E numbers of a feature.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.losses.reduction import batch_gather, batch_sum, full_precision

MOMENTUM, EPSILON = 0.1, 1e-5
"""Of the batch norm inside, torch's usual ones."""


class VoxelMLP(nn.Module):
    """Linear, batch norm, ReLU, linear, on features of voxels: (G, N, inputs) → (G, N, outputs), float32.

    G networks side by side, each with weights and statistics of its own. Voxels that do not count leave no trace in the
    statistics, which are of the whole batch, on however many processes it lies.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, groups: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.weight_in = uniform(inputs, groups, inputs, hidden)
        self.bias_in = uniform(inputs, groups, 1, hidden)
        self.scale = nn.Parameter(torch.ones(groups, 1, hidden))
        self.shift = nn.Parameter(torch.zeros(groups, 1, hidden))
        self.weight_out = uniform(hidden, groups, hidden, outputs)
        self.bias_out = uniform(hidden, groups, 1, outputs)
        self.register_buffer("running_mean", torch.zeros(groups, 1, hidden))
        self.register_buffer("running_variance", torch.ones(groups, 1, hidden))

    def forward(self, x: Tensor, counted: Tensor) -> Tensor:
        """x: (G, N, inputs). counted: (G, N) bool."""
        with torch.autocast(x.device.type, enabled=False):
            hidden = full_precision(x) @ self.weight_in + self.bias_in
            mean, variance = self.statistics(hidden, counted) if self.training else self.running
            normal = (hidden - mean) * (variance + EPSILON).rsqrt()
            return F.relu(normal * self.scale + self.shift) @ self.weight_out + self.bias_out

    @property
    def running(self) -> tuple[Tensor, Tensor]:
        """The averaged mean and variance, each (G, 1, hidden)."""
        return self.running_mean, self.running_variance

    def statistics(self, hidden: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over what counts, each (G, 1, hidden); the running ones follow, where anything counts."""
        weight = counted.unsqueeze(2).to(hidden)
        count = batch_sum(weight.sum(1, keepdim=True))
        divisor = count.clamp_min(1)
        mean = batch_sum((hidden * weight).sum(1, keepdim=True)) / divisor
        variance = batch_sum(((hidden - mean).square() * weight).sum(1, keepdim=True)) / divisor
        for running, now in zip(self.running, (mean, variance), strict=True):
            running.lerp_(now.detach(), MOMENTUM * (count > 0))
        return mean, variance


def uniform(inputs: int, *shape: int) -> nn.Parameter:
    """Weights as those of a fresh linear layer with so many inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) * inputs**-0.5)


class ClassMemory(nn.Module):
    """Up to `size` features (K, size, E) of each class, which are saved with the run."""

    features: Tensor
    stored: Tensor
    """(K, size) bool: which of the places hold a feature."""

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(classes, size, width))
        self.register_buffer("stored", torch.zeros(classes, size, dtype=torch.bool))

    @torch.no_grad()
    def refill(self, features: Tensor, scores: Tensor, candidates: Tensor) -> None:
        """Each class with candidates forgets what it had and keeps those of the highest scores, of all processes.

        features: (K, N, E), N the same on all processes. scores: (K, N). candidates: (K, N) bool.
        """
        size = self.stored.shape[1]
        ranked, best = self.highest(scores.masked_fill(~candidates, -torch.inf), features)
        everywhere = batch_gather(ranked), batch_gather(best)
        ranked, best = self.highest(*(torch.cat([*parts], 1) for parts in everywhere))
        missing = size - ranked.shape[1]
        stored = F.pad(ranked.isfinite(), (0, missing))
        refilled = stored.any(1)
        self.features.copy_(torch.where(refilled[:, None, None], F.pad(best, (0, 0, 0, missing)), self.features))
        self.stored.copy_(torch.where(refilled[:, None], stored, self.stored))

    def highest(self, scores: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The `size` highest scores (K, size) of each class, or all if fewer, and their features (K, size, E)."""
        top = scores.topk(min(self.stored.shape[1], scores.shape[1]), dim=1)
        return top.values, features.gather(1, top.indices.unsqueeze(2).expand(-1, -1, features.shape[2]))
