"""Mean teacher."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.consistency import softmax_mse
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream


class MeanTeacher(Method):
    """Mean teachers are better role models (Tarvainen & Valpola, NeurIPS 2017), in the field's segmentation form.

    A student learns from labels and is asked to agree, on unlabelled scans, with a teacher that is its own moving
    average and sees a noisier copy: L = L_sup + λ(t) · MSE(p_θ(x_u), p_θ̃(x_u + ε)), ε = clip(0.1 · N(0, 1), ±0.2).
    Labelled and unlabelled samples pass the student in one batch, as in the public scripts.

    As in the public scripts (SSL4MIS) the average holds parameters only and the teacher stays in train mode. The other
    policy, `teacher_mode: eval`, averages the batch-norm statistics too and normalises with them: measured by us, they
    give wrong targets in runs of a few hundred steps.

    Where we differ from the scripts: they evaluate the student, the paper proposes the teacher; `evaluate` chooses.
    They start teacher and student from different weights, which the first update (α = 0) repairs; here the teacher
    begins as a copy.
    """

    class Settings(MethodSettings):
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the consistency term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α_max: decay of the teacher."""
        teacher_mode: Literal["train", "eval"] = "train"
        """train: the teacher normalises with its batch, with dropout (public scripts). eval: averaged statistics."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """Which of the two predicts."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "noisy"))
    paper: ClassVar[str] = "Tarvainen & Valpola, NeurIPS 2017"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1, teacher_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        self.teacher = problem.average(self.student, self.settings.average_decay, mode=self.settings.teacher_mode)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, (clean, noisy) = batch.labelled, batch.unlabelled.views
        teacher = self.teacher(noisy)
        supervised, student = self.student(torch.cat([labelled.image, clean])).split([len(labelled.image), len(clean)])
        self.note(student=student, teacher=teacher)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "consistency": weight * softmax_mse(student, teacher, batch.unlabelled.valid),
            **self.further_terms(student, batch.unlabelled, clock),
        }

    def further_terms(self, student: Tensor, stream: Stream, clock: Clock) -> Terms:
        """What else the student learns on the unlabelled `stream`, of its logits there; for methods built on this."""
        return {}

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher if self.settings.evaluate == "teacher" else self.student,)
