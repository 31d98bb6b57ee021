"""Students' discrepancy-informed correction learning (SDCL)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from semivox.losses.discrepancy import label_mse, uniform_divergence
from semivox.methods.bidirectional_copy_paste import (
    FIRST,
    PRETRAIN,
    SECOND,
    BidirectionalCopyPaste,
    Mixes,
)
from semivox.methods.clock import Clock
from semivox.methods.method import MethodSettings, Optimiser, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Companion, Demand
from semivox.planning.plan import NetworkChoice
from semivox.sampling.batch import Batch

RESIDUAL_ENCODER = NetworkChoice(
    name="residual_encoder_unet", settings={"width": 16, "max_width": 256, "blocks": [1, 3, 4, 6, 3]}
)
"""Blocks per level as in ResNet-34, after a first level of one; channels as in V-Net and U-Net."""
SECOND_PASS = 2.2
"""B as above in units of A: 2.1 to 2.3 of the operations of V-Net and the 2-D U-Net. Any other B counts as one."""


class StudentsDiscrepancy(BidirectionalCopyPaste):
    """SDCL: students discrepancy-informed correction learning (Song & Wang, MICCAI 2024).

    Bidirectional copy-paste with two different students A and B; a teacher, the moving average of A alone, labels for
    both, which see the same mixes. Where their labels differ, D, one of them is wrong: towards the label each is drawn
    by L_mse = mean over D of w (p - y)², and where it is itself wrong by L_kl, the mean of w KL(u ‖ p) with the uniform
    u, it is made undecided. L = Σ over x_1, x_2 of [L_BCP + γ L_mse + μ L_kl] for each student with an optimiser of its
    own; w is 1 in labelled and α in pseudo-labelled regions, and does not enter the means' denominators. The first
    stage is that of copy-paste, for both.

    B is the project's residual-encoder U-Net with the blocks of a ResNet-34 (there such an encoder and the decoder of
    A); `second_network` takes any other. L_kl is ln C less than as the paper writes it, so that 0 is its best value.
    The public LA script reads one list forwards and backwards without shuffling, so that every epoch repeats the same
    pairs; here pairs are drawn anew. What is evaluated are moving averages of both students; the paper's figures are of
    the students themselves, the better or the mean of both.
    """

    class Settings(BidirectionalCopyPaste.Settings):
        second_network: NetworkChoice = RESIDUAL_ENCODER
        """B: the second student's name and settings; the first is the plan's network."""
        mse_weight: float = Field(0.5, ge=0)
        """γ: weight of L_mse; 0.5 on LA and ACDC, 0.3 on Pancreas."""
        divergence_weight: float = Field(0.05, ge=0)
        """μ: weight of L_kl; 0.05 on LA and ACDC, 0.1 on Pancreas."""
        evaluate: Literal["teacher", "student"] = "teacher"
        """teacher: the moving averages of the students predict. student: the students do (paper)."""
        predict_with: Literal["both", "first", "second"] = "both"
        """both: the mean of the probabilities of A and B."""

        @field_validator("second_network", mode="before")
        @classmethod
        def _usual_where_not_named(cls, given: Any) -> Any:
            """Settings without a name change the usual B, and do not make it another network."""
            if isinstance(given, dict) and "name" not in given:
                settings = {**RESIDUAL_ENCODER.settings, **given.get("settings", {})}
                return {**given, "name": RESIDUAL_ENCODER.name, "settings": settings}
            return given

    settings: Settings
    paper: ClassVar[str] = "Song & Wang, MICCAI 2024"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, StudentsDiscrepancy.Settings)
        choice = settings.second_network
        cost = SECOND_PASS if choice == RESIDUAL_ENCODER else 1.0
        # As A: two mixes of half a batch each.
        second = Companion(choice.name, choice.settings, cost, labelled_forwards=1, unlabelled_forwards=0, averages=1)
        return replace(super().demand(settings), companions=(second,))

    def build(self, problem: Problem) -> None:
        super().build(problem)
        choice = self.settings.second_network
        self.second_student = problem.network(choice.name, **choice.settings)
        self.second_average = problem.average(
            self.second_student, self.settings.average_decay, mode=self.settings.teacher_mode
        )

    def optimisers(self) -> Sequence[Optimiser]:
        return Optimiser("first", (self.student,)), Optimiser("second", (self.second_student,))

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms]]]:
        mixes = self.mixes(batch, clock)
        first, second = self.student(mixes.image), self.second_student(mixes.image)
        disagree = first.argmax(1) != second.argmax(1)
        if clock.stage != PRETRAIN:
            self.note(student=first)
        for number, (name, logits) in enumerate((("first", first), ("second", second)), start=1):
            yield name, partial(self.student_terms, logits, disagree, mixes, clock.stage, number)

    def student_terms(self, logits: Tensor, disagree: Tensor, mixes: Mixes, stage: str, number: int) -> Terms:
        """The loss of one student from its logits on the mixes, and where it and the other one disagree."""
        terms = self.region_terms(logits, mixes.regions)
        if stage != PRETRAIN:
            terms |= self.correction(logits, disagree, mixes)
        return {f"{name}_{number}": term for name, term in terms.items()}

    def correction(self, logits: Tensor, disagree: Tensor, mixes: Mixes) -> Terms:
        """γ L_mse and μ L_kl, each of x_1 and x_2 together."""
        squares, divergence = [], []
        for rows in (FIRST, SECOND):
            one, other = (region for region in mixes.regions if region.rows == rows)
            label = torch.where(one.where, one.label, other.label)
            weight = one.where * one.weight + other.where * other.weight
            squares.append(label_mse(logits[rows], label, disagree[rows], weight))
            divergence.append(uniform_divergence(logits[rows], label, disagree[rows], weight))
        return {
            "correction": self.settings.mse_weight * torch.stack(squares).sum(),
            "divergence": self.settings.divergence_weight * torch.stack(divergence).sum(),
        }

    def inference_modules(self) -> tuple[nn.Module, ...]:
        students, averages = (self.student, self.second_student), (self.teacher, self.second_average)
        chosen = averages if self.settings.evaluate == "teacher" else students
        return {"both": chosen, "first": chosen[:1], "second": chosen[1:]}[self.settings.predict_with]
