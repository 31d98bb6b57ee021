"""Uncertainty-aware multi-view co-training (UMCT)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.errors import SettingError
from semivox.losses.dice import dice_soft
from semivox.losses.multi_view import dropout_confidence, fused_by_others
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Optimiser, Stage, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import running_statistics_kept
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.viewpoints import VIEWPOINTS, seen_back, seen_from

ALONE, TOGETHER = "alone", "together"


class MultiViewCoTraining(Method):
    """3D semi-supervised learning with uncertainty-aware multi-view co-training (Xia et al., WACV 2020; Medical Image
    Analysis 2020).

    V networks see one scan from V sides: a volume with its axes in other orders, a picture turned by k · 90°. In stage
    `alone` each learns from labels: L = Σ_i Dice(p_i(x_l), y). In stage `together` each also learns on unlabelled scans
    what the others say, by how sure they are: L += λ Σ_i Dice(p_i(x_u), Ŷ_i) with Ŷ_i = Σ_{j≠i} c_j μ_j / Σ_{j≠i} c_j,
    c_j = 1 / (var_j + ε), where μ_j and var_j are the mean and the variance of K passes of network j with dropout. All
    is turned back before it is compared; a view has no part in its own label, and no gradient passes a label. With V =
    2 the confidences cancel, and what is left is soft cross teaching.

    Only abstract and outline of the paper could be verified: K, λ and the shares of the stages are recalled, ε is ours,
    and so is which prediction stands in Ŷ (the mean of the passes that tell the variance). The supervised term is the
    one of all methods here, ½ (CE + Dice). The paper's networks have kernels that differ between the axes, begun from
    2-D weights; here each is the plan's network, which has such kernels where the plan gives them. The K passes of a
    network are one batch and leave no trace in its batch-norm statistics; a network without dropout has no variance,
    and all views count alike. What predicts is the plain mean of moving averages of all V networks.
    """

    class Settings(MethodSettings):
        networks: int = Field(3, ge=2, le=6)
        """V: views, each with a network; of a picture there are at most four."""
        passes: int = Field(10, ge=2)
        """K: passes with dropout whose variance tells how sure a network is."""
        epsilon: float = Field(1e-4, gt=0)
        """ε: added to the variance; below it all variances count alike."""
        co_training_weight: float = Field(0.2, ge=0)
        """λ: weight of what the other views say."""
        alone_share: float = Field(0.8, gt=0, lt=1)
        """Share of the run that each network trains alone, on labelled scans: 20000 of 25000 steps."""
        co_training_rate: float | None = Field(1e-3, gt=0)
        """Learning rate of the second stage, constant. null: the run's, beginning anew."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated averages of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Xia et al., WACV 2020"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, MultiViewCoTraining.Settings)
        views = settings.networks
        return Demand(
            views=cls.views,
            networks=views,
            averages=views,
            labelled_forwards=views,
            unlabelled_forwards=views,
            teacher_forwards=views * settings.passes,
            taught_at_once=settings.passes,
            parts=views,
        )

    def build(self, problem: Problem) -> None:
        count, possible = self.settings.networks, VIEWPOINTS[problem.dimensions]
        if count > possible:
            raise SettingError(
                f"networks={count}: a {problem.dimensions}-D patch has {possible} views; give at most that"
            )
        self.problem = problem
        self.networks = nn.ModuleList(problem.network() for _ in range(count))
        self.averages = nn.ModuleList(problem.average(own, self.settings.average_decay) for own in self.networks)

    def optimisers(self) -> Sequence[Optimiser]:
        rate = self.settings.co_training_rate
        together = Optimiser(TOGETHER, (self.networks,))
        if rate is not None:
            together = replace(together, learning_rate=rate, schedule="constant")
        return Optimiser(ALONE, (self.networks,)), together

    def stages(self) -> Sequence[Stage]:
        share = self.settings.alone_share
        return Stage(ALONE, share, unlabelled=False), Stage(TOGETHER, 1 - share, keep_optimisers=False)

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        yield clock.stage, lambda: self.parts(batch, clock)

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        """Network by network: no other keeps anything for its backward pass meanwhile."""
        if clock.stage == ALONE:
            for view in range(len(self.networks)):
                logits = self.look(batch.labelled.image, view)
                yield {f"supervised_{view + 1}": self.problem.supervised_loss(logits, batch.labelled)}
            return
        labels = self.fused_labels(batch.unlabelled)
        images = torch.cat([batch.labelled.image, batch.unlabelled.image])
        for view, label in enumerate(labels):
            yield self.joint_terms(self.look(images, view), label, view, batch)

    def look(self, images: Tensor, view: int) -> Tensor:
        """Logits (B, K, *space) of the network of a view, turned back."""
        return seen_back(self.networks[view](seen_from(images, view)), view)

    @torch.no_grad()
    def fused_labels(self, stream: Stream) -> Tensor:
        """Ŷ of each view (V, B, K, *space)."""
        means, confidences = [], []
        for view, network in enumerate(self.networks):
            with running_statistics_kept(network):
                images = torch.cat([stream.image] * self.settings.passes)
                looks = full_precision(self.look(images, view)).softmax(1)
            looks = looks.unflatten(0, (self.settings.passes, len(stream)))
            means.append(looks.mean(0))
            confidences.append(dropout_confidence(looks, self.settings.epsilon))
        return fused_by_others(torch.stack(means), torch.stack(confidences))

    def joint_terms(self, logits: Tensor, label: Tensor, view: int, batch: Batch) -> Terms:
        """The terms of one network; `label`: (B, K, *space) of the unlabelled stream."""
        supervised, student = logits.split([len(batch.labelled), len(batch.unlabelled)])
        if view == 0:
            self.note(student=student, teacher=label)
        dice = dice_soft(full_precision(student).softmax(1), label, batch.unlabelled.valid).mean()
        return {
            f"supervised_{view + 1}": self.problem.supervised_loss(supervised, batch.labelled),
            f"co_training_{view + 1}": self.settings.co_training_weight * dice,
        }

    def predict(self, image: Tensor, task: str) -> Tensor:
        looks = [
            seen_back(full_precision(average(seen_from(image, view))).softmax(1), view)
            for view, average in enumerate(self.averages)
        ]
        return torch.stack(looks).mean(0)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return tuple(self.averages)
