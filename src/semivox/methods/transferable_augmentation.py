"""Transferable semantic augmentation (TSA): an addition to any method with a teacher and a student."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.inference.postprocessing import keep_largest_components
from semivox.losses.partial import certain_label
from semivox.losses.reduction import batch_sum, full_precision
from semivox.losses.transferable import (
    augmentation_table,
    class_moments,
    mean_and_covariance,
    merge_moments,
    transferable_mean,
)
from semivox.methods.clock import Clock
from semivox.methods.method import Method
from semivox.methods.problem import Problem
from semivox.networks.network import Network
from semivox.progress import say
from semivox.sampling.batch import Batch, Stream
from semivox.settings import Part

LARGE = 5.0
"""An entry of Q above which the bound is loose and hard or mislabelled voxels rule the loss: a warning is due."""
STATISTICS_VOXELS = 2**19
"""About so many voxels of each domain enter the statistics of one step: far more than a mean of 16 features needs, and
with all of a large patch the statistics would take longer than the loss."""
DROPOUT = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)


class TransferableSettings(Part):
    """Settings of the addition; every reading of the paper that is open has one."""

    weight: float = Field(0.1, ge=0)
    """β: weight of the expected cross-entropy."""
    strength: float = Field(0.25, ge=0)
    """α₀: how far features are moved, at the end of the ramp."""
    ramp: Literal["linear", "constant"] = "linear"
    """linear: α = α₀ t / T over the stage that has unlabelled scans. constant: α = α₀."""
    direction: Literal["student", "teacher"] = "student"
    """student: labelled features of the student towards the target. teacher: its features, by pseudo-label, towards the
    source (the abstract's words); trains the classifier only."""
    source: Literal["as_trained", "clean"] = "as_trained"
    """Where labelled features are from: what the method trains on (in BCP a mix), or another pass of clean images."""
    statistics: Literal["ema", "count"] = "ema"
    """ema: a step counts 1 - ρ. count: every voxel ever seen counts alike, so that early ones are never forgotten."""
    decay: float = Field(0.99, ge=0, lt=1)
    """ρ: what is kept of the statistics at each step, with `ema`."""
    covariance: Literal["full", "diagonal"] = "full"
    """Σ: all of it, or its diagonal only."""
    mean_over: Literal["voxels", "classes"] = "voxels"
    """voxels: each counts alike. classes: each class that occurs does."""
    confidence: float = Field(0.0, ge=0, le=1)
    """Least probability of the teacher at which a voxel enters the target's statistics."""
    largest_component: bool = True
    """Whether of each class only the largest component of the teacher's label enters, where the method has not cleaned
    its pseudo-labels itself."""


class ClassMemory(nn.Module):
    """Mean and covariance of every class's features in one domain, kept over the steps; buffers, so a resume has them.

    count (K,) int64, 0: never seen. mean (K, A). covariance (K, A, A).
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(classes, width))
        self.register_buffer("covariance", torch.zeros(classes, width, width))

    @property
    def seen(self) -> Tensor:
        """(K,) bool."""
        return self.count > 0

    def moments(self, parts: "Sequence[LabelledMap]", step: int) -> Tensor:
        """Gram matrices of the parts' features about the memory's means, for `update`; see `class_moments`.

        Of large maps every so manieth row (plane in 3-D) is taken, another at every step.
        """
        pace = math.ceil(sum(part.label.numel() for part in parts) / STATISTICS_VOXELS) or 1
        rows = slice(step % pace, None, pace)
        classes, width = self.mean.shape
        moments = self.mean.new_zeros(classes, width + 1, width + 1)
        for features, _, label, weight in parts:
            weight = None if weight is None else weight[:, rows]
            moments += class_moments(features[:, :, rows], label[:, rows], self.mean, weight)
        return moments

    @torch.no_grad()
    def update(self, moments: Tensor, decay: float | None) -> None:
        """Takes in one step's moments, summed over processes. decay: ρ; None: by count. A class's first time counts
        whole."""
        count, mean, covariance = mean_and_covariance(batch_sum(moments), self.mean)
        present = count > 0
        share = count / (self.count + count).clamp(min=1) if decay is None else torch.full_like(count, 1 - decay)
        share = share.where(self.seen, 1.0) * present
        self.mean, self.covariance = merge_moments(self.mean, self.covariance, mean, covariance, share)
        self.count += count.round().long()


class LabelledMap(NamedTuple):
    """Features (B, A, *space), their logits (B, K, *space), labels (B, *space) and how much each voxel counts."""

    features: Tensor
    logits: Tensor
    label: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class Reading:
    """One pass of a classifier: the map it read (B, A, *space), detached, and the logits it gave (B, K, *space)."""

    features: Tensor
    logits: Tensor

    def of(self, logits: Tensor) -> Tensor | None:
        """The features of the samples whose logits these are: a view of some rows of `self.logits`; None of others."""
        whole = self.logits
        if logits.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
            return None
        if (logits.shape[1:], logits.stride()[1:]) != (whole.shape[1:], whole.stride()[1:]):
            return None
        first = (logits.storage_offset() - whole.storage_offset()) // whole.stride(0)
        pace = logits.stride(0) // whole.stride(0)
        return self.features[first : first + pace * (len(logits) - 1) + 1 : pace]


@dataclass(frozen=True)
class Overheard(Problem):
    """A problem that tells `heard` of the logits, stream and weight of every supervised term, and has `dressed` change
    every network that is made."""

    heard: Callable[[Tensor, Stream, Tensor | None], None] = field(kw_only=True)
    dressed: Callable[[Network], Network] = field(kw_only=True)

    def network(self, name: str | None = None, **changes: Any) -> Network:
        return self.dressed(super().network(name, **changes))

    def supervised_loss(self, logits: Tensor, stream: Stream, weight: Tensor | None = None) -> Tensor:
        self.heard(logits, stream, weight)
        return super().supervised_loss(logits, stream, weight)


class TransferableAugmentation(nn.Module):
    """L_tsa for one student and its teachers; `losses.transferable` has the formula.

    It listens, and no method knows of it: the problem's supervised terms tell which of the student's logits carry
    ground truth, the classifiers which features they read. The source's statistics are of the student's features where
    there is ground truth, the target's of the teachers' features by pseudo-label. A class that either domain has not
    shown yet is not shifted; one that the target has not shown has no covariance either.
    """

    table: Tensor
    """Q of the last step, (K, K)."""
    _student: tuple[Network, nn.Conv2d | nn.Conv3d]
    """The student and its classifier; a tuple, so that they are not registered as submodules."""

    def __init__(self, settings: TransferableSettings, method: Method) -> None:
        super().__init__()
        self.settings = settings
        self._method = (method,)
        self.batch: Batch | None = None
        self.student_passes: list[Reading] = []
        self.teacher_passes: list[Reading] = []
        self.labelled: list[LabelledMap] = []
        self.pseudo_labelled: list[LabelledMap] = []
        self.strength = 0.0
        self.has_warned = False

    def watch(self, classes: int) -> None:
        """Begins to listen to the method's student and teachers, once they are built.

        Raises SettingError where there is no teacher, or where the classifier is no linear map of what it reads.
        """
        (method,) = self._method
        teachers = method.teachers()
        if not teachers:
            raise SettingError(
                "transferable_augmentation needs a method with a student and a teacher; add it to mean_teacher,"
                " uncertainty_aware_mean_teacher, bidirectional_copy_paste or alternate_diverse_teaching"
            )
        student, *copies = [teachers[0].source, *(teacher.module for teacher in teachers)]
        if not isinstance(student, Network):
            raise SettingError(
                f"transferable_augmentation: the teacher of {type(method).__name__} is the average of a"
                f" {type(student).__name__}, not of a network; give problem.average() the student's network"
            )
        self._student = (student, linear_part(student))
        width = self._student[1].weight.shape[1]
        self.source = ClassMemory(classes, width)
        self.target = ClassMemory(classes, width)
        self.register_buffer("table", torch.zeros(classes, classes), persistent=False)
        student.register_forward_pre_hook(self._before_student)
        student.classifier.register_forward_hook(self._read_student)
        for copy in copies:
            assert isinstance(copy, Network)
            copy.classifier.register_forward_hook(self._read_teacher)

    # What is overheard -----------------------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        """A step with unlabelled samples begins."""
        self.forget()
        self.batch = batch

    def forget(self) -> None:
        """Lets go of all that was heard, so that its memory is free."""
        self.batch = None
        for heard in (self.student_passes, self.teacher_passes, self.labelled, self.pseudo_labelled):
            heard.clear()

    def hear(self, logits: Tensor, stream: Stream, weight: Tensor | None) -> None:
        """A supervised term: ground truth for some of the student's logits."""
        if self.batch is None or self.settings.source == "clean":
            return
        features = next((found for r in self.student_passes if (found := r.of(logits)) is not None), None)
        if features is None:
            raise SettingError(
                "transferable_augmentation: the method changes its student's logits before it compares them with"
                " labels, so that their features are not known; set transferable_augmentation.source=clean"
            )
        assert stream.label is not None
        self.labelled.append(LabelledMap(features, logits, certain_label(stream.label, stream.known), weight))

    def _read_student(self, module: nn.Module, read: tuple[Tensor], gave: Tensor) -> None:
        if self.batch is not None and torch.is_grad_enabled():
            self.student_passes.append(Reading(read[0].detach(), gave))

    def _read_teacher(self, module: nn.Module, read: tuple[Tensor], gave: Tensor) -> None:
        if self.batch is not None:
            self.teacher_passes.append(Reading(read[0].detach(), gave))

    def _before_student(self, module: nn.Module, given: Any) -> None:
        """The teachers' maps are used, and let go, before the student's pass fills the memory."""
        if torch.is_grad_enabled():
            self._use_teachers()

    # What is made of it ----------------------------------------------------------------------------------------------

    def _use_teachers(self) -> None:
        """The target's statistics, from what the teachers have read since the last time."""
        if self.batch is None or not self.teacher_passes:
            return
        parts = [LabelledMap(r.features, r.logits, self._pseudo_label(r.logits), None) for r in self.teacher_passes]
        self.target.update(self.target.moments(parts, self.batch.step), self._decay)
        self.pseudo_labelled += parts if self.settings.direction == "teacher" else []
        self.teacher_passes.clear()

    def _pseudo_label(self, logits: Tensor) -> Tensor:
        """The teacher's label (B, *space): as the method cleaned it, else the likeliest class; `IGNORE` on padding."""
        assert self.batch is not None
        settings, valid = self.settings, self.batch.unlabelled.valid
        label = self._method[0].notes.get("pseudo")
        if label is None or label.shape != logits[:, 0].shape:
            valid = valid.repeat(len(logits) // len(valid), *[1] * (valid.ndim - 1))
            label = logits.argmax(1).masked_fill(~valid, 0)
            label = keep_largest_components(label) if settings.largest_component else label
            label = label.masked_fill(~valid, IGNORE)
        if settings.confidence > 0:
            label = label.masked_fill(full_precision(logits).softmax(1).amax(1) < settings.confidence, IGNORE)
        return label

    @property
    def _decay(self) -> float | None:
        return self.settings.decay if self.settings.statistics == "ema" else None

    def term(self, clock: Clock) -> Tensor:
        """β L_tsa of the step that began, after the method's own terms."""
        settings, batch = self.settings, self.batch
        assert batch is not None
        student, linear = self._student
        self._use_teachers()
        if settings.source == "clean":
            logits = student(batch.labelled.image)
            assert batch.labelled.label is not None
            label = certain_label(batch.labelled.label, batch.labelled.known)
            self.labelled = [LabelledMap(self.student_passes[-1].features, logits, label, None)]
        self.source.update(self.source.moments(self.labelled, batch.step), self._decay)
        moved, start, end = self.labelled, self.source, self.target
        if settings.direction == "teacher":
            moved, start, end = self.pseudo_labelled, self.target, self.source
            moved = [part._replace(logits=linear(part.features)) for part in moved]
        shift = (end.mean - start.mean) * (end.seen & start.seen)[:, None]
        covariance = end.covariance.diagonal(0, 1, 2) if settings.covariance == "diagonal" else end.covariance
        self.strength = settings.strength * (clock.stage_progress if settings.ramp == "linear" else 1.0)
        table = augmentation_table(tap_sum(linear), shift, covariance, self.strength)
        self.table.copy_(table.detach())
        losses = [(part.logits, part.label, part.weight) for part in moved]
        self.forget()
        return settings.weight * transferable_mean(losses, table, balanced=settings.mean_over == "classes")

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """α, the largest entry of Q, |Δμ| and tr Σ_t of every class, and the share of classes that a domain lacks."""
        largest = float(self.table.max())
        if largest > LARGE and not self.has_warned:
            self.has_warned = True
            say(
                f"transferable_augmentation: features are moved far (Q is {largest:.1f}, above {LARGE:g}): lower"
                f" transferable_augmentation.strength (now {self.settings.strength:g})"
            )
        both = self.source.seen & self.target.seen
        shift = (self.target.mean - self.source.mean).norm(dim=1) * both
        trace = self.target.covariance.diagonal(0, 1, 2).sum(1)
        return {
            "transferable/strength": self.strength,
            "transferable/largest_q": largest,
            "transferable/unseen_classes": float((~both).float().mean()),
            **{f"transferable/shift/{name}": float(value) for name, value in zip(class_names, shift, strict=True)},
            **{f"transferable/trace/{name}": float(value) for name, value in zip(class_names, trace, strict=True)},
        }


def linear_part(network: Network) -> nn.Conv2d | nn.Conv3d:
    """The convolution that is a network's classifier, dropout aside.

    Raises SettingError where the classifier is anything else, for then no closed form is known.
    """
    layers = [m for m in network.classifier.modules() if not isinstance(m, (nn.Sequential, nn.Identity, *DROPOUT))]
    if len(layers) != 1 or not isinstance(layers[0], (nn.Conv2d, nn.Conv3d)):
        raise SettingError(
            f"transferable_augmentation needs a classifier that is linear in its features; that of"
            f" {type(network).__name__} is"
            " not; choose unet, vnet or residual_encoder_unet with --network"
        )
    return layers[0]


def tap_sum(linear: nn.Conv2d | nn.Conv3d) -> Tensor:
    """w (K, A): what a shift of the features by one vector everywhere adds to the logits, the sum over the kernel."""
    return linear.weight.flatten(2).sum(2)
