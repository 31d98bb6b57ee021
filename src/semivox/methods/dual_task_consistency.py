"""Dual-task consistency (DTC)."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.dual_task import distance_mse, dual_task_mse
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream


class DualTaskConsistency(Method):
    """Semi-supervised medical image segmentation through dual-task consistency (Luo et al., AAAI 2021).

    One network with two heads on its last map: z segments, r = tanh(·) regresses the signed distance to the border of
    each foreground class. On labelled and unlabelled scans the two must say the same once the distance is made a
    segmentation again, T⁻¹(r) = σ(-1500 r): L = L_sup + β MSE(r_l, sdf(y)) + λ(t) MSE(T⁻¹(r), p). Both heads learn
    from it, nothing is detached, and there is no teacher.

    The paper has one foreground class with σ(s) for p; `losses.dual_task` says how the softmax of more classes
    contains it. The public code trains the segmentation on Dice alone and only logs its cross-entropy; here L_sup is
    that of every method. Each head has the network's own dropout before it, where the public network has one for both.
    What is evaluated is a moving average of the segmentation's weights, as for every method here.
    """

    class Settings(MethodSettings):
        distance_weight: float = Field(0.3, ge=0)
        """β: weight of the regression of signed distances."""
        consistency_weight: float = Field(1.0, ge=0)
        """λ_max: weight of the dual-task consistency once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        steepness: float = Field(1500.0, gt=0)
        """k: slope of T⁻¹(r) = σ(-k r)."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",), signed_distance=True)
    requires = frozenset({"maps", "head"})
    paper: ClassVar[str] = "Luo et al., AAAI 2021"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.distance_head = self.network.new_head(problem.classes - 1)
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        images = torch.cat([labelled.image, unlabelled.image])
        sizes = [len(labelled.image), len(unlabelled.image)]
        penultimate = self.network.decode(self.network.encode(images))[-1]
        logits = self.network.head(penultimate)
        distances = full_precision(self.distance_head(penultimate)).tanh()
        supervised, student = logits.split(sizes)
        regressed, other_task = distances.split(sizes)

        # As logits beside a background of 0: with one class their softmax is T⁻¹(r), and none is saturated.
        background = torch.zeros_like(other_task[:, :1])
        self.note(student=student, teacher=torch.cat([background, -self.settings.steepness * other_task], 1))

        valid = torch.cat([labelled.valid, unlabelled.valid])
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "supervised_distance": self.settings.distance_weight * distance_regression(regressed, labelled),
            "consistency": weight * dual_task_mse(distances, logits, valid, self.settings.steepness),
        }

    def inference_modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.average,)


def distance_regression(distances: Tensor, stream: Stream) -> Tensor:
    """MSE(r, sdf(y)) of a labelled stream with signed distances, over what its labels know of each foreground class.

    distances: r (B, K - 1, *space).
    """
    assert stream.label is not None
    assert stream.signed_distance is not None
    classes = stream.known[:, 1:].view(*distances.shape[:2], *[1] * (distances.ndim - 2))
    return distance_mse(distances, stream.signed_distance, classes & (stream.label != IGNORE).unsqueeze(1))
