"""BTCV, "Multi-Atlas Labeling Beyond the Cranial Vault": abdominal CT of 13 organs, known as Synapse.

RawData/Training/img/img0001.nii.gz    RawData/Training/label/label0001.nii.gz    30 scans: 1 to 10, 21 to 40
RawData/Testing/img/img0061.nii.gz                                                20 scans without labels
"""

import re
from pathlib import Path

from semivox.data.case import Dataset
from semivox.data.download import Found, files_below, refuse_doubles, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.parallel import Progress

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_veins",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)
LABELS = LabelMap(("background", *ORGANS), tuple(range(len(ORGANS) + 1)))

IMAGE = re.compile(r"img(\d+)\.nii(\.gz)?")


def convert(source: Path, out: Path, progress: Progress | None = None) -> Dataset:
    """The download below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Cases are called img0001, ...; those without a label are test cases. Raises FaultError that names the file and the
    mend; then nothing is written.
    """
    images = files_below(Path(source), "img[0-9]*.nii*", "Training/img/img0001.nii.gz")
    found = [_case(file, match[1]) for file in images if (match := IMAGE.fullmatch(file.name))]
    refuse_doubles(found)
    if not any(case.label for case in found):
        mend = "put them into `label` beside `img`, as label0001.nii.gz"
        raise FaultError(Fault("", Path(source), "holds images and none of their labels", mend))
    return write_dataset(out, "synapse", "CT", LABELS, found, progress=progress)


def _case(image: Path, number: str) -> Found:
    """The label lies in `label` beside `img`, or in labelsTr beside imagesTr."""
    folders = (image.parent, image.parent.parent / "label", image.parent.parent / "labelsTr")
    files = [folder / f"label{number}{ending}" for folder in folders for ending in (".nii.gz", ".nii")]
    label = next((file for file in files if file.is_file()), None)
    is_training = label is not None or image.parent.parent.name == "Training" or image.parent.name == "imagesTr"
    if is_training and label is None:
        what = f"has no label{number}.nii.gz beside it in `label`"
        raise FaultError(Fault(f"img{number}", image, what, "copy the label too, or remove the image"))
    return Found(f"img{number}", image, label, "train" if is_training else "test")
