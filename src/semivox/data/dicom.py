"""DICOM series: slices in files → one volume with its place in the patient, or one line that says why not.

Slices are sorted by their position along the normal of the slice plane, never by InstanceNumber or file name. A volume
needs slices that are parallel, equally spaced and stacked straight along that normal; a gantry tilt, a missing slice,
uneven gaps, mixed orientations and several time points are refused by name, because resampling them into a box would
invent or misplace tissue. Geometry: DICOM PS3.3, C.7.6.2.1.1. DICOM counts millimetres to the patient's Left, Posterior
and Superior, Semivox to Right, Anterior, Superior.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semivox.atomic import atomic_folder
from semivox.data import nifti
from semivox.data.case import DEFAULT, Case, Dataset
from semivox.data.dicom_values import Attributes, is_dicom_file, parsing, refusal
from semivox.data.fault import FaultError
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.volume import Grid, Volume
from semivox.errors import DataError
from semivox.parallel import Progress, run_all

TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "PatientID"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
    *("PixelRepresentation", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""All that is read of a header."""

ENDINGS = (".dcm", ".ima", ".dicom")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UNNAMED = LabelMap(("background", "class_1"), (0, 1))
"""The classes of scans that nobody has annotated yet; the layout asks for one."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

LARGEST_TILT = 0.002
"""Shift within the slice plane per mm along its normal that still counts as rounding (a tilt of 0.1 degrees)."""


@dataclass(frozen=True)
class Series:
    """The files of one SeriesInstanceUID, in no order. `patient` is for telling patients apart, never for output."""

    uid: str
    modality: str
    description: str
    patient: bytes
    files: tuple[Path, ...]
    is_scan: bool
    """False for localisers and secondary captures, which come with most studies and are no volumes."""

    def __str__(self) -> str:
        return f"{self.uid} ({self.modality}, {self.description or 'no description'}, {len(self.files)} files)"

    def refusal(self, what: str, mend: str) -> FaultError:
        """The error for a series whose slices make no volume."""
        return refusal(self.files[0].parent, f"DICOM series {self.uid}: {what}", mend)


@dataclass(frozen=True)
class Format:
    """What must be the same in all slices of a volume. `spacing_mm` is the distance of rows, then of columns."""

    rows: int
    columns: int
    spacing_mm: tuple[float, ...]
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    has_rescale: bool


@dataclass(frozen=True)
class Slice:
    """One frame of one file: where it lies (mm in LPS) and how its stored values become the modality's."""

    file: Path
    frame: int
    position_mm: np.ndarray
    orientation: np.ndarray
    """Direction in which columns count, then the one in which rows count, (2, 3)."""
    thickness_mm: float | None
    slope: float
    intercept: float
    format: Format


def is_dicom(path: Path) -> bool:
    """Whether `path` is a DICOM file, or a folder with at least one in it."""
    path = Path(path)
    return any(is_dicom_file(file) for file in _files(path)) if path.is_dir() else is_dicom_file(path)


def find_series(source: Path) -> list[Series]:
    """All image series in a folder and the folders below it, or in one file, ordered by path.

    Only the files that lie there are read: neither the references of a DICOMDIR nor links are followed out of `source`,
    and archives are not opened. Objects that hold no image (structure sets, segmentations, reports) are passed over.
    Raises FaultError for a file that claims to be DICOM and cannot be read.
    """
    source = Path(source)
    if not source.exists():
        raise refusal(source, "does not exist", "give a folder of DICOM files")
    if source.name == "DICOMDIR":
        raise refusal(source, "is an index without images", "give the folder that it lies in")
    if source.is_file() and zipfile.is_zipfile(source):
        raise refusal(source, "is an archive", "unpack it and give the folder")
    found: dict[str, list[tuple[Path, Attributes]]] = {}
    for file in _files(source) if source.is_dir() else [source]:
        if not is_dicom_file(file):
            if file.suffix.lower() in ENDINGS or file == source:
                raise refusal(file, "is no DICOM file (its mark is missing)", "export it anew or remove it")
            continue
        header = _read_header(file)
        if _holds_image(header):
            found.setdefault(header.identifier("SeriesInstanceUID"), []).append((file, header))
    return [_summarise(uid, members) for uid, members in found.items()]


