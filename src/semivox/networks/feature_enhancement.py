"""Feature enhancement between two views of a scan, without learned weights.

SSS (Zhu et al., 2025) adds to the features of a weak and of a strong view what it reconstructs of both by where they
agree and where they do not; its formula could not be read. These are definitions of ours that keep to what is known of
it: features of one scale from both views, similarity and dissimilarity, a reconstruction added to each view's own.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-8


def precise(x: Tensor) -> Tensor:
    """In float32, or float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def similarity(weak: Tensor, strong: Tensor) -> Tensor:
    """S = (1 + c) / 2 (B, 1, *space), c = <F_w, F_s> / (max(|F_w|, ε) max(|F_s|, ε)) over channels; from 0 to 1.

    weak, strong: F_w, F_s (B, C, *space). Where a view is 0, S is ½.
    """
    weak, strong = precise(weak), precise(strong)
    norms = [torch.linalg.vector_norm(view, dim=1, keepdim=True).clamp_min(EPSILON) for view in (weak, strong)]
    cosine = (weak / norms[0] * (strong / norms[1])).sum(1, keepdim=True)
    return (1 + cosine.clamp(-1, 1)) / 2


def reconstruct(weak: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
    """R_w = S M + D Δ and R_s = S M - D Δ, each (B, C, *space); M = (F_w + F_s) / 2, Δ = (F_w - F_s) / 2, D = 1 - S.

    Where views agree the noise between them is averaged away; where they do not, what is a view's own is kept.
    """
    weak, strong = precise(weak), precise(strong)
    agreement = similarity(weak, strong)
    shared = agreement * (weak + strong) / 2
    own = (1 - agreement) * (weak - strong) / 2
    return shared + own, shared - own


def enhance(
    weak: Tensor,
    strong: Tensor,
    strength: float = 0.5,
    *,
    residual: Literal["difference", "sum"] = "difference",
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """F_w + β (R_w - F_w) and F_s + β (R_s - F_s), in the type of the features.

    weak, strong: F_w, F_s (B, C, *space). strength: β; 0 changes nothing, and nor does any where the views are equal.
    residual: `sum` adds β R instead, as the figure of the paper may be read. project: applied to R, e.g. a convolution.
    """
    enhanced = []
    for view, found in zip((weak, strong), reconstruct(weak, strong), strict=True):
        target = found if project is None else project(found)
        own = precise(view)
        change = target - own if residual == "difference" else target
        enhanced.append((own + strength * change).to(view.dtype))
    return enhanced[0], enhanced[1]
