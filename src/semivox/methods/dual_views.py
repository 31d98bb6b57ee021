"""Uncertainty-guided dual views (Co-BioNet)."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.losses.critic import taken_for_made, taken_for_true, vouched_for
from semivox.losses.divergence import kl_divergence
from semivox.losses.partial import certain_label
from semivox.losses.reduction import batch_mean, full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import MethodSettings, Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.methods.two_networks import TwoNetworks
from semivox.networks.voxel_critic import VoxelCritic
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream

CRITICS = "critics"
CRITIC_PASS = 0.06
"""Of a critic: its operations in units of V-Net's and of the 2-D U-Net's. It waits for memory, so that on a CPU it
takes three times as long as that; what it keeps is gone when the other one begins."""


class DualViews(TwoNetworks):
    """Uncertainty-guided dual-views for semi-supervised volumetric medical image segmentation (Peiris et al., Nature
    Machine Intelligence 2023), Co-BioNet.

    Two networks learn from labels and from each other, and each has a critic that tells, voxel by voxel, whether a mask
    is true or made. Network 1: L = λ_s (CE + Dice) + λ(t) [BCE(p_1, sg p_2) + BCE_M(p_1, sg p_2)], the second one the
    mean over the voxels M where critic 2 vouches for its network: σ(critic_2(p_2)) > T_m + μ · BCE(critic_1(p_1), 1).
    Network 2: the same, exchanged. Then the critics: true masks → 1, what their network made → 0.

    This is the loss that the paper intends. In the public script, by which its figures were probably made, the first
    unlabelled term has no gradient, the second multiplies one number with the mask, and the critics' losses are cut off
    before they reach a critic, so that none ever learns: `loss: public` is that. There each network passes three times
    a step, here once. BCE is written as KL(p_2 ‖ p_1), which has its gradient and is 0 at best; with K classes it is
    over all of them, and a critic sees the K - 1 foreground maps. The critics have no batch norm, see
    `networks.voxel_critic`. The script crops only; here views are weak as everywhere. What predicts is the mean of
    moving averages of both networks.
    """

    class Settings(TwoNetworks.Settings):
        supervised_weight: float = Field(0.7, ge=0)
        """λ_s: weight of CE + Dice; 1 on Pancreas-CT."""
        unlabelled_weight: float = Field(1.0, ge=0)
        """λ_max: weight of the two unlabelled terms once the ramp is at its top."""
        ramp_share: float = Field(0.4, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        threshold: float = Field(0.4, ge=0, le=1)
        """T_m: what a critic must say at least; 0.2 on Pancreas-CT."""
        doubt: float = Field(0.01, ge=0)
        """μ: by how much more where the own critic sees through the own network."""
        loss: Literal["intended", "public"] = "intended"
        """intended: as above. public: of the unlabelled terms the second alone, and that the mean over all voxels times
        the share of those vouched for, by critics as they began (public code)."""
        critic_learning_rate: float = Field(1e-4, gt=0)
        """Learning rate of the critics' AdamW, with a cosine schedule over the run."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Peiris et al., Nature Machine Intelligence 2023"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, DualViews.Settings)
        # Of the unlabelled maps each critic first says where they are to be followed, without gradient.
        critics = 2 * CRITIC_PASS
        passes = 2 + critics if settings.loss == "intended" else 2
        return Demand(
            views=cls.views,
            networks=2,
            averages=2,
            labelled_forwards=passes,
            unlabelled_forwards=passes,
            teacher_forwards=critics,
        )

    def build(self, problem: Problem) -> None:
        super().build(problem)
        maps = problem.classes - 1
        self.critics = nn.ModuleList(VoxelCritic(maps) for _ in range(2))

    def optimisers(self) -> Sequence[Optimiser]:
        return (
            Optimiser("main", (self.first, self.second)),
            Optimiser(CRITICS, (self.critics,), "adamw", self.settings.critic_learning_rate, "cosine"),
        )

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        made: list[Tensor] = []

        def segmenters() -> Terms:
            logits = [self.logits(network, batch) for network in (self.first, self.second)]
            made.extend(full_precision(own.detach()).softmax(1) for own in logits)
            return self.segmenter_terms(logits, batch, clock)

        yield "main", segmenters
        if self.settings.loss == "intended":
            yield CRITICS, lambda: self.critic_terms(made, batch)

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """Of both streams, one after the other."""
        return network(torch.cat([batch.labelled.image, batch.unlabelled.image]))

    def segmenter_terms(self, logits: Sequence[Tensor], batch: Batch, clock: Clock) -> Terms:
        """The terms of both networks, of their logits (B, K, *space) of both streams."""
        settings, valid = self.settings, batch.unlabelled.valid
        sizes = [len(batch.labelled), len(batch.unlabelled)]
        (supervised_1, own_1), (supervised_2, own_2) = (own.split(sizes) for own in logits)
        with torch.no_grad():
            said_1, said_2 = (
                critic(foreground(full_precision(own).softmax(1)))
                for critic, own in zip(self.critics, (own_1, own_2), strict=True)
            )
        kept_1 = valid & vouched_for(said_2, said_1, settings.threshold, settings.doubt, valid)
        kept_2 = valid & vouched_for(said_1, said_2, settings.threshold, settings.doubt, valid)
        self.note(student=own_1, teacher=own_2, kept=kept_1)
        weight = settings.unlabelled_weight * clock.ramp(settings.ramp_share)
        twice = 2 * settings.supervised_weight  # the problem's loss is half of CE + Dice
        cross_1 = weight * kl_divergence(own_2.detach(), own_1, valid)
        cross_2 = weight * kl_divergence(own_1.detach(), own_2, valid)
        terms = {
            "supervised_1": twice * self.problem.supervised_loss(supervised_1, batch.labelled),
            "supervised_2": twice * self.problem.supervised_loss(supervised_2, batch.labelled),
        }
        if settings.loss == "public":
            share_1, share_2 = (batch_mean(kept.to(cross_1), valid) for kept in (kept_1, kept_2))
            return {**terms, "vouched_1": share_1 * cross_1, "vouched_2": share_2 * cross_2}
        return {
            **terms,
            "cross_1": cross_1,
            "cross_2": cross_2,
            "vouched_1": weight * kl_divergence(own_2.detach(), own_1, kept_1),
            "vouched_2": weight * kl_divergence(own_1.detach(), own_2, kept_2),
        }

    def critic_terms(self, made: Sequence[Tensor], batch: Batch) -> Iterator[Terms]:
        """What each critic learns, of what its network made (B, K, *space) of both streams, without gradient. Critic by
        critic: the other one keeps nothing for its backward pass meanwhile."""
        masks, voxels = self.true_masks(batch.labelled)
        valid = torch.cat([batch.labelled.valid, batch.unlabelled.valid])
        for number, (critic, own) in enumerate(zip(self.critics, made, strict=True), start=1):
            true = taken_for_true(critic(masks), voxels)
            yield {f"critic_{number}": true + taken_for_made(critic(foreground(own)), valid)}

    def true_masks(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """All that a true mask can say of a voxel, (K, K - 1, 1): a class's foreground maps; and how many voxels say
        so, (K, 1). To a critic, which looks at single voxels, that is all the labels."""
        assert stream.label is not None
        label = certain_label(stream.label, stream.known)
        voxels = label[label != IGNORE].bincount(minlength=self.problem.classes)
        return foreground(torch.eye(len(voxels), device=label.device)).unsqueeze(2), voxels.unsqueeze(1)


def foreground(maps: Tensor) -> Tensor:
    """All but the first channel."""
    return maps[:, 1:]