def read_series(source: Path | Sequence[Path], uid: str | None = None) -> Volume:
    """One series as a volume (1, X, Y, Z): X counts columns, Y rows, Z slices along their normal.

    `source` is a folder (and those below it), one file, or several files. Where it holds several series, `uid` chooses.
    The array is int16 or int32 where rescaling keeps integers, else float32. Raises FaultError that names the series,
    the file and the mend.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    series = _merge([found for path in sources for found in find_series(Path(path))])
    where = Path(sources[0]) if len(sources) == 1 else Path(sources[0]).parent
    if not series:
        raise refusal(where, "holds no DICOM images", "give the folder of a series")
    listed = "; ".join(str(found) for found in series[:8]) + ("; ..." if len(series) > 8 else "")
    chosen = [found for found in series if uid in (None, found.uid)]
    if not chosen:
        raise refusal(where, f"holds no DICOM series {uid}", f"choose of {listed}")
    if len(chosen) > 1:
        raise refusal(where, f"holds {len(series)} DICOM series: {listed}", "give the folder or the files of one")
    return _read(chosen[0])


def convert(source: Path, out: Path, progress: Progress | None = None) -> Dataset:
    """Every scan below `source` → an unlabelled case of a new data set at `out`, and returns it.

    Cases are named `case_001`, ... and patients (told apart by PatientID) `patient_001`, ..., in the order of the
    paths; nothing else of the headers but the geometry and the modality is written. Modalities become domains where
    there are several. Localisers and secondary captures are passed over. Raises FaultError that names every series
    which cannot be converted; then nothing is written.

    dataset.json declares one class, `class_1`: name yours there before anything is annotated or joined.
    """
    series = [found for found in find_series(source) if found.is_scan]
    if not series:
        raise refusal(Path(source), "holds no DICOM scans", "give a folder of series")
    modalities = sorted({found.modality for found in series})
    known = dict.fromkeys(found.patient for found in series if found.patient)
    patients = {key: f"patient_{number:03d}" for number, key in enumerate(known, 1)}
    with atomic_folder(Path(out)) as root:

        def convert_one(numbered: tuple[int, Series]) -> Case | DataError:
            number, found = numbered
            path = root / "imagesTr" / f"case_{number:03d}_0000.nii.gz"
            domain = found.modality if len(modalities) > 1 else DEFAULT
            return _convert_series(found, path, domain, patients.get(found.patient, ""))

        results = run_all(convert_one, list(enumerate(series, 1)), progress=progress)
        cases = [result for result in results if isinstance(result, Case)]
        if len(cases) < len(series):
            faults = " | ".join(str(result) for result in results if isinstance(result, DataError))
            raise DataError(f"{len(series) - len(cases)} of {len(series)} series cannot be converted: {faults}")
        channel = modalities[0] if len(modalities) == 1 else "image"
        write_description(Dataset(Path(out).name, root, (channel,), UNNAMED, tuple(cases)))
    return read_dataset(Path(out))


def _convert_series(found: Series, path: Path, domain: str, group: str) -> Case | DataError:
    """Writes one series to `path`; gives its case, or what is wrong with it."""
    try:
        volume = _read(found)
    except DataError as error:
        return error
    nifti.write(path, volume.array[0], volume.grid)
    return Case(path.name.removesuffix("_0000.nii.gz"), (path,), domain=domain, group=group)


def _files(folder: Path) -> Iterator[Path]:
    """Files below `folder` in order of their paths; linked folders are not entered, links that lead out are refused."""
    for directory, subfolders, names in os.walk(folder, followlinks=False):
        subfolders.sort()
        for name in sorted(names):
            file = Path(directory, name)
            if name == "DICOMDIR" or not file.is_file():
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
                raise refusal(file, f"is a link that leads out of {folder}", "put the file itself there")
            yield file


def _read_header(file: Path) -> Attributes:
    import pydicom

    with parsing(file):
        return Attributes(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS)), file)


def _holds_image(header: Attributes) -> bool:
    """Whether a file is an image by its class, or has rows where its class is private.

    The class stands in the file twice. Where that is not so the file is damaged: passed over, a slice would be missing.
    """
    from pydicom.uid import UID

    kind = UID(header.identifier("SOPClassUID"))
    meta = Attributes(header.dataset.file_meta, header.file)
    is_confirmed = meta.has("MediaStorageSOPClassUID")
    if is_confirmed and meta.identifier("MediaStorageSOPClassUID") != kind:
        raise refusal(header.file, "gives two SOP classes and so is damaged", "export it anew")
    is_private = kind.name == kind
    if is_private and not is_confirmed and not header.has("Rows"):
        raise refusal(header.file, f"is of an unknown SOP class ({kind})", "export it anew or remove it")
    return header.has("Rows") if is_private else kind.name.endswith("Image Storage")


def _summarise(uid: str, members: list[tuple[Path, Attributes]]) -> Series:
    header = members[0][1]
    description = header.raw("SeriesDescription").decode("latin-1")
    secondary = header.has("SOPClassUID") and header.identifier("SOPClassUID").startswith(SECONDARY_CAPTURE)
    localiser = b"LOCALIZER" in header.raw("ImageType").split(b"\\")
    return Series(
        uid,
        header.code("Modality") if header.has("Modality") else "OT",
        "".join(letter if letter.isprintable() else "?" for letter in description),
        header.raw("PatientID"),
        tuple(file for file, _ in members),
        is_scan=not secondary and not localiser,
    )


def _merge(series: list[Series]) -> list[Series]:
    """Series found in several places → one each."""
    merged: dict[str, Series] = {}
    for found in series:
        before = merged[found.uid].files if found.uid in merged else ()
        merged[found.uid] = replace(found, files=before + found.files)
    return list(merged.values())


def _read(series: Series) -> Volume:
    slices = [piece for file in series.files for piece in _slices(file)]
    _check_alike(slices, series)
    slices, affine = _stack(slices, series)
    form = slices[0].format
    stored = {file: _pixels(file, form, frames) for file, frames in Counter(piece.file for piece in slices).items()}
    planes = [stored[piece.file][piece.frame].T for piece in slices]
    array = np.empty((form.columns, form.rows, len(slices)), _value_type(slices, planes))
    for index, (piece, plane) in enumerate(zip(slices, planes, strict=True)):
        if array.dtype.kind == "i":
            # Added as wide integers: a stored 16-bit value plus the intercept may leave 16 bits on its way.
            array[:, :, index] = plane.astype(np.int64) + int(piece.intercept)
        else:
            array[:, :, index] = plane * piece.slope + piece.intercept
    return Volume(array[None], Grid(array.shape, LPS_TO_RAS @ affine))


def _value_type(slices: list[Slice], planes: list[np.ndarray]) -> np.dtype:
    """int16 or int32 if rescaling only shifts whole numbers and they fit, else float32."""
    if all(piece.slope == 1 and piece.intercept == round(piece.intercept) for piece in slices):
        low = min(int(plane.min()) + piece.intercept for piece, plane in zip(slices, planes, strict=True))
        high = max(int(plane.max()) + piece.intercept for piece, plane in zip(slices, planes, strict=True))
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float32)


def _slices(file: Path) -> list[Slice]:
    """The frames of one file: one, or many where it is an enhanced multi-frame object."""
    header = _read_header(file)
    kind = header.code("PhotometricInterpretation")
    if header.unsigned("SamplesPerPixel") != 1 or kind != "MONOCHROME2":
        raise refusal(file, f"holds {kind} pixels", "give a scan of grey values (MONOCHROME2)")
    if header.has("ModalityLUTSequence"):
        raise refusal(file, "its values go through a look-up table (ModalityLUTSequence)", "export it rescaled")
    frames = header.items("PerFrameFunctionalGroupsSequence")
    count = header.integer("NumberOfFrames") if header.has("NumberOfFrames") else 1
    if not frames and count == 1:
        return [_slice(header, 0, header, header, header, header)]
    if len(frames) != count:
        what = f"has {count} frames but the positions of {len(frames)}"
        raise refusal(file, what, "export one file per slice, or an enhanced object")
    shared = [*header.items("SharedFunctionalGroupsSequence")[:1]]
    return [
        _slice(
            header,
            number,
            _macro("PlanePositionSequence", frame, shared),
            _macro("PlaneOrientationSequence", frame, shared),
            _macro("PixelMeasuresSequence", frame, shared),
            _macro("PixelValueTransformationSequence", frame, shared, default=header),
        )
        for number, frame in enumerate(frames)
    ]


def _macro(sequence: str, frame: Attributes, shared: list[Attributes], default: Attributes | None = None) -> Attributes:
    """The functional group of a frame, else the one all frames share."""
    for place in (frame, *shared):
        items = place.items(sequence)
        if items:
            return items[0]
    if default is None:
        raise refusal(frame.file, f"a frame has no {sequence}", "export the series anew")
    return default


def _slice(
    header: Attributes, frame: int, place: Attributes, direction: Attributes, measures: Attributes, values: Attributes
) -> Slice:
    orientation = np.array(direction.numbers("ImageOrientationPatient", 6)).reshape(2, 3)
    lengths = np.linalg.norm(orientation, axis=1)
    if (abs(lengths - 1) > 0.01).any() or abs(orientation[0] @ orientation[1]) > 0.01:
        what = f"ImageOrientationPatient {_shown(orientation)} is no pair of perpendicular unit vectors"
        raise refusal(header.file, what, "export the series anew")
    spacing_mm = measures.numbers("PixelSpacing", 2)
    if min(spacing_mm) <= 0:
        raise refusal(header.file, f"PixelSpacing {list(spacing_mm)} is not positive", "export the series anew")
    thicknesses = [k for k in ("SpacingBetweenSlices", "SliceThickness") if measures.has(k)]
    has_rescale = values.has("RescaleSlope") or values.has("RescaleIntercept")
    return Slice(
        header.file,
        frame,
        np.array(place.numbers("ImagePositionPatient", 3)),
        orientation / lengths[:, None],
        measures.numbers(thicknesses[0], 1)[0] if thicknesses else None,
        slope=values.numbers("RescaleSlope", 1)[0] if has_rescale else 1.0,
        intercept=values.numbers("RescaleIntercept", 1)[0] if has_rescale else 0.0,
        format=Format(
            header.unsigned("Rows"),
            header.unsigned("Columns"),
            spacing_mm,
            header.unsigned("BitsAllocated"),
            header.unsigned("BitsStored"),
            header.unsigned("PixelRepresentation"),
            has_rescale,
        ),
    )


def _check_alike(slices: list[Slice], series: Series) -> None:
    """Raises FaultError for the first slice that is not of the same format and orientation as most."""
    common = Counter(piece.format for piece in slices).most_common(1)[0][0]
    for piece in slices:
        for field, expected in vars(common).items():
            if vars(piece.format)[field] != expected:
                what = f"{piece.file.name} has {field} {vars(piece.format)[field]}, the others {expected}"
                raise series.refusal(what, "give only the files of one scan")
    directions = Counter(tuple(np.round(piece.orientation, 2).ravel() + 0.0) for piece in slices).most_common(1)[0][0]
    usual = next(p.orientation for p in slices if tuple(np.round(p.orientation, 2).ravel() + 0.0) == directions)
    for piece in slices:
        if abs(piece.orientation - usual).max() > 1e-3:
            lies = f"{piece.file.name} lies along {_shown(piece.orientation)}, the others along {_shown(usual)}"
            raise series.refusal(f"mixed orientations: {lies}", "give only parallel slices")


def _stack(slices: list[Slice], series: Series) -> tuple[list[Slice], np.ndarray]:
    """The slices in order along their normal, and the affine (4, 4) from (column, row, slice) to mm in LPS."""
    first = slices[0]
    along_columns, along_rows = first.orientation
    normal = np.cross(along_columns, along_rows)
    normal /= np.linalg.norm(normal)
    slices = sorted(slices, key=lambda piece: float(piece.position_mm @ normal))
    positions_mm = np.array([piece.position_mm for piece in slices])
    if len(slices) == 1:
        step_mm = _thickness(slices[0]) * normal
    else:
        _check_gaps(slices, np.diff(positions_mm @ normal), series)
        step_mm = (positions_mm[-1] - positions_mm[0]) / (len(slices) - 1)
        _check_straight(slices, positions_mm, step_mm, normal, series)
    row_mm, column_mm = first.format.spacing_mm
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_columns * column_mm, along_rows * row_mm, step_mm, positions_mm[0]])
    return slices, affine


def _thickness(piece: Slice) -> float:
    if piece.thickness_mm is None or piece.thickness_mm <= 0:
        raise refusal(piece.file, "is a single slice without SliceThickness", "give the whole series")
    return piece.thickness_mm


def _check_gaps(slices: list[Slice], gaps_mm: np.ndarray, series: Series) -> None:
    """Raises FaultError for slices that coincide, are missing, or lie at uneven distances."""
    usual_mm = float(np.median(gaps_mm))
    # Scanners round positions, often to 0.1 mm; a part of the distance bounds that for thin slices.
    tolerance_mm = min(max(0.105, 0.02 * usual_mm), 0.3 * usual_mm)
    for before, after, gap_mm in zip(slices, slices[1:], gaps_mm, strict=False):
        between = f"{before.file.name} and {after.file.name}"
        if gap_mm < max(1e-3, 0.01 * usual_mm):
            what = f"{between} lie at the same place: several time points, echoes or copies"
            raise series.refusal(what, "give the files of one")
        if abs(gap_mm - usual_mm) > tolerance_mm:
            gaps = f"{gap_mm:.3f} mm between {between}, elsewhere {usual_mm:.3f} mm"
            multiple = round(gap_mm / usual_mm)
            if multiple > 1 and abs(gap_mm - multiple * usual_mm) <= tolerance_mm:
                number = f"{multiple - 1} slice{'s are' if multiple > 2 else ' is'} missing"
                raise series.refusal(f"{number} ({gaps})", "export the series anew")
            raise series.refusal(f"uneven gaps ({gaps})", "give a series with equally spaced slices")


def _check_straight(
    slices: list[Slice], positions_mm: np.ndarray, step_mm: np.ndarray, normal: np.ndarray, series: Series
) -> None:
    """Raises FaultError for a stack that leans (gantry tilt), or a slice that lies off the line of the others."""
    length_mm = float(step_mm @ normal)
    lean = float(np.linalg.norm(step_mm - length_mm * normal)) / length_mm
    if lean > LARGEST_TILT:
        what = (
            f"gantry tilt of {np.degrees(np.arctan(lean)):.1f} degrees: the slices are not stacked along their normal"
        )
        raise series.refusal(what, "have the scanner's software reformat the series without tilt")
    regular_mm = positions_mm[0] + np.arange(len(slices))[:, None] * step_mm
    off_mm = np.linalg.norm(positions_mm - regular_mm, axis=1)
    worst = int(off_mm.argmax())
    if off_mm[worst] > 0.25 * length_mm:
        what = f"{slices[worst].file.name} lies {off_mm[worst]:.2f} mm off the regular stack"
        raise series.refusal(what, "give a series with straight, equally spaced slices")


def _pixels(file: Path, form: Format, frames: int) -> np.ndarray:
    """Stored values (frame, row, column) of one file."""
    import pydicom
    from pydicom.pixels import pixel_array

    with parsing(file):
        dataset = pydicom.dcmread(file)
        syntax = dataset.file_meta.TransferSyntaxUID
        _check_decoder(file, syntax)
        expected = form.rows * form.columns * form.bits_allocated // 8 * frames
        # A header of a few bytes may claim pictures of any size: let it not fill the memory.
        if expected > 2**28 and expected > 1000 * file.stat().st_size:
            raise refusal(file, f"claims {expected / 2**30:.1f} GiB of pixels, which it cannot hold", "export it anew")
        pixels: Any = pixel_array(dataset)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.shape != (frames, form.rows, form.columns) or pixels.dtype.kind not in "iu":
        raise refusal(file, f"its pixels {pixels.shape} do not agree with its header", "export it anew")
    return pixels


def _check_decoder(file: Path, syntax: str) -> None:
    """Raises FaultError where the pixels are compressed in a way for which no decoder is installed."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise refusal(
            file,
            f"no decoder is installed for its compression ({UID(syntax).name})",
            "install pylibjpeg with pylibjpeg-libjpeg and pylibjpeg-openjpeg, or export the series uncompressed",
        )


def _shown(orientation: np.ndarray) -> str:
    return "[" + ", ".join(f"{value + 0.0:g}" for value in np.round(orientation, 3).ravel()) + "]"
