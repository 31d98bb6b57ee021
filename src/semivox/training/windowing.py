"""The sliding window that a plan and the inference settings ask for."""

from semivox.errors import SettingError, unknown
from semivox.inference.windows import Windows
from semivox.planning.plan import Plan
from semivox.training.config import InferenceSettings
from semivox.training.device import AUTOCAST


def make_windows(plan: Plan, settings: InferenceSettings, precision: str) -> Windows:
    """Windows of the training patch's size. `settings.flips` and `stride` count the axes of the patch.

    Raises SettingError for an axis that the patch does not have, or an unknown precision.
    """
    if precision not in AUTOCAST:
        raise unknown("precision", precision, AUTOCAST)
    for axis in settings.flips:
        if axis not in range(plan.dimensions):
            raise SettingError(f"inference.flips: a patch has no axis {axis}; its axes are 0 to {plan.dimensions - 1}")
    stride = settings.stride
    if stride is not None and len(stride) != plan.dimensions:
        raise SettingError(
            f"inference.stride is {list(stride)}; give one number for each of the {plan.dimensions} axes"
        )
    return Windows(
        window=plan.window,
        dimensions=plan.dimensions,
        slice_axis=plan.slice_axis,
        overlap=settings.overlap,
        stride=plan.box(stride) if stride else None,
        weighting=settings.weighting,
        batch=settings.batch,
        flips=tuple(plan.axes[axis] for axis in settings.flips),
        autocast=AUTOCAST[precision],
    )
