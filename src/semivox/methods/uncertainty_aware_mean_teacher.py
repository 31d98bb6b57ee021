"""Uncertainty-aware mean teacher (UA-MT)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from semivox.losses.consistency import softmax_mse
from semivox.losses.uncertainty import entropy_threshold, predictive_entropy
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class UncertaintyAwareMeanTeacher(Method):
    """Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation (Yu et al., MICCAI 2019).

    A mean teacher that teaches only where it is certain. T stochastic passes of the teacher (dropout on, fresh noise
    for each) have the mean μ and its entropy u = -Σ_c μ_c ln μ_c; the student follows one further noisy pass p_θ̃
    where u is below a threshold that rises over the run, H(t) = (0.75 + 0.25 exp(-5 (1 - t/t_max)²)) · ln C:
    L = L_sup + λ(t) · Σ_v 1[u_v < H(t)] Σ_c (p_θ - p_θ̃)² / (C Σ_v 1[u_v < H(t)]).

    Paper and code have two classes and write ln 2 and 2 for ln C and C. The code makes the T passes as T/2 doubled
    batches; here all T + 1 are one, so that with batch norm they share its statistics. As in the code the average holds
    parameters only and the teacher stays in train mode: with a network without dropout the noise alone tells what is
    uncertain. The code evaluates the student; `evaluate` chooses.
    """

    class Settings(MethodSettings):
        passes: int = Field(8, ge=1)
        """T: stochastic passes of the teacher whose mean tells what is certain."""
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the consistency term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α_max: decay of the teacher."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """Which of the two predicts."""

    settings: Settings
    paper: ClassVar[str] = "Yu et al., MICCAI 2019"

    @classmethod
    def demand(cls, settings: Settings) -> Demand:  # type: ignore[override]
        looks = settings.passes + 1
        views = Views(labelled=("weak",), unlabelled=("weak", *["noisy"] * looks))
        return Demand(views=views, averages=1, unlabelled_forwards=1, teacher_forwards=looks, taught_at_once=looks)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        self.teacher = problem.average(self.student, self.settings.average_decay, mode="train")

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, (clean, *noisy) = batch.labelled, batch.unlabelled.views
        # The teacher first, while the student keeps nothing for its backward pass yet: its batch is the largest.
        *passes, teacher = self.teacher(torch.cat(noisy)).chunk(len(noisy))
        threshold = entropy_threshold(clock.stage_progress, self.problem.classes)
        certain = (predictive_entropy(torch.stack(passes)) < threshold) & batch.unlabelled.valid
        supervised, student = self.student(torch.cat([labelled.image, clean])).split([len(labelled.image), len(clean)])
        self.note(student=student, teacher=teacher, kept=certain)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "consistency": weight * softmax_mse(student, teacher, certain),
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher if self.settings.evaluate == "teacher" else self.student,)
