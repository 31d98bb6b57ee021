"""FixMatch."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from semivox.losses.pseudo_label import confident_cross_entropy, confident_label
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class FixMatch(Method):
    """FixMatch: simplifying semi-supervised learning with consistency and confidence (Sohn et al., NeurIPS 2020).

    The student labels the weak view of an unlabelled scan and learns these labels on the strong view, where it was
    confident: L = L_sup + λ Σ_v 1[max p(weak) ≥ τ] · CE(z(strong), ŷ) / N, ŷ = argmax p(weak), with *all* valid voxels
    in N. The label carries no gradient; both views share one geometry.

    This is the paper's form. The public medical script (SSL4MIS) is not followed: there a voxel of low confidence
    becomes background instead of being left out, and a term on the least likely class is added, its weight applied
    twice. The weak view passes the student by itself, without gradient but in train mode (with dropout, as there). What
    is evaluated is a moving average of the weights, as in the paper and as for every method here.
    """

    class Settings(MethodSettings):
        threshold: float = Field(0.95, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts; in a run of few steps little reaches 0.95, lower it there."""
        unlabelled_weight: float = Field(1.0, ge=0)
        """λ: weight of the unlabelled term; constant, for confidence is its ramp."""
        ramp_share: float = Field(0.0, ge=0, le=1)
        """Share of the run over which a sigmoid ramp brings the unlabelled terms in; 0: at once, as published."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights; 0.999 in the paper."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))
    paper: ClassVar[str] = "Sohn et al., NeurIPS 2020"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1, teacher_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        self.average = problem.average(self.student, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, (weak, strong), valid = batch.labelled, batch.unlabelled.views, batch.unlabelled.valid
        with torch.no_grad():
            probabilities = full_precision(self.student(weak)).softmax(1)
        pseudo, kept = confident_label(probabilities, valid, self.settings.threshold)
        # Apart, so that strong views do not spoil the labelled samples' batch-norm statistics.
        supervised, student = self.student(labelled.image), self.student(strong)
        self.note(student=student, teacher=probabilities, kept=kept)
        weight = self.settings.unlabelled_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "strong": weight * confident_cross_entropy(student, pseudo, kept, valid),
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
