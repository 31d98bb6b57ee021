"""Uncertainty-rectified pyramid consistency (URPC)."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.errors import SettingError
from semivox.losses.pyramid import pyramid_consistency
from semivox.losses.uncertainty import log_mean
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import without_dropout
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.features import channel_dropout, dropout, feature_drop, feature_noise

Perturbation = Callable[[Tensor, tuple[int, ...]], Tensor]

PERTURBATIONS: dict[int, tuple[Perturbation | None, ...]] = {
    2: (partial(dropout, probability=0.5), feature_drop, feature_noise, None),
    3: tuple(partial(channel_dropout, probability=p, draw=place) for place, p in enumerate((0.5, 0.3, 0.2, 0.1))),
}
"""Dimensions → what disturbs the map before each head, coarse to fine. Of fewer scales the finest keeps its own."""


class UncertaintyRectifiedPyramid(Method):
    """Efficient semi-supervised gross target volume of nasopharyngeal carcinoma segmentation via uncertainty rectified
    pyramid consistency (Luo et al., MICCAI 2021; Medical Image Analysis 2022).

    One network with a head at each of S decoder scales; logits are brought to full size (2-D nearest, 3-D trilinear)
    and supervised there: L = mean_s L_sup(s) + λ(t) · mean_s L_s. On unlabelled scans every scale is drawn to the mean
    μ of all, less where it is far from it: L_s = Σ_v w_s mean_c (μ - p_s)² / Σ_v w_s + mean_v D_s, D_s = KL(μ ‖ p_s)
    and w_s = exp(-D_s). Nothing is detached. In training the maps before the heads are disturbed, coarse to fine: 2-D
    by dropout, feature drop, feature noise and nothing; 3-D by channel dropout of 0.5, 0.3, 0.2, 0.1.

    Where we differ from the public scripts: their 3-D dropout lies on the decoder's path, so that finer maps feel it
    too, here before the heads, as in 2-D; feature noise is drawn per sample, there once for the batch. As there, heads
    have no dropout of their own; that within the network stays. A network with fewer decoder maps has fewer scales.
    They evaluate the finest head; so do we, undisturbed, as a moving average of the weights.
    """

    class Settings(MethodSettings):
        scales: int = Field(4, ge=2, le=4)
        """S: decoder scales that have a head, at most; the finest ones."""
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the pyramid's consistency once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    requires = frozenset({"features", "maps", "head"})
    paper: ClassVar[str] = "Luo et al., MICCAI 2021"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1, unlabelled_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        scales = min(self.settings.scales, len(self.network.map_channels))
        if scales < 2:
            raise SettingError(
                f"uncertainty_rectified_pyramid: network '{problem.plan.network.name}' has one decoder scale, a pyramid"
                " needs two; give it more levels in plan.network.settings (levels or strides) or choose a larger patch"
            )
        self.coarse_heads = nn.ModuleList(self.network.new_head(problem.classes, level) for level in range(-scales, -1))
        for head in (*self.coarse_heads, self.network.classifier):
            without_dropout(head)
        *coarse, finest = PERTURBATIONS[problem.dimensions]
        self.perturbations = (*coarse[: scales - 1], finest)
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        scales = self.pyramid(torch.cat([labelled.image, unlabelled.image]), labelled.seeds + unlabelled.seeds)
        supervised, unsupervised = scales.split([len(labelled.image), len(unlabelled.image)], dim=1)
        self.note(student=unsupervised[-1], teacher=log_mean(unsupervised.detach().log_softmax(2)))
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": torch.stack([self.problem.supervised_loss(logits, labelled) for logits in supervised]).mean(),
            "consistency": weight * pyramid_consistency(unsupervised, unlabelled.valid),
        }

    def pyramid(self, image: Tensor, seeds: tuple[int, ...]) -> Tensor:
        """Logits of every scale at full size, coarse to fine: (B, C, *space) → (S, B, K, *space)."""
        maps = self.network.decode(self.network.encode(image))[-len(self.perturbations) :]
        heads = [*self.coarse_heads, self.network.head]
        mode = "nearest" if self.problem.dimensions == 2 else "trilinear"
        logits = []
        for head, features, perturb in zip(heads, maps, self.perturbations, strict=True):
            disturbed = features if perturb is None else perturb(features, seeds)
            logits.append(F.interpolate(head(disturbed), image.shape[2:], mode=mode))
        return torch.stack(logits)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
