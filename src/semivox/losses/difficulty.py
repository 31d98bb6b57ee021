"""How hard each class is at the moment: the weights by which rare and stagnating classes come to count more."""

import torch
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.losses.partial import hidden_classes, merge_label
from semivox.losses.reduction import batch_sum

TINY = 1e-8


def hard_dice(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """(2 TP + s) / (2 TP + FP + FN + 2 s) per class (K,), s = 1e-8, over the whole batch; 1/2 for a class in neither.

    prediction, label: (B, *space) class indices; where the label is `IGNORE` nothing counts. No gradient.
    """
    channels = torch.arange(classes, device=label.device).view(1, -1, *[1] * (label.ndim - 1))
    predicted = (prediction.unsqueeze(1) == channels) & (label != IGNORE).unsqueeze(1)
    true = label.unsqueeze(1) == channels
    everything_but_class = [0, *range(2, true.ndim)]
    counts = torch.stack([found.sum(everything_but_class) for found in (predicted & true, predicted, true)])
    overlap, predictions, truths = batch_sum(counts.float())
    return (2 * overlap + TINY) / (predictions + truths + 2 * TINY)


class Difficulty(nn.Module):
    """w_k = K · R_k · (B_k / A_k)^{1/5}: how far class k is from learnt, times how much it lately unlearned to learned.

    λ_k is the class's hard Dice at a step and Δ, r = ln(λ / λ_prev) its changes. Over a window of τ steps, averages of
    what was learned, A, of max(Δ, 0) r, what was unlearned, B, of min(Δ, 0) r, and of what is missing, R, of 1 - λ.

    Wang & Li, NeurIPS 2023 (their code). The weights are not bounded, and begin tiny: the first step looks like much
    learning. `normalise` divides by the largest first, as the authors' DHC does (Wang & Li, MICCAI 2023).
    """

    previous: Tensor
    """λ_prev (K,)."""
    learned: Tensor
    """A (K,)."""
    unlearned: Tensor
    """B (K,)."""
    missing: Tensor
    """R (K,)."""

    def __init__(self, classes: int, window: int = 50, normalise: bool = False) -> None:
        super().__init__()
        self.keep = 1 - 1 / window
        self.normalise = normalise
        for name, value in (("previous", TINY), ("learned", 0.0), ("unlearned", 0.0), ("missing", 1.0)):
            self.register_buffer(name, torch.full((classes,), value))
        self._next: dict[str, Tensor] = {}

    @torch.no_grad()
    def dice(self, prediction: Tensor, label: Tensor, known: Tensor | None) -> Tensor:
        """`hard_dice` (K,) in which what samples do not annotate is their background, and a class that none of them
        annotates stays as it was. known: (B, K) bool; None: all annotate everything."""
        classes = len(self.previous)
        if known is None:
            return hard_dice(prediction, label, classes)
        found = hard_dice(merge_label(prediction, known), merge_label(label, known), classes)
        annotated = batch_sum((~hidden_classes(known)).sum(0).to(found)) > 0
        return torch.where(annotated, found, self.previous.to(found))

    @torch.no_grad()
    def forward(self, dice: Tensor) -> Tensor:
        """The weights (K,) at a step whose hard Dice is `dice` (K,). The step is taken in by `advance`, not before, so
        that a step that is computed again has the same weights."""
        dice = dice.to(self.previous)
        change, ratio = dice - self.previous, (dice / self.previous).log()
        self._next = {
            "previous": dice,
            "learned": self.learned.lerp(change.clamp(min=0) * ratio, 1 - self.keep),
            "unlearned": self.unlearned.lerp(change.clamp(max=0) * ratio, 1 - self.keep),
            "missing": self.missing.lerp(1 - dice, 1 - self.keep),
        }
        return self._weights(self._next)

    def _weights(self, state: dict[str, Tensor]) -> Tensor:
        balance = ((state["unlearned"] + TINY) / (state["learned"] + TINY)) ** 0.2
        weights = state["missing"] * balance
        if self.normalise:
            weights = weights / weights.max().clamp(min=TINY)
        return len(weights) * weights

    @property
    def weights(self) -> Tensor:
        """(K,), those of the last step that was taken in."""
        return self._weights(dict(self.named_buffers()))

    @torch.no_grad()
    def advance(self) -> None:
        """Takes in the last step; once a step, where there was one."""
        for name, value in self._next.items():
            self.get_buffer(name).copy_(value)
        self._next = {}
