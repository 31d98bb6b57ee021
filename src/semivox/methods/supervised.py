"""Labelled-only training: the baseline that every semi-supervised method has to beat."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class Supervised(Method):
    """One network on the labelled samples: L = ½ (CE + Dice).

    The weights that are evaluated are a moving average, as in the teacher-student methods, so that averaging alone
    does not look like a gain from unlabelled scans.
    """

    class Settings(MethodSettings):
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",))
    paper: ClassVar[str] = "labelled-only baseline"
    covers: ClassVar[tuple[str, ...]] = ("SSL", "imbalanced SSL", "UDA", "SemiDG", "partial labels")

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        return {"supervised": self.problem.supervised_loss(self.network(batch.labelled.image), batch.labelled)}

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
