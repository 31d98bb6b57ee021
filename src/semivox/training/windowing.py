"""The sliding window that a plan and the inference settings ask for."""

from semivox.inference.windows import Windows
from semivox.planning.plan import Plan
from semivox.training.config import InferenceSettings
from semivox.training.device import AUTOCAST


def make_windows(plan: Plan, settings: InferenceSettings, precision: str) -> Windows:
    """Windows of the training patch's size. `settings.flips` count the axes of the patch."""
    return Windows(
        window=plan.window,
        dimensions=plan.dimensions,
        slice_axis=plan.slice_axis,
        overlap=settings.overlap,
        batch=settings.batch,
        flips=tuple(plan.axes[axis] for axis in settings.flips),
        autocast=AUTOCAST[precision],
    )
