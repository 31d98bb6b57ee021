"""Entropy minimisation."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from semivox.losses.entropy import normalised_entropy
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class EntropyMinimisation(Method):
    """Semi-supervised learning by entropy minimization (Grandvalet & Bengio, NeurIPS 2004), voxel by voxel.

    One network learns from labels and is asked to be sure of itself on unlabelled scans: L = L_sup + λ(t) · mean_v
    H_v / ln C, H_v = -Σ_c p_c ln p_c. Nothing is detached: the network is its own teacher. With few labels it
    sharpens what is wrong too and drifts to background; watch the shares of the classes in log.csv.

    The public script (SSL4MIS) averages the entropy over the whole batch, `entropy_on: all`; the paper, and our
    default, over the unlabelled samples. The script divides by ln 4 or ln 2 whatever C is, we by ln C. What is
    evaluated is a moving average of the weights, as for every method here.
    """

    class Settings(MethodSettings):
        entropy_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the entropy once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        entropy_on: Literal["unlabelled", "all"] = "unlabelled"
        """Samples whose entropy is lowered: the unlabelled ones (paper) or the whole batch (public script)."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Grandvalet & Bengio, NeurIPS 2004"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        logits = self.network(torch.cat([labelled.image, unlabelled.image]))
        supervised, unsupervised = logits.split([len(labelled.image), len(unlabelled.image)])
        self.note(student=unsupervised, teacher=unsupervised)
        if self.settings.entropy_on == "all":
            entropy = normalised_entropy(logits, torch.cat([labelled.valid, unlabelled.valid]))
        else:
            entropy = normalised_entropy(unsupervised, unlabelled.valid)
        weight = self.settings.entropy_weight * clock.ramp(self.settings.ramp_share)
        return {"supervised": self.problem.supervised_loss(supervised, labelled), "entropy": weight * entropy}

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
