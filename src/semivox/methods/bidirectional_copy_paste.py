"""Bidirectional copy-paste (BCP)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.inference.postprocessing import keep_largest_components
from semivox.losses.partial import certain_label
from semivox.losses.supervised import supervised_loss
from semivox.methods.average import Average
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Stage, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.planning.plan import BatchSize
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.mixing import copy_paste, similar_boxes

PRETRAIN, SELF_TRAIN = "pretrain", "self_train"
ALL, FIRST, SECOND = slice(None), slice(0, None, 2), slice(1, None, 2)
"""Rows of a batch: all, the first and the second of each two neighbours."""
SIDE = 2 / 3
"""Of the patch, along each axis, rounded down: what a box takes."""


class BidirectionalCopyPaste(Method):
    """Bidirectional copy-paste for semi-supervised medical image segmentation (Bai et al., CVPR 2023).

    Labelled and unlabelled scans come closer if the network sees both in one image. With M = 0 in a random box of 2/3
    of each side and 1 around it, labelled neighbours a, b and unlabelled ones p, q: first the student learns from
    x_a M + x_b (1 - M) alone, then from x_1 = x_p M + x_a (1 - M) and x_2 = x_b M + x_q (1 - M), where a teacher (its
    moving average, from a copy) labels p and q. L = L(x_1) + L(x_2), each ½ (CE + Dice) over the labelled region plus
    α times the same over the pseudo-labelled one. Of pseudo-labels only each class's largest component stays. Nothing
    is ramped, and from the second stage on the student sees no clean scan.

    The mean over a region and its Dice are those of the public ACDC script, in both stages (on LA it has one Dice per
    sample over Σp + Σg, and pretrains on the mixed label map as a whole). A box is drawn per pair, there per batch, and
    may touch the far border. The second stage starts from the pretrained student as it is, not from the best on
    validation (in public, on test) scans, with fresh optimisers; on ACDC the script keeps them. Paper and script
    evaluate the student; `evaluate` chooses.
    """

    class Settings(MethodSettings):
        pretraining_share: float = Field(0.25, gt=0, lt=1)
        """Share of the run that trains on labelled scans only: 10000 of 40000 steps on ACDC, 2000 of 17000 on LA."""
        pseudo_weight: float = Field(0.5, ge=0)
        """α: weight of a mix's pseudo-labelled region; the labelled one has 1."""
        largest_component: bool = True
        """Whether of each class only the largest component stays in a pseudo-label: per patch in 3-D, slice in 2-D."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """λ: decay of the teacher."""
        teacher_mode: Literal["train", "eval"] = "train"
        """train: the teacher normalises with its batch, with dropout (LA). eval: averaged statistics."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """Which of the two predicts."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",), labelled_multiple=2, unlabelled_multiple=2)
    paper: ClassVar[str] = "Bai et al., CVPR 2023"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Two mixes of half a batch each: as many passes as there are labelled samples.
        return Demand(views=cls.views, averages=1, labelled_forwards=1, teacher_forwards=1)

    def build(self, problem: Problem) -> None:
        refuse_odd_batches(type(self).__name__, problem.plan.batch)
        self.problem = problem
        self.student = problem.network()
        mode = self.settings.teacher_mode
        self.teacher = problem.average(self.student, self.settings.average_decay, mode=mode)

    def stages(self) -> Sequence[Stage]:
        share = self.settings.pretraining_share
        return (
            Stage(PRETRAIN, share, unlabelled=False),
            Stage(SELF_TRAIN, 1 - share, keep_optimisers=False),
        )

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        mixes = self.mixes(batch, clock)
        logits = self.student(mixes.image)
        if clock.stage != PRETRAIN:
            self.note(student=logits)
        return self.region_terms(logits, mixes.regions)

    def mixes(self, batch: Batch, clock: Clock) -> "Mixes":
        """What a student sees in a stage, and who labels which region of it."""
        a, b = pair(batch.labelled)
        box = similar_boxes(a.image.shape[2:], a.seeds, SIDE, device=a.image.device)
        if clock.stage == PRETRAIN:
            mixed, _ = copy_paste(a.image, b.image, box)
            return Mixes(
                mixed, (Region("supervised_border", ALL, ~box, a, 1.0), Region("supervised_centre", ALL, box, b, 1.0))
            )
        unlabelled = batch.unlabelled
        teacher = self.teacher(unlabelled.image)
        pseudo = self.pseudo_labels(teacher, unlabelled.valid)
        (p, q), (pseudo_p, pseudo_q) = pair(unlabelled), (pseudo[FIRST], pseudo[SECOND])
        x_1, _ = copy_paste(p.image, a.image, box)
        x_2, _ = copy_paste(b.image, q.image, box)
        self.note(pseudo=pseudo, teacher=teacher, kept=interleave(p.valid & ~box, q.valid & box))
        weight = self.settings.pseudo_weight
        return Mixes(
            interleave(x_1, x_2),
            (
                Region("supervised_centre", FIRST, box, a, 1.0),
                Region("supervised_border", SECOND, ~box, b, 1.0),
                Region("pseudo_border", FIRST, ~box, pseudo_p, weight),
                Region("pseudo_centre", SECOND, box, pseudo_q, weight),
            ),
        )

    def region_terms(self, logits: Tensor, regions: Sequence["Region"]) -> Terms:
        """½ (CE + Dice) of every region, weighted."""

        def loss(region: Region) -> Tensor:
            if isinstance(region.source, Stream):
                return self.problem.supervised_loss(logits[region.rows], region.source, region.where)
            return supervised_loss(logits[region.rows], region.source, weight=region.where)

        return {region.name: region.weight * loss(region) for region in regions}

    def pseudo_labels(self, logits: Tensor, valid: Tensor) -> Tensor:
        """ŷ (B, *space) of the teacher's logits (B, K, *space), `IGNORE` where `valid` is False."""
        label = logits.argmax(1).masked_fill(~valid, 0)
        if self.settings.largest_component:
            label = keep_largest_components(label)
        return label.masked_fill(~valid, IGNORE)

    def after_step(self, clock: Clock) -> None:
        """Until the second stage begins an average is its source, statistics of batch norm included; then λ is
        constant, however short the first was."""
        for average in self.modules():
            if isinstance(average, Average):
                if clock.stage == PRETRAIN:
                    average.module.load_state_dict(average.source.state_dict())
                else:
                    average.update()

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher if self.settings.evaluate == "teacher" else self.student,)


