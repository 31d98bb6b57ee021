"""Interpolation consistency training (ICT)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from semivox.errors import SettingError
from semivox.losses.consistency import probability_mse
from semivox.losses.reduction import full_precision
from semivox.methods.bidirectional_copy_paste import pair
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.mixing import mixing_shares, mixup


class InterpolationConsistency(Method):
    """Interpolation consistency training for semi-supervised learning (Verma et al., IJCAI 2019).

    Between two unlabelled scans a prediction should go as straight as the image does. With one m ~ Beta(a, a) per pair
    of neighbours x_1, x_2 the student sees the mix and learns the mix of what its teacher, its moving average, says of
    each: L = L_sup + λ(t) · MSE(p_θ((1 - m) x_1 + m x_2), (1 - m) p_θ̃(x_1) + m p_θ̃(x_2)). No noise is added: mixing
    takes its place. With a = 0.2 most m are near 0 or 1.

    Settings are those of the public medical script (SSL4MIS): a = 0.2 and λ_max = 0.1; the paper, on pictures of one
    object, has a of 0.1 to 1, λ_max up to 100 and α 0.999. A voxel counts where neither scan is padding. Labelled scans
    and mixes pass the student in one batch, and both scans of a pair the teacher, as there in two. The script evaluates
    the student, the paper the teacher; `evaluate` chooses.
    """

    class Settings(MethodSettings):
        concentration: float = Field(0.2, gt=0)
        """a: of Beta(a, a), from which a pair's share m is drawn; 1 is even, small values mix little."""
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the consistency term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α_max: decay of the teacher."""
        teacher_mode: Literal["train", "eval"] = "train"
        """train: the teacher normalises with its batch, with dropout (public script). eval: averaged statistics."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """Which of the two predicts."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",), unlabelled_multiple=2)
    paper: ClassVar[str] = "Verma et al., IJCAI 2019"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Of two unlabelled samples the student sees one mix.
        return Demand(views=cls.views, averages=1, unlabelled_forwards=0.5, teacher_forwards=1)

    def build(self, problem: Problem) -> None:
        if problem.plan.batch.unlabelled % 2:
            raise SettingError(
                "interpolation_consistency mixes pairs of unlabelled samples, but the batch has"
                f" {problem.plan.batch.unlabelled}; give plan.batch.unlabelled an even number"
            )
        self.problem = problem
        self.student = problem.network()
        self.teacher = problem.average(self.student, self.settings.average_decay, mode=self.settings.teacher_mode)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        first, second = pair(unlabelled)
        share = mixing_shares(first.seeds, self.settings.concentration, first.image.device)
        teacher = full_precision(self.teacher(unlabelled.image)).softmax(1)
        target = mixup(teacher[0::2], teacher[1::2], share)
        mixed = mixup(first.image, second.image, share)
        supervised, student = self.student(torch.cat([labelled.image, mixed])).split([len(labelled), len(first)])
        self.note(student=student, teacher=target)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        consistency = probability_mse(full_precision(student).softmax(1), target, first.valid & second.valid)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "consistency": weight * consistency,
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher if self.settings.evaluate == "teacher" else self.student,)
