"""Formats that can be turned into the nnU-Net v2 raw layout, one file each."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from semivox.data import acdc, bhsd, btcv, dicom, mmwhs, mnms, msd, pancreas_ct, research_h5
from semivox.data.case import Dataset
from semivox.errors import SettingError, unknown
from semivox.parallel import Progress

FORMATS: dict[str, Callable[..., Dataset]] = {
    "acdc": acdc.convert,
    "bhsd": bhsd.convert,
    "btcv": btcv.convert,
    "dicom": dicom.convert,
    "h5": research_h5.convert,
    "mmwhs": mmwhs.convert,
    "mnms": mnms.convert,
    "msd": msd.convert,
    "pancreas_ct": pancreas_ct.convert,
}
"""Each is called with source, out and progress."""

CROPPED = ("mmwhs", "mnms", "msd", "pancreas_ct")
"""Those that published protocols cut around the reference, and that take `crop` too."""


def convert(
    source: Path,
    format: str,
    out: Path,
    progress: Progress | None = None,
    crop: Literal["none", "published"] = "none",
) -> Dataset:
    """Converts `source`, which is in `format` (a name in `FORMATS`), to a new data set at `out`, and returns it.

    `progress` is called with the number of cases done and of all. `crop`: published cuts every scan around its
    reference, as the published protocols of this set do. A conversion that fails leaves nothing behind.
    Raises SettingError for an unknown format or where `out` holds files, DataError for what cannot be converted.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if crop == "none":
        return FORMATS[format](Path(source), Path(out), progress)
    if format not in CROPPED:
        raise SettingError(f"--crop {crop}: goes with --from {', '.join(CROPPED)} only; leave it out")
    return FORMATS[format](Path(source), Path(out), progress, crop=crop)