@dataclass(frozen=True)
class Region:
    """A part of some of the mixes, of one sample in each, and what labels it."""

    name: str
    """Of its loss term."""
    rows: slice
    """Which of the mixes."""
    where: Tensor
    """(rows, *space) bool."""
    source: Stream | Tensor
    """The labelled samples, or pseudo-labels (rows, *space)."""
    weight: float

    @property
    def label(self) -> Tensor:
        """What the region is surely, (rows, *space); `IGNORE` where that is unknown. Only `where` matters."""
        if isinstance(self.source, Tensor):
            return self.source
        assert self.source.label is not None
        return certain_label(self.source.label, self.source.known)


@dataclass(frozen=True)
class Mixes:
    """Images (rows, C, *space) of two samples each, and their regions."""

    image: Tensor
    regions: tuple[Region, ...]


def refuse_odd_batches(method: str, batch: BatchSize) -> None:
    """Raises SettingError where `pair` cannot take both streams of a batch apart alike."""
    if batch.labelled != batch.unlabelled or batch.labelled % 2:
        raise SettingError(
            f"{method} pairs samples, but the batch is {batch.labelled}+{batch.unlabelled}; give"
            " plan.batch.labelled and plan.batch.unlabelled one even number"
        )


def pair(stream: Stream) -> tuple[Stream, Stream]:
    """The first and the second of each two neighbours."""
    return stream[FIRST], stream[SECOND]


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """What `pair` took apart, in one batch again."""
    return torch.stack([first, second], 1).flatten(0, 1)
