"""Deep adversarial network (DAN)."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from semivox.losses.reduction import full_precision
from semivox.methods.adversary import Adversary, AdversarySettings, adversarial_demand
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import in_evaluation_mode
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class Adversarial(Method):
    """Deep adversarial networks for biomedical image segmentation utilizing unannotated images (Zhang et al., MICCAI
    2017), in the form of SSL4MIS.

    A discriminator D sees an image and its predicted probabilities and learns from which stream they are; the segmenter
    learns that its unlabelled predictions look like labelled ones. In turns: the segmenter with
    L = L_sup + λ(t) CE(D(p(x_u), x_u), "labelled"), D fixed and without dropout; then, with the new segmenter in
    evaluation mode and without gradient, D with CE(D(p(x), x), origin) on the whole batch.

    The paper's own D scores the quality of a whole segmentation, and its weights follow another schedule; what the
    field compares with is the form above. The public script gives D its targets by position, as if both streams had
    one size, and has gradients of the segmenter's turn in D's weights until they are cleared; here origins follow the
    streams, and D's weights get no gradient in that turn. Its dropout is drawn per sample. What is evaluated is a
    moving average of the weights, as for every method here; the script evaluates the segmenter.
    """

    class Settings(AdversarySettings):
        adversarial_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the adversarial term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Zhang et al., MICCAI 2017"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return adversarial_demand(cls.views)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.adversary = Adversary(problem, problem.classes, self.settings)
        self.average = problem.average(self.network, self.settings.average_decay)

    def optimisers(self) -> Sequence[Optimiser]:
        return Optimiser("main", (self.network,)), self.adversary.optimiser()

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        yield "main", lambda: self.parts(batch, clock)
        yield "discriminator", lambda: self.discriminator_losses(batch)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        logits = self.network(torch.cat([labelled.image, unlabelled.image]))
        supervised, student = logits.split([len(labelled), len(unlabelled)])
        self.note(student=student, teacher=student)
        weight = self.settings.adversarial_weight * clock.ramp(self.settings.ramp_share)
        suspicion = self.adversary.suspicion(full_precision(student).softmax(1), unlabelled)
        return {"supervised": self.problem.supervised_loss(supervised, labelled), "adversarial": weight * suspicion}

    def discriminator_losses(self, batch: Batch) -> Terms:
        """The discriminator's turn."""
        with torch.no_grad(), in_evaluation_mode(self.network):
            logits = self.network(torch.cat([batch.labelled.image, batch.unlabelled.image]))
        return {"discriminator": self.adversary.confusion(full_precision(logits).softmax(1), batch)}

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
