"""Shape-aware adversarial segmentation (SASSNet)."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.reduction import full_precision
from semivox.methods.adversary import Adversary, AdversarySettings, adversarial_demand
from semivox.methods.clock import Clock
from semivox.methods.dual_task_consistency import distance_regression
from semivox.methods.method import Method, MethodSettings, Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import in_evaluation_mode
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class ShapeAware(Method):
    """Shape-aware semi-supervised 3D semantic segmentation for medical images (SASSNet, Li et al., MICCAI 2020).

    One network with two heads on its last map: z segments, r = tanh(·) regresses the signed distance to the border of
    each foreground class. A discriminator D sees an image and its distance map, never the probabilities, and learns
    from which stream they are, so that the shapes of unlabelled scans become like those of labelled ones. In turns: the
    segmenter with L = L_sup + β MSE(r_l, sdf(y)) + λ(t) CE(D(r_u, x_u), "labelled"), D fixed and without dropout; then,
    with the new segmenter in evaluation mode and without gradient, D with CE(D(r, x), origin) on the whole batch.

    The public code has one foreground class; several have a distance map each, all of which D sees. It trains the
    segmentation on Dice alone; here L_sup is that of every method. It gives D its targets by position, as if both
    streams had one size; here origins follow the streams. Each head has the network's own dropout before it. What is
    evaluated is a moving average of the segmentation's weights, as for every method here.
    """

    class Settings(AdversarySettings):
        distance_weight: float = Field(0.3, ge=0)
        """β: weight of the regression of signed distances."""
        adversarial_weight: float = Field(0.01, ge=0)
        """λ_max: weight of the adversarial term once the ramp is at its top; 0.01 with 16 labelled scans of LA, 0.015
        with 8. Training becomes unstable soon above that."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",), signed_distance=True)
    requires = frozenset({"maps", "head"})
    paper: ClassVar[str] = "Li et al., MICCAI 2020"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return adversarial_demand(cls.views)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.distance_head = self.network.new_head(problem.classes - 1)
        self.adversary = Adversary(problem, problem.classes - 1, self.settings)
        self.average = problem.average(self.network, self.settings.average_decay)

    def optimisers(self) -> Sequence[Optimiser]:
        return Optimiser("main", (self.network, self.distance_head)), self.adversary.optimiser()

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        yield "main", lambda: self.parts(batch, clock)
        yield "discriminator", lambda: self.discriminator_losses(batch)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        sizes = [len(labelled), len(unlabelled)]
        penultimate = self.penultimate(batch)
        supervised, student = self.network.head(penultimate).split(sizes)
        regressed, shapes = self.distances(penultimate).split(sizes)
        self.note(student=student, teacher=student)
        weight = self.settings.adversarial_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "supervised_distance": self.settings.distance_weight * distance_regression(regressed, labelled),
            "adversarial": weight * self.adversary.suspicion(shapes, unlabelled),
        }

    def discriminator_losses(self, batch: Batch) -> Terms:
        """The discriminator's turn."""
        with torch.no_grad(), in_evaluation_mode(self.network), in_evaluation_mode(self.distance_head):
            distances = self.distances(self.penultimate(batch))
        return {"discriminator": self.adversary.confusion(distances, batch)}

    def penultimate(self, batch: Batch) -> Tensor:
        """The network's last map of both streams."""
        return self.network.decode(self.network.encode(torch.cat([batch.labelled.image, batch.unlabelled.image])))[-1]

    def distances(self, penultimate: Tensor) -> Tensor:
        """r = tanh(·): signed distances (B, K - 1, *space)."""
        return full_precision(self.distance_head(penultimate)).tanh()

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
