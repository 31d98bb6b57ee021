"""How far a network is from knowing how good its own masks are."""

from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_mean, full_precision


def predicted_iou_error(scores: Tensor, masks: Tensor, label: Tensor, asked: Tensor) -> Tensor:
    """Mean of (u - IoU)² over the masks that were asked for, of the whole batch; 0 where none was.

    scores: u (B, P). masks: logits (B, P, *space); a mask is where they are above 0. label: (B, *space); mask p is
    compared with class p + 1, where the label is known, and has IoU 0 if both are empty. asked: (B, P) bool. The
    gradient is that of the scores alone.
    """
    classes = range(1, masks.shape[1] + 1)
    known = (label != IGNORE).unsqueeze(1)
    found = (masks.detach() > 0) & known
    true = (label.unsqueeze(1) == label.new_tensor(classes).view(1, -1, *[1] * (label.ndim - 1))) & known
    shared, either = ((found & true).flatten(2).sum(2), (found | true).flatten(2).sum(2))
    scores = full_precision(scores)
    return batch_mean((scores - shared / either.clamp_min(1)).square(), asked)
