"""Short-axis slices of the heart as public downloads store them: arrays whose headers do not place them in the patient.

Those of M&Ms lie oblique, so that no axis is foot-head; those of ACDC have an sform of 1 mm voxels beside the true
voxel sizes. So voxel sizes are taken from the header, and axes are written as left, posterior, superior.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor

from semivox.data.download import Arrays, Found, refuse_values
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.data.volume import Grid

NOTE = """Axes are those of the file, written as left, posterior, superior with the file's voxel sizes: the short axis
lies oblique in the patient, and its slices must stay slices. Where the patient's left is was not kept.
"""


def read_short_axis(case: Found, labels: LabelMap) -> Arrays:
    """Image and label of a case, of files (x, y, slice), or of its `frame` in files (x, y, slice, frame).

    Raises FaultError where a file cannot be read or has other axes, or the label another shape or other values.
    """
    image, spacing_mm = _stack(case, case.image)
    x, y, z = image.shape
    grid = Grid((x, y, z), np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]))
    if case.label is None:
        return Arrays(image, None, grid)
    label = _stack(case, case.label)[0]
    if label.shape != image.shape:
        what = f"has shape {_shape(label.shape)}, the image {_shape(image.shape)}"
        raise FaultError(Fault(case.id, case.label, what, "copy both again from their source"))
    label = _whole(case, label)
    refuse_values(case, label, labels)
    return Arrays(image, label, grid)


def _stack(case: Found, file: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The slices (x, y, slice) in the file's type where it is not scaled, and the voxel size."""
    axes = 3 if case.frame is None else 4
    try:
        with LoggingOutputSuppressor():  # nibabel prints what it then raises
            opened: Any = nib.load(file)
        shape = opened.shape
        is_plain = (opened.dataobj.slope, opened.dataobj.inter) == (1.0, 0.0)
        stack = None
        if len(shape) == axes and (case.frame is None or 0 <= case.frame < shape[3]):
            stack = np.asarray(opened.dataobj[..., case.frame] if axes == 4 else opened.dataobj[...])
            stack = stack if is_plain else stack.astype(np.float32)
        x, y, z = (float(size) for size in opened.header.get_zooms()[:3])
    # nibabel raises errors of many kinds on damaged files; all of them mean that this file cannot be read.
    except Exception as error:
        what = f"cannot be read as NIfTI ({' '.join(str(error).split())[:160]})"
        raise FaultError(Fault(case.id, file, what, "copy it again from its source")) from None
    if stack is None and case.frame is not None:
        what = f"has no frame {case.frame} (shape {_shape(shape)})"
        raise FaultError(Fault(case.id, file, what, "correct ED and ES in the table: frames count from 0"))
    if stack is None:
        what = f"has shape {_shape(shape)} where x, y and slice are due"
        raise FaultError(Fault(case.id, file, what, "copy it again from its source"))
    if min(x, y, z) <= 0:
        raise FaultError(Fault(case.id, file, "has a voxel size of 0", "copy it again from its source"))
    return stack, (x, y, z)


def _whole(case: Found, label: np.ndarray) -> np.ndarray:
    whole = np.rint(label)
    if not np.array_equal(whole, label) or whole.min() < 0 or whole.max() > 255:
        what = "label holds other values than whole numbers from 0 to 255"
        raise FaultError(Fault(case.id, case.label, what, "copy it again from its source"))
    return whole.astype(np.uint8)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
