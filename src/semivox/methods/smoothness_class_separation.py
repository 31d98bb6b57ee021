"""Smoothness and class separation (SS-Net)."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.losses.class_separation import class_separation
from semivox.losses.partial import certain_label
from semivox.losses.reduction import full_precision
from semivox.losses.virtual_adversarial import adversarial_direction, smoothness_dice
from semivox.methods.class_memory import ClassMemory, VoxelMLP
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import in_evaluation_mode, running_statistics_kept
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.draws import normal, seed_of
from semivox.sampling.voxels import voxels_of_classes

WIDTH = 32
"""Numbers of a projected feature, and of the hidden layers."""
PUBLISHED = {2: (0.1, 6.0, 1.0), 3: (1.0, 10.0, 0.4)}
"""Dimensions → λ_max, ε and the ramp's share of the run, of the published runs (ACDC, LA)."""


class SmoothnessClassSeparation(Method):
    """Exploring smoothness and class-separation for semi-supervised medical image segmentation (SS-Net, Wu et al.,
    MICCAI 2022).

    Smoothness: on all scans the prediction must withstand the change of the image, of norm ε, that changes it most;
    L_vat = Dice(p(x + ε d), sg p(x)), d of norm 1 over the whole sample and found by one power step from chance, ξ
    away from x. Batch norm's running statistics are left alone by these passes. Class separation: features of voxels
    (the last map, projected and then predicted from) are drawn towards those that a memory M_c keeps of their class,
    L_c = (1/C) Σ_c mean_ij w_i w'_j (1 - cos(q_i, M_cj)), with weights w that learnt selectors give; the memory is
    refilled in every step with projections of labelled voxels that were predicted correctly, those ranked highest.
    L = L_sup + λ(t) [L_vat + λ_c (L_c on labelled voxels + L_c on unlabelled ones by their predicted class)].

    Two defects of the public code are settings, for its numbers have probably been made with them: it sorts the scores
    so that the features ranked *lowest* are kept (`kept: lowest`), and a filter keeps the background out of the memory
    (`background: false`). Also different: queries are drawn, `queries` per class and scan, for a matrix of all voxels
    is huge in 3-D; L_sup is that of every method (there Dice alone), and L_vat's Dice has squares (see
    `losses.virtual_adversarial`); p(x) is the prediction that the other terms have, where the code computes it again;
    voxels whose label does not know all classes are not taken for background; selectors have ReLU and see features as
    they are (there leaky ones, and normalised features of the memory). What is evaluated is a moving average of the
    weights, as for every method here.
    """

    class Settings(MethodSettings):
        consistency_weight: float | None = Field(None, ge=0)
        """λ_max: weight of smoothness and separation once the ramp is at its top; null: 1 in 3-D, 0.1 in 2-D."""
        separation_weight: float = Field(0.1, ge=0)
        """λ_c: weight of the class separation within that."""
        ramp_share: float | None = Field(None, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows; null: 0.4 in 3-D, 1 in 2-D."""
        radius: float | None = Field(None, gt=0)
        """ε: norm of the change over a whole patch, in units of the prepared intensities; null: 10 in 3-D (patches of
        112×112×80), 6 in 2-D (256²). A smaller patch is changed more strongly by the same norm."""
        xi: float = Field(10.0, gt=0)
        """ξ: how far from the image the power step takes its gradient."""
        memory_size: int = Field(32, ge=1)
        """Features that the memory keeps of each class."""
        queries: int = Field(256, ge=1)
        """Voxels of each class and scan that are compared with the memory, and are candidates for it."""
        kept: Literal["highest", "lowest"] = "highest"
        """Which of the ranked features the memory keeps. highest: as meant. lowest: as the public code sorts them."""
        background: bool = True
        """Whether the background has a memory too. false: as in the public code."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    requires = frozenset({"maps", "head"})
    paper: ClassVar[str] = "Wu et al., MICCAI 2022"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Kept are the pass of the images and that of the changed ones, of which one is gone when the other begins.
        # Between them is the power step, a pass and a gradient to both streams' images alone.
        return Demand(
            views=cls.views, averages=1, labelled_forwards=2, unlabelled_forwards=2, teacher_forwards=4, parts=2
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        classes = problem.classes
        self.projection = VoxelMLP(1, self.network.map_channels[-1], WIDTH, WIDTH)
        self.prediction = VoxelMLP(1, WIDTH, WIDTH, WIDTH)
        self.query_selector = VoxelMLP(classes, WIDTH, WIDTH, 1)
        self.memory_selector = VoxelMLP(classes, WIDTH, WIDTH, 1)
        self.memory = ClassMemory(classes, self.settings.memory_size, WIDTH)
        self.average = problem.average(self.network, self.settings.average_decay)
        given = self.settings.consistency_weight, self.settings.radius, self.settings.ramp_share
        self.consistency_weight, self.radius, self.ramp_share = (
            usual if own is None else own for own, usual in zip(given, PUBLISHED[problem.dimensions], strict=True)
        )

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        weight = self.consistency_weight * clock.ramp(self.ramp_share)
        terms, logits = self.separation(batch, weight * self.settings.separation_weight)
        yield terms
        yield {"smoothness": weight * self.smoothness(batch, logits)}

    def separation(self, batch: Batch, weight: float) -> tuple[Terms, Tensor]:
        """The terms of labels and of class separation, and the logits of both streams, without gradient."""
        labelled, unlabelled = batch.labelled, batch.unlabelled
        sizes = [len(labelled), len(unlabelled)]
        penultimate = self.network.decode(self.network.encode(torch.cat([labelled.image, unlabelled.image])))[-1]
        logits = self.network.head(penultimate)
        supervised, student = logits.split(sizes)
        of_labelled, of_unlabelled = penultimate.split(sizes)

        assert labelled.label is not None
        known = certain_label(labelled.label, labelled.known)
        right = known.masked_fill(supervised.argmax(1) != known, IGNORE)
        self.remember(*self.drawn(of_labelled, right, labelled))
        predicted = student.argmax(1).masked_fill(~unlabelled.valid, IGNORE)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "separation_labelled": weight * self.distance_to_memory(*self.drawn(of_labelled, known, labelled)),
            "separation_unlabelled": weight
            * self.distance_to_memory(*self.drawn(of_unlabelled, predicted, unlabelled)),
        }, logits.detach()

    def drawn(self, maps: Tensor, label: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Features (K, N, E) of some voxels of each class of `label` (B, *space), and which of them count (K, N)."""
        places, drawn = voxels_of_classes(label, self.problem.classes, self.settings.queries, stream.seeds)
        rows = places.flatten(1).unsqueeze(1).expand(-1, maps.shape[1], -1)
        features = maps.flatten(2).gather(2, rows).unflatten(2, places.shape[1:])
        return features.permute(2, 0, 3, 1).flatten(1, 2), drawn.transpose(0, 1).flatten(1)

    def projected(self, features: Tensor, counted: Tensor) -> Tensor:
        """The projection of features (K, N, E), with statistics of all classes together."""
        return self.projection(features.flatten(0, 1).unsqueeze(0), counted.reshape(1, -1)).view(*counted.shape, -1)

    @torch.no_grad()
    def remember(self, features: Tensor, candidates: Tensor) -> None:
        """Refills the memory with the projections of those features (K, N, E) that are ranked first."""
        with in_evaluation_mode(self.projection), in_evaluation_mode(self.query_selector):
            projected = self.projected(features, candidates)
            scores = self.query_selector(projected, candidates).squeeze(2)
        candidates[0] &= self.settings.background
        self.memory.refill(projected, scores if self.settings.kept == "highest" else -scores, candidates)

    def distance_to_memory(self, features: Tensor, counted: Tensor) -> Tensor:
        """L_c of features (K, N, E) of which some count (K, N); the selectors learn from it, but not the features from
        the selectors."""
        projected = self.projected(features, counted)
        queries = self.prediction(projected.flatten(0, 1).unsqueeze(0), counted.reshape(1, -1)).view_as(projected)
        scores = self.query_selector(queries.detach(), counted).squeeze(2)
        kept, stored = self.memory.features, self.memory.stored
        return class_separation(queries, scores, counted, kept, self.memory_selector(kept, stored).squeeze(2), stored)

    def smoothness(self, batch: Batch, logits: Tensor) -> Tensor:
        """L_vat on both streams, whose logits are given."""
        streams = batch.labelled, batch.unlabelled
        images = torch.cat([each.image for each in streams])
        valid = torch.cat([each.valid for each in streams])
        target = full_precision(logits).softmax(1)
        seeds = tuple(seed_of(seed, "direction") for each in streams for seed in each.seeds)

        def changed(change: Tensor) -> Tensor:
            return self.network(images + change * valid.unsqueeze(1))

        with running_statistics_kept(self.network):
            direction = adversarial_direction(
                lambda change: smoothness_dice(changed(change), target, valid),
                normal(tuple(images.shape[1:]), seeds, images.device) * valid.unsqueeze(1),
                self.settings.xi,
            )
            disturbed = changed(self.radius * direction)
        self.note(student=disturbed[len(batch.labelled) :], teacher=logits[len(batch.labelled) :])
        return smoothness_dice(disturbed, target, valid)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
