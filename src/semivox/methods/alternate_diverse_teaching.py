"""Alternate diverse teaching (AD-MT)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.ensemble import combat_conflicts, entropy_weighted_ensemble
from semivox.losses.pseudo_label import confident_dice
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.draws import generator
from semivox.sampling.mixing import boxes, cutmix, partners


class AlternateDiverseTeaching(Method):
    """Alternate diverse teaching for semi-supervised medical image segmentation (Zhao et al., ECCV 2024).

    Two moving averages of one student take turns: only the active one moves, for a random number of steps, and each has
    its own kind of strong view, so that they come to differ: changed intensities in the turns of teacher 1, CutMix of
    the weak views (box area 1 - m, m ~ Beta(4, 4), always) in those of teacher 2. On the weak view the two are
    fused by their entropies, ψ = w₁ p₁ + w₂ p₂; where they quarrel and the student differs from ψ with more confidence,
    the student's label stands. L = L_sup + λ(t) L_u(z(strong), ŷ) over the voxels of enough confidence.

    A defect of the public code is not followed: in CutMix turns it compares labels of the mixed ensemble with those of
    the student's *unmixed* view; here every map is cut by the same box before anything is compared. Also different: the
    student's weak view passes apart, without gradient (there in one batch, detached: the same but for batch-norm
    statistics); both teachers run in one `teacher_mode` (there the active one in train mode, the other with averaged
    statistics); a box has the patch's shape in 3-D too, is drawn per sample, and holds the neighbour in the batch. What
    is evaluated is the mean of the two averages, as in PS-MT; the paper evaluates the student.
    """

    class Settings(MethodSettings):
        unlabelled_weight: float = Field(2.0, ge=0)
        """λ_max: weight of the unlabelled term once the ramp is at its top."""
        ramp_share: float = Field(0.4, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows; 0.4 on LA, 0.25 on ACDC."""
        unlabelled_loss: Literal["cross_entropy", "dice"] = "cross_entropy"
        """L_u, over the confident voxels alone: cross_entropy on LA and Pancreas, dice on ACDC."""
        threshold: float = Field(0.8, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts; 0.8 on LA in the code (0.75 in the paper), 0.95 on ACDC."""
        longest_turn: int = Field(19, ge=1)
        """P_max: a turn lasts 1 to so many steps; half an unlabelled epoch: 19 on LA, 14 on Pancreas, 50 on ACDC."""
        copied_steps: int = Field(40, ge=0)
        """R: for the first 2R steps of the run the active teacher is a copy of the student; 40 on LA, 50 on ACDC."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α_max: decay of the teachers."""
        teacher_mode: Literal["train", "eval"] = "train"
        """train: the teachers normalise with their batch, with dropout. eval: with averaged statistics."""
        evaluate: Literal["teachers", "student"] = "teachers"
        """teachers: the mean of both teachers' probabilities predicts. student: the student does (paper)."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"), unlabelled_multiple=2)
    paper: ClassVar[str] = "Zhao et al., ECCV 2024"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=2, unlabelled_forwards=1, teacher_forwards=3)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        mode, decay = self.settings.teacher_mode, self.settings.average_decay
        self.first_teacher = problem.average(self.student, decay, mode=mode)
        self.second_teacher = problem.average(self.student, decay, mode=mode)
        self.active = 0
        """Which teacher's turn it is, 0 or 1. No buffer: a step would wait for the device to read it."""
        self.steps_left = 0
        """Steps of the turn that are left; 0 between turns."""

    def get_extra_state(self) -> dict[str, int]:
        return {"active": self.active, "steps_left": self.steps_left}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.active, self.steps_left = state["active"], state["steps_left"]

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        (weak, strong), valid = unlabelled.views, unlabelled.valid
        with torch.no_grad():
            own = self.student(weak)
        first, second = self.first_teacher(weak), self.second_teacher(weak)
        if self.active == 1:
            box = boxes(
                weak.shape[2:], unlabelled.seeds, lambda random: 1 - random.beta(4, 4), stretch=1, device=weak.device
            )
            neighbour = partners(len(weak), device=weak.device)
            strong, valid, own, first, second = (
                cutmix(each, neighbour, box) for each in (weak, valid, own, first, second)
            )
        ensemble = entropy_weighted_ensemble(first, second)
        pseudo, confidence = combat_conflicts(ensemble, first, second, own)
        kept = valid & (confidence >= self.settings.threshold)

        supervised, student = self.student(torch.cat([labelled.image, strong])).split([len(labelled), len(weak)])
        self.note(student=student, teacher=ensemble, kept=kept)
        unlabelled_loss = confident_dice if self.settings.unlabelled_loss == "dice" else cross_entropy
        weight = self.settings.unlabelled_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": self.problem.supervised_loss(supervised, labelled),
            "strong": weight * unlabelled_loss(student, pseudo, kept),
        }

    def after_step(self, clock: Clock) -> None:
        """Moves the active teacher; when its turn is over, the other one's begins."""
        if self.steps_left == 0:
            self.steps_left = int(generator(clock.seed, "turn").integers(1, self.settings.longest_turn + 1))
        teacher = self.second_teacher if self.active == 1 else self.first_teacher
        # Each teacher has about every second step, hence ⌊t/2⌋; α = 0 while that is below R, then it warms up.
        teacher.update(max(clock.step // 2 - self.settings.copied_steps, 0))
        self.steps_left -= 1
        if self.steps_left == 0:
            self.active = 1 - self.active

    def inference_modules(self) -> tuple[nn.Module, ...]:
        if self.settings.evaluate == "teachers":
            return self.first_teacher, self.second_teacher
        return (self.student,)
