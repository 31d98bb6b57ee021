"""Convert DICOM series, a Decathlon task or a public download to a data set in the nnU-Net v2 raw layout.

DICOM scans get new names (case_001, ...), and no header text is carried over. A conversion that fails leaves nothing.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLE = """
  semivox convert /scans/study --from dicom --out data/study
  semivox convert Task05_Prostate --from msd --out data/prostate
  semivox convert UA-MT/data --from h5 --out data/la
  semivox convert ACDC/database --from acdc --out data/acdc
  semivox convert BHSD --from bhsd --out data/bhsd
  semivox convert RawData --from btcv --out data/synapse
  semivox convert MM-WHS --from mmwhs --crop published --out data/mmwhs
  semivox convert OpenDataset --from mnms --crop published --out data/mnms
  semivox convert downloads --from pancreas_ct --crop published --out data/pancreas_ct
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder to convert; it is only read")
    parser.add_argument(
        "--from",
        dest="format",
        required=True,
        metavar="FORMAT",
        help="dicom, msd, h5, acdc, bhsd, btcv, mmwhs, mnms or pancreas_ct",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="new folder for the data set")
    parser.add_argument(
        "--crop",
        choices=("none", "published"),
        default="none",
        help="published: cut every scan around its reference, test scans too, as published protocols do (mmwhs, mnms,"
        " pancreas_ct, and of msd lung and spleen)",
    )


def run(arguments: Namespace) -> None:
    """Converts and says what there is now."""
    from semivox.data.conversion import convert
    from semivox.progress import progress

    with progress("converting") as report:
        dataset = convert(
            arguments.source,
            arguments.format,
            arguments.out,
            report,
            arguments.crop,
        )
    with_label = sum(case.label is not None for case in dataset)
    print(f"{arguments.out}: {len(dataset.cases)} cases, {with_label} of them with a label")
    print(f"classes: {', '.join(dataset.labels.foreground)} (to rename them, edit labels in dataset.json)")
