"""Progressive mean teachers (PMT)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.consistency import softmax_mse
from semivox.losses.dice import dice_squared
from semivox.losses.discrepancy import label_mse
from semivox.losses.partial import certain_label
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch

NAMES = ("first", "second")


@dataclass(frozen=True)
class Turn:
    """Whose turn a step belongs to."""

    student: int
    """0 or 1."""
    own_step: int
    """How many steps this student has had before."""
    is_first: bool
    """Whether it is this student's first turn."""


class ProgressiveMeanTeacher(Method):
    """PMT: progressive mean teacher via exploring temporal consistency (Gao et al., ECCV 2024).

    Two students take turns, each with a teacher, its own moving average. A student's first turn lasts half as long if
    it begins, so that after each turn one is half a turn ahead of the other, and the two are never alike. The better
    one, g, has the lower Dice loss on the labelled samples. With s(p) = p^{1/T} / Σ_c p_c^{1/T}, student i learns
    L = CE + Dice + λ_e MSE(p_u, s(p̃_u)) with its teacher p̃, and where it is not the better one also 0.5 times the mean
    of (p - y)² over the labelled voxels D where the two disagree, and λ_c MSE(p_u, s(p_u^g)); in its first turn not.

    The public code keeps the batches of a turn in a buffer, and both students run over each of them, one after the
    other. Here every step has a batch of its own and trains one student: batches are functions of seed and step, and
    no buffer of 160 of them is kept, nor saved for a resumed run. So both see draws from the same scans, not the same
    draws, and 24000 batches there are 48000 steps here. The ramps go by the run, of which each student has half at any
    time. With several classes D is where the students' labels differ, and (p - y)² a mean over classes.

    There the learning rate falls by ten every 2500 batches and is 1e-6 after 10000 of 24000; here as the run says (that
    would be the schedule `step` with `step_every` 5000). What is evaluated is the mean of the teachers, with the decay
    of every method here; the paper evaluates the students.
    """

    class Settings(MethodSettings):
        turn_share: float = Field(1 / 300, gt=0, le=0.5)
        """Share of the run that a turn takes: 160 of 48000 steps on LA."""
        supervised_weight: float = Field(2.0, ge=0)
        """Weight of L_sup = ½ (CE + Dice); 2 is the paper's CE + Dice."""
        disagreement_weight: float = Field(0.5, ge=0)
        """Weight of the labelled voxels D where the students disagree."""
        student_weight: float = Field(20.0, ge=0)
        """λ_c: weight of the consistency with the better student once the ramp is at its top."""
        teacher_weight: float = Field(10.0, ge=0)
        """λ_e: weight of the consistency with the own teacher once the ramp is at its top."""
        ramp_share: float = Field(0.125, ge=0, le=1)
        """Share of the run over which the sigmoid ramps of λ_c and λ_e grow: 3000 of 24000 batches on LA."""
        temperature: float = Field(0.1, gt=0, le=1)
        """T: of the sharpening; 1 changes nothing, small values make hard labels."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the teachers; 0.999 in the paper."""
        teacher_mode: Literal["train", "eval"] = "train"
        """train: the teachers normalise with their batch, with dropout (public code). eval: averaged statistics."""
        evaluate: Literal["teachers", "students"] = "teachers"
        """Whose mean probabilities predict."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Gao et al., ECCV 2024"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Without gradient: the teacher on the unlabelled samples, the other student on those and the labelled ones.
        return Demand(views=cls.views, networks=2, averages=2, unlabelled_forwards=1, teacher_forwards=3)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.first = problem.network()
        self.second = problem.network()
        mode, decay = self.settings.teacher_mode, self.settings.average_decay
        self.first_teacher = problem.average(self.first, decay, mode=mode)
        self.second_teacher = problem.average(self.second, decay, mode=mode)

    def optimisers(self) -> Sequence[Optimiser]:
        return Optimiser("first", (self.first,)), Optimiser("second", (self.second,))

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms]]]:
        yield NAMES[self.turn(clock).student], partial(self.losses, batch, clock)

    def turn(self, clock: Clock) -> Turn:
        """A function of the clock alone, so that nothing need be saved."""
        length = max(1, round(self.settings.turn_share * clock.iterations))
        lead = max(1, length // 2)
        number, place = divmod(clock.step - lead, length)
        if number < 0:
            return Turn(student=0, own_step=clock.step, is_first=True)
        student = (number + 1) % 2
        own_step = number // 2 * length + place + (lead if student == 0 else 0)
        return Turn(student, own_step, is_first=number == 0)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        settings, turn = self.settings, self.turn(clock)
        labelled, unlabelled = batch.labelled, batch.unlabelled
        images = torch.cat([labelled.image, unlabelled.image])
        sizes = [len(labelled), len(unlabelled)]
        students, teachers = (self.first, self.second), (self.first_teacher, self.second_teacher)

        supervised, student = students[turn.student](images).split(sizes)
        teacher = teachers[turn.student](unlabelled.image)
        self.note(student=student, teacher=teacher)
        ramp = clock.ramp(settings.ramp_share)
        terms = {
            "supervised": settings.supervised_weight * self.problem.supervised_loss(supervised, labelled),
            "teacher": settings.teacher_weight * ramp * self.consistency(student, teacher, unlabelled.valid),
        }
        if turn.is_first:
            return terms
        with torch.no_grad():
            other_supervised, other = students[1 - turn.student](images).split(sizes)
        assert labelled.label is not None
        label = certain_label(labelled.label, labelled.known)
        is_worse = (dice_loss(supervised.detach(), label) > dice_loss(other_supervised, label)).float()
        disagree = supervised.argmax(1) != other_supervised.argmax(1)
        return {
            **terms,
            "disagreement": settings.disagreement_weight * is_worse * label_mse(supervised, label, disagree),
            "student": settings.student_weight * ramp * is_worse * self.consistency(student, other, unlabelled.valid),
        }

    def consistency(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """MSE(p, s(q)) of logits and a target's logits: s(softmax(z)) is softmax(z / T)."""
        return softmax_mse(logits, full_precision(target) / self.settings.temperature, valid)

    def after_step(self, clock: Clock) -> None:
        """Moves the teacher of the student that was trained."""
        turn = self.turn(clock)
        (self.first_teacher, self.second_teacher)[turn.student].update(turn.own_step)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        if self.settings.evaluate == "teachers":
            return self.first_teacher, self.second_teacher
        return self.first, self.second


def dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over classes of DiceSq; a scalar."""
    return dice_squared(full_precision(logits).softmax(1), label).mean()
