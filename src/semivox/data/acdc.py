"""ACDC 2017, "Automated Cardiac Diagnosis Challenge": short-axis cine MRI of 150 patients, as the challenge gives it.

    training/patient001/Info.cfg                                              ED: 1, ES: 12, ... (frames from 1)
    training/patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz      (x, y, slice), end-diastole
    training/patient001/patient001_frame12.nii.gz, patient001_frame12_gt.nii.gz      end-systole
    training/patient001/patient001_4d.nii.gz                                  the whole cycle without labels, not used
    testing/patient101/...                                                    50 further patients

Each of a patient's two annotated frames is a case. The papers' splits are of the 100 training patients alone: protocols
bring them along.
"""

from functools import partial
from pathlib import Path

from semivox.data.case import Dataset, Split
from semivox.data.download import Found, files_below, refuse_doubles, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.data.short_axis import NOTE, read_short_axis
from semivox.parallel import Progress

LABELS = LabelMap(("background", "RV", "MYO", "LV"), (0, 1, 2, 3))

PARTS: dict[str, Split] = {"training": "train", "testing": "test"}

AGAIN = "copy it again from its source"


def convert(source: Path, out: Path, progress: Progress | None = None) -> Dataset:
    """The download below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Cases are called patient001_frame01, groups are the patients, splits those of the challenge; testing patients may
    come without labels. Raises FaultError that names the file and the mend; then nothing is written.
    """
    source = Path(source)
    files = files_below(source, "patient[0-9]*/*", "training/patient001/Info.cfg, ...")
    found = [case for folder in dict.fromkeys(file.parent for file in files) for case in _cases(source, folder)]
    refuse_doubles(found)
    read = partial(read_short_axis, labels=LABELS)
    return write_dataset(out, "ACDC", "cine-MRI", LABELS, found, read, note=NOTE, progress=progress)


def _cases(source: Path, folder: Path) -> list[Found]:
    """End-diastole and end-systole of one patient."""
    patient = folder.name
    places = [place.lower() for place in folder.relative_to(source).parts[:-1]]
    part = next((part for part in PARTS if part in places), None)
    if part is None:
        mend = "name the folder that holds training and testing"
        raise FaultError(Fault(patient, folder, f"lies in neither of them below {source}", mend))
    cases = []
    for frame in dict.fromkeys(_frames(folder / "Info.cfg", patient)):
        name = f"{patient}_frame{frame:02d}"
        image, label = folder / f"{name}.nii.gz", folder / f"{name}_gt.nii.gz"
        needed = [image] if part == "testing" else [image, label]
        for file in needed:
            if not file.is_file():
                raise FaultError(Fault(name, file, "there is no such file, but Info.cfg names its frame", AGAIN))
        cases.append(Found(name, image, label if label.is_file() else None, PARTS[part], group=patient))
    return cases


def _frames(file: Path, patient: str) -> tuple[int, int]:
    """Frames of end-diastole and end-systole."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FaultError(Fault(patient, file, f"cannot be read ({' '.join(str(error).split())})", AGAIN)) from None
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    for name in ("ED", "ES"):
        if not told.get(name, "").isdecimal():
            what = f"has '{told[name][:40]}' for {name}, which is no frame" if name in told else f"does not say {name}"
            raise FaultError(Fault(patient, file, what, AGAIN))
    return int(told["ED"]), int(told["ES"])
