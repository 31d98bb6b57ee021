"""Cross pseudo supervision (CPS)."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.cross_entropy import cross_entropy
from semivox.methods.clock import Clock
from semivox.methods.method import MethodSettings, Terms
from semivox.methods.two_networks import TwoNetworks
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class CrossPseudoSupervision(TwoNetworks):
    """Semi-supervised semantic segmentation with cross pseudo supervision (Chen et al., CVPR 2021).

    Two networks of different initialisation see the same batch; on unlabelled scans each learns from the other's hard
    labels: L = Σ_i L_sup(i) + λ(t) [CE(z₁, argmax z₂) + CE(z₂, argmax z₁)]. The argmax carries no gradient.

    The paper's weights are constant (1.5 on VOC) and act on labelled images too; the public medical script (SSL4MIS),
    which is followed here, ramps λ up to 0.1 and uses unlabelled ones only. Papers report one network; `evaluate`
    chooses. What is evaluated is a moving average of the weights, as for every method here.
    """

    class Settings(TwoNetworks.Settings):
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the cross supervision once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Chen et al., CVPR 2021"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, networks=2, averages=2, labelled_forwards=2, unlabelled_forwards=2)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        images = torch.cat([labelled.image, unlabelled.image])
        sizes = [len(labelled.image), len(unlabelled.image)]
        supervised_1, logits_1 = self.first(images).split(sizes)
        supervised_2, logits_2 = self.second(images).split(sizes)
        self.note(student=logits_1, teacher=logits_2)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised_1": self.problem.supervised_loss(supervised_1, labelled),
            "supervised_2": self.problem.supervised_loss(supervised_2, labelled),
            "cross_1": weight * cross_entropy(logits_1, hard_labels(logits_2, unlabelled.valid)),
            "cross_2": weight * cross_entropy(logits_2, hard_labels(logits_1, unlabelled.valid)),
        }


def hard_labels(logits: Tensor, valid: Tensor) -> Tensor:
    """argmax over classes, `IGNORE` on padding: (B, K, *space), (B, *space) → (B, *space)."""
    return logits.detach().argmax(1).masked_fill(~valid, IGNORE)
