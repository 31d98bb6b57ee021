"""Mutual consistency: MC-Net and MC-Net+."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.mutual import mutual_mse
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.network import Branch, Network
from semivox.planning.demand import DECODER_PASS, DECODER_WEIGHTS, Demand, Views
from semivox.sampling.batch import Batch

UPSAMPLINGS = ("transposed", "linear", "nearest")
"""Of the decoders after the first: those that the network's own decoder does not have, in this order."""
PUBLISHED_WEIGHTS = {2: (1.0, 0.1), 3: (0.5, 1.0)}
"""Dimensions → (λ_d, λ_max): the public scripts for ACDC and for LA."""


class MutualConsistency(Method):
    """Semi-supervised left atrium segmentation with mutual consistency training (MC-Net, Wu et al., MICCAI 2021).

    One encoder and two decoders that differ only in how they upsample. Where they disagree the scan is hard, and each
    is drawn towards the sharpened other, s(p) = p^{1/T} / (p^{1/T} + (1 - p)^{1/T}), on labelled and unlabelled
    scans: L = λ_d Σ_i L_sup(i) + λ(t) Σ_{i≠j} MSE(p_i, s(p_j)). There is no teacher.

    The first decoder is the network's own; the second upsamples in another way, which with V-Net and the 2-D U-Net
    gives the published pairs (transposed and trilinear; bilinear and transposed).

    The public code lets the gradient flow through s(p_j) too, and so do we; `detach` stops it. That code trains on Dice
    alone (in 2-D without its factor 2); here L_sup is that of every method. The paper evaluates the mean of the
    decoders, the code the first alone; `evaluate` chooses. What is evaluated is a moving average of the weights, as for
    every method here.
    """

    class Settings(MethodSettings):
        decoders: int = Field(2, ge=2, le=3)
        """n: decoders on the one encoder, the network's own included."""
        temperature: float = Field(0.1, gt=0, le=1)
        """T: of the sharpening; 1 changes nothing, small values make hard labels."""
        detach: bool = False
        """Whether a sharpened map is a target without gradient."""
        supervised_weight: float | None = Field(None, ge=0)
        """λ_d: weight of each decoder's supervised loss. null: as published, 0.5 in 3-D and 1 in 2-D."""
        consistency_weight: float | None = Field(None, ge=0)
        """λ_max: weight of the consistency once the ramp is at its top. null: as published, 1 in 3-D and 0.1 in 2-D."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated averages of the weights."""
        evaluate: Literal["first", "mean"] = "mean"
        """first: the first decoder predicts. mean: the mean of all decoders' probabilities."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    requires = frozenset({"features", "decoder", "head"})
    paper: ClassVar[str] = "Wu et al., MICCAI 2021"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, MutualConsistency.Settings)
        passes, weights = (1 + share * (settings.decoders - 1) for share in (DECODER_PASS, DECODER_WEIGHTS))
        return Demand(
            views=cls.views,
            networks=weights,
            averages=weights if settings.evaluate == "mean" else 1,
            labelled_forwards=passes,
            unlabelled_forwards=passes,
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        own = self.network.settings.model_dump()["upsampling"]
        others = [kind for kind in UPSAMPLINGS if kind != own]
        self.branches = nn.ModuleList(
            Branch(self.network, upsampling=kind) for kind in others[: self.settings.decoders - 1]
        )
        self.average = problem.average(self.network, self.settings.average_decay)
        self.branch_averages = nn.ModuleList(
            problem.average(branch, self.settings.average_decay)
            for branch in self.branches
            if self.settings.evaluate == "mean"
        )
        published = PUBLISHED_WEIGHTS[problem.dimensions]
        given = self.settings.supervised_weight, self.settings.consistency_weight
        self.supervised_weight, self.consistency_weight = (
            usual if weight is None else weight for weight, usual in zip(given, published, strict=True)
        )

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        logits = decoded(self.network, self.branches, torch.cat([labelled.image, unlabelled.image]))
        sizes = [len(labelled.image), len(unlabelled.image)]
        supervised, compared = zip(*(one.split(sizes) for one in logits), strict=True)
        self.note(student=compared[0], teacher=compared[1])
        weight = self.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            **{
                f"supervised_{number}": self.supervised_weight * self.problem.supervised_loss(one, labelled)
                for number, one in enumerate(supervised, start=1)
            },
            "consistency": weight * self.consistency(logits, batch),
        }

    def consistency(self, logits: list[Tensor], batch: Batch) -> Tensor:
        """How far the decoders' logits on both streams are from one another."""
        valid = torch.cat([batch.labelled.valid, batch.unlabelled.valid])
        return mutual_mse(logits, self.settings.temperature, valid, self.settings.detach)

    def predict(self, image: Tensor, task: str) -> Tensor:
        network = self.average.module
        assert isinstance(network, Network)
        logits = decoded(network, self.branch_averages, image)
        return torch.stack([one.float().softmax(1) for one in logits]).mean(0)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return self.average, *self.branch_averages


class MutualConsistencyPlus(MutualConsistency):
    """Mutual consistency learning for semi-supervised medical image segmentation (MC-Net+, Wu et al., MedIA 2022).

    MC-Net with a third decoder, so that all three ways to upsample are there: L = λ_d Σ_i L_sup(i) + λ(t) Σ_{i≠j}
    MSE(p_i, s(p_j)) over all six ordered pairs. The further decoders serve training alone; the first one predicts, at
    the cost of one network. All else as in MC-Net.
    """

    class Settings(MutualConsistency.Settings):
        decoders: int = Field(3, ge=2, le=3)
        """n: decoders on the one encoder, the network's own included."""
        evaluate: Literal["first", "mean"] = "first"
        """first: the first decoder predicts. mean: the mean of all decoders' probabilities."""

    paper: ClassVar[str] = "Wu et al., MedIA 2022"


def decoded(network: Network, branches: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """Logits of the network's own decoder and of each branch, on features encoded once."""
    features = network.encode(image)
    return [network.head(network.decode(features)[-1]), *(branch(features) for branch in branches)]
