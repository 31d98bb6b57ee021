"""Make a data set in the nnU-Net v2 raw layout of loose files.

A label belongs to the image of the same name, words such as seg, label, mask or gt aside. Images without a label are
unlabelled. The values in the labels become the classes.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLE = """
  semivox init scans labels --out data/liver --names liver tumour
  semivox init scans --out data/liver --link
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of scans, and folders below it")
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS",
        help="folder of labels (default: sought among the images)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="new folder for the data set")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="one per label value above 0, in their order (default: class_1 ...)"
    )
    parser.add_argument("--link", action="store_true", help="link to the files instead of copying them")


def run(arguments: Namespace) -> None:
    """Collects the files and says what there is now."""
    from semivox.data.collecting import init
    from semivox.progress import progress

    with progress("reading labels") as report:
        dataset = init(
            arguments.images,
            arguments.labels,
            out=arguments.out,
            names=arguments.names,
            link=arguments.link,
            progress=report,
        )
    with_label = sum(case.label is not None for case in dataset)
    print(f"{arguments.out}: {len(dataset.cases)} cases, {with_label} of them with a label")
    print(f"classes: {', '.join(dataset.labels.foreground)} (to rename them, edit labels in dataset.json)")
