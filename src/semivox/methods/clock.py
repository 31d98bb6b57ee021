"""Where a run stands: what ramps, schedules, averages and draws for a whole step go by."""

from dataclasses import dataclass

from semivox.losses.schedules import sigmoid_ramp


@dataclass(frozen=True)
class Clock:
    """`step` of `iterations` (0-based) in the whole run; `stage` and its own step and length."""

    step: int
    iterations: int
    stage: str = "train"
    stage_step: int = 0
    stage_iterations: int = 0
    seed: int = 0
    """A function of (run seed, step), the same on every rank: for what is drawn once a step. What is drawn per sample
    comes from `Stream.seeds`."""

    @property
    def progress(self) -> float:
        """Share of the whole run that is done, 0 at the first step."""
        return self.step / max(self.iterations, 1)

    @property
    def stage_progress(self) -> float:
        """Share of the stage that is done."""
        return self.stage_step / max(self.stage_iterations, 1)

    def ramp(self, share: float = 1.0) -> float:
        """Sigmoid ramp exp(-5 (1 - r)²), r growing from 0 to 1 over the first `share` of the stage."""
        return sigmoid_ramp(self.stage_progress, share)
