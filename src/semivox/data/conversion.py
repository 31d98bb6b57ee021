"""Formats that can be turned into the nnU-Net v2 raw layout, one file each."""

from collections.abc import Callable
from pathlib import Path

from semivox.data import dicom, msd, research_h5
from semivox.data.case import Dataset
from semivox.errors import unknown
from semivox.parallel import Progress

FORMATS: dict[str, Callable[[Path, Path, Progress | None], Dataset]] = {
    "dicom": dicom.convert,
    "h5": research_h5.convert,
    "msd": msd.convert,
}


def convert(source: Path, format: str, out: Path, progress: Progress | None = None) -> Dataset:
    """Converts `source`, which is in `format` (a name in `FORMATS`), to a new data set at `out`, and returns it.

    `progress` is called with the number of cases done and of all. A conversion that fails leaves nothing behind.
    Raises SettingError for an unknown format or where `out` holds files, DataError for what cannot be converted.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format](Path(source), Path(out), progress)
