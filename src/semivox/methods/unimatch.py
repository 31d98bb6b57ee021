"""UniMatch, first version."""

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.pseudo_label import confident_cross_entropy, confident_dice, confident_label
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import DECODER_PASS, Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.features import channel_dropout
from semivox.sampling.intensity import Shares
from semivox.sampling.mixing import boxes, cutmix, partners


class UniMatch(Method):
    """Revisiting weak-to-strong consistency in semi-supervised semantic segmentation (Yang et al., CVPR 2023).

    FixMatch with two strong views s1, s2 of each unlabelled scan, both CutMixed, and a third stream whose perturbation
    acts on features: fp, the weak view with half of the channels of *all* encoder features dropped. All three learn the
    student's own confident labels of the weak view: L = ½ [L_sup + μ/2 (L_s1 + L_s2) + λ L_fp]. Image, label and
    mask are cut alike; fp is not mixed.

    `unlabelled_loss`: the authors' medical script, followed by default, takes the Dice over confident voxels alone,
    their natural-image one cross-entropy divided by all valid voxels. Both paste boxes from a second unlabelled batch,
    labelled in eval mode; here they come from the neighbour in the same batch, whose labels are there already: one
    batch less to read and label, the same in distribution. Labels are decoded without gradient from the same features
    of the weak view, in train mode, as there. What is evaluated is a moving average of the weights, as for every method
    here; the scripts evaluate the student.
    """

    class Settings(MethodSettings):
        threshold: float = Field(0.95, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts; in a run of few steps little reaches 0.95, lower it there."""
        strong_weight: float = Field(0.5, ge=0)
        """μ: weight of the two strong views together."""
        feature_weight: float = Field(0.5, ge=0)
        """λ: weight of the feature-perturbed stream."""
        ramp_share: float = Field(0.0, ge=0, le=1)
        """Share of the run over which a sigmoid ramp brings the unlabelled terms in; 0: at once, as published."""
        unlabelled_loss: Literal["dice", "cross_entropy"] = "dice"
        """dice: over the confident voxels (medical script). cross_entropy: divided by all valid voxels (paper)."""
        feature_dropout: float = Field(0.5, ge=0, lt=1)
        """Probability with which a channel of the encoder's features is dropped in fp."""
        cutmix_probability: float = Field(0.5, ge=0, le=1)
        """Probability with which a strong view gets a box of its neighbour."""
        box_share: Shares = (0.02, 0.4)
        """Bounds of a box's share of the patch."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "strong", "strong"), unlabelled_multiple=2)
    requires = frozenset({"features"})
    paper: ClassVar[str] = "Yang et al., CVPR 2023"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Labels are decoded from features that the third stream has encoded.
        return Demand(views=cls.views, averages=1, unlabelled_forwards=3, teacher_forwards=DECODER_PASS)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        self.average = problem.average(self.student, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        settings, labelled, unlabelled = self.settings, batch.labelled, batch.unlabelled
        weak, *strong = unlabelled.views
        size = len(weak)
        neighbour = partners(size, device=weak.device)
        cuts = [
            occasional_boxes(unlabelled, settings.cutmix_probability, settings.box_share, draw) for draw in range(2)
        ]
        mixed = [cutmix(view, neighbour, cut) for view, cut in zip(strong, cuts, strict=True)]

        # Apart from the perturbed streams, which would spoil the labelled samples' batch-norm statistics.
        supervised = self.student(labelled.image)
        features = self.student.encode(torch.cat([*mixed, weak]))
        clean = [level[-size:] for level in features]
        perturbed = [
            torch.cat([level[:-size], channel_dropout(own, unlabelled.seeds, settings.feature_dropout, draw)])
            for draw, (level, own) in enumerate(zip(features, clean, strict=True))
        ]
        logits = self.student.head(self.student.decode(perturbed)[-1])
        *strong_logits, feature = logits.split(size)
        with torch.no_grad():
            probabilities = full_precision(self.student.head(self.student.decode(clean)[-1])).softmax(1)

        maps = *confident_label(probabilities, unlabelled.valid, settings.threshold), unlabelled.valid
        self.note(student=feature, teacher=probabilities, kept=maps[1])
        strong_1, strong_2 = (
            self._unlabelled_loss(own, *(cutmix(each, neighbour, cut) for each in maps))
            for own, cut in zip(strong_logits, cuts, strict=True)
        )
        ramp = clock.ramp(settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled) / 2,
            "strong_1": ramp * settings.strong_weight / 4 * strong_1,
            "strong_2": ramp * settings.strong_weight / 4 * strong_2,
            "feature": ramp * settings.feature_weight / 2 * self._unlabelled_loss(feature, *maps),
        }

    def _unlabelled_loss(self, logits: Tensor, label: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
        if self.settings.unlabelled_loss == "dice":
            return confident_dice(logits, label, kept)
        return confident_cross_entropy(logits, label, kept, valid)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)


def occasional_boxes(stream: Stream, probability: float, share: tuple[float, float], draw: int) -> Tensor:
    """One box per sample (B, *space) with `probability`, else an empty mask: a function of the sample's seed."""

    def share_or_none(random: np.random.Generator) -> float:
        return random.uniform(*share) if random.random() < probability else 0.0

    image = stream.image
    return boxes(image.shape[2:], stream.seeds, share_or_none, draw=draw, device=image.device)
