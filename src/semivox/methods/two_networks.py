"""Two networks, alike but for their first weights, that have something to tell each other."""

from typing import Literal

from pydantic import Field
from torch import nn

from semivox.methods.method import Method, MethodSettings
from semivox.methods.problem import Problem


class TwoNetworks(Method):
    """What methods of two networks share: both, a moving average of each, and which of those predict."""

    class Settings(MethodSettings):
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated averages of the weights."""
        evaluate: Literal["first", "mean"] = "mean"
        """first: network 1 predicts. mean: the mean of both networks' probabilities."""

    settings: Settings

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.first = problem.network()
        self.second = problem.network()
        self.first_average = problem.average(self.first, self.settings.average_decay)
        self.second_average = problem.average(self.second, self.settings.average_decay)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        if self.settings.evaluate == "first":
            return (self.first_average,)
        return self.first_average, self.second_average
