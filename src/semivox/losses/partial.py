"""Labels that know only some of the classes: what a task does not annotate lies hidden in its background.

The marginal loss (Shi et al., Marginal loss and exclusion loss for partially supervised multi-organ segmentation, MedIA
2021): merge the probabilities of the classes that a sample does not annotate into its background, then compare as ever.
"""

import torch
from torch import Tensor

from semivox.data.labels import IGNORE


def merge_unknown(log_probabilities: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities (B, K, *space) in which background holds itself and the unknown classes; those have -inf.

    known: (B, K) bool, the classes that a sample's label annotates; class 0 is background, whatever stands there.
    """
    hidden = hidden_classes(known).view(*known.shape, *[1] * (log_probabilities.ndim - 2))
    merged = hidden.clone()
    merged[:, 0] = True
    background = log_probabilities.masked_fill(~merged, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([background, log_probabilities.masked_fill(hidden, -torch.inf)[:, 1:]], 1)


def merge_label(label: Tensor, known: Tensor) -> Tensor:
    """The label (B, *space) with unknown classes, should it hold any, turned into background; `IGNORE` stays."""
    flat = label.flatten(1)
    is_hidden = hidden_classes(known).gather(1, flat.masked_fill(flat == IGNORE, 0))
    return flat.masked_fill(is_hidden, 0).view_as(label)


def certain_label(label: Tensor, known: Tensor) -> Tensor:
    """The label (B, *space) with `IGNORE` instead of background in samples in whose background classes lie hidden."""
    hides = hidden_classes(known).any(1).view(-1, *[1] * (label.ndim - 1))
    merged = merge_label(label, known)
    return merged.masked_fill((merged == 0) & hides, IGNORE)


def hidden_classes(known: Tensor) -> Tensor:
    """(B, K) bool: classes that lie hidden in the background; never background itself."""
    hidden = ~known
    hidden[:, 0] = False
    return hidden
