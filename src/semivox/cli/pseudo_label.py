"""Writes a training set for nnU-Net v2: true labels where the run had them, the model's predictions for all others."""

import argparse
from pathlib import Path

from semivox.cli import add_settings

EXAMPLE = """
  semivox pseudo-label runs/mt8 data/la --out nnUNet_raw/Dataset501_LA
  semivox pseudo-label runs/mt8 data/la --min-confidence 0.8 --link --out nnUNet_raw/Dataset502_LA
  semivox pseudo-label runs/mt8 data/other_site --out nnUNet_raw/Dataset503_OtherSite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder; its config.yaml says which labels were hidden")
    add("datasets", nargs="+", type=Path, metavar="DATASET", help="those the run was trained on, or other scans alike")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder; one that was begun is continued")
    add("--min-confidence", type=float, metavar="P", help="less probable voxels get nnU-Net's `ignore` label")
    add("--link", action="store_true", help="link to images instead of copying them")
    add("--ensemble", action="append", default=[], type=Path, metavar="RUN", help="average this run in too")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--method", metavar="FILE:CLASS", help="where the method lies, for a model of your own method")
    add_settings(parser, "overlap, stride, flips, keep_continuous, largest_component, batch")


def run(arguments: argparse.Namespace) -> None:
    from semivox.experiments.pseudo_label import pseudo_label
    from semivox.training.config import parse_assignments

    settings, others = parse_assignments([text.removeprefix("inference.") for text in arguments.settings or []])
    made = pseudo_label(
        arguments.run,
        arguments.datasets,
        arguments.out,
        min_confidence=arguments.min_confidence,
        ensemble=arguments.ensemble,
        device=arguments.device,
        method=arguments.method,
        settings=settings | others,
        link=arguments.link,
    )
    print(f"{len(made.cases)} cases in {arguments.out}")
