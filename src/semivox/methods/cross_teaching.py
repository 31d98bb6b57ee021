"""Cross teaching between a CNN and a transformer (CTCT)."""

from math import gcd
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import nn

from semivox.losses.pseudo_label import confident_dice
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Companion, Demand, Views
from semivox.sampling.batch import Batch

TRANSFORMER = "monai:SwinUNETR"
USUAL_WIDTH, USUAL_COST = 24, 2.0
"""Width of a transformer, and its arithmetic in units of a CNN: 1.6 of the 2-D U-Net, 2.4 of V-Net on patches that need
no padding. It goes with the square of the width."""


class CrossTeaching(Method):
    """Semi-supervised medical image segmentation via cross teaching between CNN and transformer (Luo et al., MIDL
    2022).

    Two networks that see in different ways, one by convolutions, one by attention, and on unlabelled scans learn from
    each other's hard labels: L = L_sup(1) + L_sup(2) + λ(t) [Dice(p_1, argmax p_2) + Dice(p_2, argmax p_1)], the Dice
    with squares and over all classes, without cross-entropy. No gradient passes the argmax. The CNN, the plan's
    network, predicts; the transformer only teaches.

    The transformer is a Swin UNETR (Hatamizadeh et al., 2022) of 2 or 3 dimensions, for any patch; the public script
    has a 2-D Swin-Unet on slices of 224x224, whose ImageNet weights are part of its gain. Here it begins at random, and
    normalises by groups, since a small patch leaves its deepest map one voxel. What is evaluated is a moving average of
    the CNN's weights, as for every method here.
    """

    class Settings(MethodSettings):
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the cross teaching once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        transformer_width: int = Field(USUAL_WIDTH, ge=12, multiple_of=12)
        """Channels of the transformer's first level, which double with each; a multiple of 12."""
        transformer_depths: tuple[int, int, int, int] = (2, 2, 2, 2)
        """Attention blocks on each of its levels, an even number so that windows shift."""
        transformer_window: int = Field(7, ge=2)
        """Side of the windows within which it attends, in tokens of two voxels on the first level."""
        drop_path: float = Field(0.0, ge=0, lt=1)
        """Share of the transformer's residual branches left out in training; 0.2 in the public script."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the CNN's weights."""

        @field_validator("transformer_depths")
        @classmethod
        def _check_depths(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
            if min(depths) < 1:
                raise ValueError(f"{list(depths)} leaves a level without attention; give each 1 block or more")
            return depths

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Luo et al., MIDL 2022"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, CrossTeaching.Settings)
        cost = USUAL_COST * (settings.transformer_width / USUAL_WIDTH) ** 2
        transformer = Companion(TRANSFORMER, transformer_settings(settings), cost)
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1, companions=(transformer,))

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.cnn = problem.network()
        self.transformer = problem.network(TRANSFORMER, **transformer_settings(self.settings))
        self.average = problem.average(self.cnn, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        images = torch.cat([labelled.image, unlabelled.image])
        sizes = [len(labelled), len(unlabelled)]
        supervised_1, logits_1 = self.cnn(images).split(sizes)
        supervised_2, logits_2 = self.transformer(images).split(sizes)
        self.note(student=logits_1, teacher=logits_2)
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised_cnn": self.problem.supervised_loss(supervised_1, labelled),
            "supervised_transformer": self.problem.supervised_loss(supervised_2, labelled),
            "cross_cnn": weight * confident_dice(logits_1, logits_2.argmax(1), unlabelled.valid),
            "cross_transformer": weight * confident_dice(logits_2, logits_1.argmax(1), unlabelled.valid),
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)


def transformer_settings(settings: CrossTeaching.Settings) -> dict[str, Any]:
    """The transformer in MONAI's words."""
    width = settings.transformer_width
    return {
        "feature_size": width,
        "depths": settings.transformer_depths,
        "window_size": settings.transformer_window,
        "dropout_path_rate": settings.drop_path,
        "norm_name": ("group", {"num_groups": gcd(16, width)}),
    }
