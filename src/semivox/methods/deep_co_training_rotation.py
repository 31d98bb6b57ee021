"""Deep co-training as SSL4MIS has it: rotation consistency of one network."""

from math import inf
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from semivox.losses.consistency import softmax_mse
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.geometry import Geometry


class DeepCoTrainingRotation(Method):
    """What the public medical benchmark (SSL4MIS) calls deep co-training: one network, and a rotation as its second
    view.

    On an unlabelled scan turned by R, k · 90°, the network must say what it says of the scan itself, turned: L = L_sup
    + λ(t) · ½ [MSE(p(R x_u), sg R p(x_u)) + MSE(sg p(R x_u), R p(x_u))]. The two halves have one value, and together
    the gradient of ½ MSE(p(R x_u), R p(x_u)); so much is computed, and logged.

    k = 0, 1, 2, 3 and its plane are drawn per sample, there once for a batch of slices. A plane is one whose two axes
    have equal patch and voxel size; where there is none, samples turn by 180° or not at all. Scan and turned scan pass
    in one batch, there in two. What is evaluated is a moving average of the weights, as for every method here.
    """

    class Settings(MethodSettings):
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the consistency term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "SSL4MIS, after Qiao et al., ECCV 2018"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=2)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        plan = problem.plan
        # Where scans keep their own voxels, at most it is known which axis is coarse.
        coarse = plan.preparation.coarse_axis
        self.spacing_mm = plan.patch_spacing_mm or tuple(inf if axis == coarse else 1.0 for axis in plan.axes)
        self.network = problem.network()
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        turns = Geometry.draw_turns(unlabelled.seeds, self.problem.plan.patch, self.spacing_mm)
        images = torch.cat([labelled.image, unlabelled.image, turns.apply(unlabelled.image)])
        sizes = [len(labelled), len(unlabelled), len(unlabelled)]
        supervised, straight, turned = self.network(images).split(sizes)
        expected = turns.apply(straight)
        self.note(student=turns.undo(turned), teacher=straight)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "consistency": weight / 2 * softmax_mse(turned, expected, turns.apply(unlabelled.valid)),
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
