"""How far the weights of one network follow from those of others."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from semivox.losses.reduction import full_precision


def weight_dependence(coefficients: Sequence[Tensor], own: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """I = mean over layers k of the mean over rows of cos²(row(P_k V_k), row(W_k)); a scalar from 0 to 1.

    Per layer: coefficients P_k (out, m), own weights W_k (out, n), those of the others V_k (m, n). 1 where every filter
    is the combination of the others' filters that P_k says, up to its length. A row of zeros has the cosine 0. Miao et
    al., CauSSL, ICCV 2023.
    """
    values = []
    with torch.autocast(own[0].device.type, enabled=False):
        for p, w, v in zip(coefficients, own, others, strict=True):
            told = full_precision(p) @ full_precision(v)
            cosines = (F.normalize(told, dim=1) * F.normalize(full_precision(w), dim=1)).sum(1)
            values.append(cosines.square().mean())
    return torch.stack(values).mean()


@torch.no_grad()
def condensed(matrices: Sequence[Tensor]) -> list[Tensor]:
    """(r_i, n) matrices → (r_i, at most Σ r_i) with the same inner products of all their rows, within and between.

    `weight_dependence` knows no more of its weights than these, so that many steps on P need not pass over n columns.
    """
    rows = torch.cat([full_precision(matrix) for matrix in matrices])
    _, coordinates = torch.linalg.qr(rows.T, mode="r")
    return list(coordinates.T.split([len(matrix) for matrix in matrices]))
