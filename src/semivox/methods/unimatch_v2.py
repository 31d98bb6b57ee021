"""UniMatch V2."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from semivox.losses.pseudo_label import confident_cross_entropy, confident_label
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.methods.unimatch import occasional_boxes
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.features import complementary_dropout
from semivox.sampling.intensity import Shares
from semivox.sampling.mixing import cutmix, partners


class UniMatchV2(Method):
    """UniMatch V2: pushing the limit of semi-supervised semantic segmentation (Yang et al., 2024).

    A teacher, the moving average of the student, labels the weak view; the student learns its confident labels on two
    strong views, both CutMixed, whose features see complementary halves of the channels (f_1 · 2b, f_2 · 2(1 - b), b
    fair coins; half of the pairs keep all): L = ½ [L_sup + ½ (L_s1 + L_s2)], each L_s cross-entropy on the voxels with
    max p ≥ τ, divided by all valid ones. The separate feature stream of the first version is gone.

    The paper trains a DINOv2 transformer with a DPT head at small learning rates; networks here are CNNs that start
    from nothing. Their levels differ in channels, so that each draws its own b (there one b for all), and the finest
    skips are halved as well; without pretraining few voxels pass τ at first. Boxes come from the neighbour in the batch
    (there from the batch in reverse). The teacher is what is evaluated, as for every method here.
    """

    class Settings(MethodSettings):
        threshold: float = Field(0.95, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts; in a run of few steps little reaches 0.95, lower it there."""
        strong_weight: float = Field(1.0, ge=0)
        """Weight of the two strong views together."""
        ramp_share: float = Field(0.0, ge=0, le=1)
        """Share of the run over which a sigmoid ramp brings the unlabelled terms in; 0: at once, as published."""
        cutmix_probability: float = Field(0.5, ge=0, le=1)
        """Probability with which a strong view gets a box of its neighbour."""
        box_share: Shares = (0.02, 0.4)
        """Bounds of a box's share of the patch."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the teacher; 0.996 in the paper."""
        teacher_mode: Literal["train", "eval"] = "eval"
        """eval: the teacher normalises with averaged statistics (public code). train: with its batch, with dropout."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """Which of the two predicts; the student in the paper."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "strong", "strong"), unlabelled_multiple=2)
    requires = frozenset({"features"})
    paper: ClassVar[str] = "Yang et al., 2024"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=2, teacher_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        self.teacher = problem.average(self.student, self.settings.average_decay, mode=self.settings.teacher_mode)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        settings, labelled, unlabelled = self.settings, batch.labelled, batch.unlabelled
        weak, *strong = unlabelled.views
        size = len(weak)
        teacher = full_precision(self.teacher(weak)).softmax(1)
        maps = *confident_label(teacher, unlabelled.valid, settings.threshold), unlabelled.valid

        neighbour = partners(size, device=weak.device)
        cuts = [
            occasional_boxes(unlabelled, settings.cutmix_probability, settings.box_share, draw) for draw in range(2)
        ]
        mixed = [cutmix(view, neighbour, cut) for view, cut in zip(strong, cuts, strict=True)]
        supervised = self.student(labelled.image)
        # Apart, as in the public code: in one batch halved features spoil the labelled samples' batch-norm statistics.
        features = []
        for draw, level in enumerate(self.student.encode(torch.cat(mixed))):
            first, second = level.split(size)
            features.append(torch.cat(complementary_dropout(first, second, unlabelled.seeds, draw)))
        strong_logits = self.student.head(self.student.decode(features)[-1]).split(size)

        targets = [[cutmix(each, neighbour, cut) for each in maps] for cut in cuts]
        self.note(student=strong_logits[0], teacher=cutmix(teacher, neighbour, cuts[0]), kept=targets[0][1])
        strong_1, strong_2 = (
            confident_cross_entropy(own, *target) for own, target in zip(strong_logits, targets, strict=True)
        )
        weight = settings.strong_weight * clock.ramp(settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled) / 2,
            "strong_1": weight / 4 * strong_1,
            "strong_2": weight / 4 * strong_2,
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher if self.settings.evaluate == "teacher" else self.student,)
