"""Segments scans with a trained model. Needs the run's model folder only, never the training data."""

import argparse
from pathlib import Path

from semivox.cli import add_settings

EXAMPLE = """
  semivox predict runs/mt8 data/la/imagesTs --out predictions
  semivox predict runs/mt8 scan.nii.gz dicom_series/ --out predictions -s uncertainty=true
  semivox predict runs/joint new_scans --task LA2018 --each-class --out predictions
  semivox predict runs/seed0 data/la/imagesTs --ensemble runs/seed1 --ensemble runs/seed2 --out predictions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, or its model folder")
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="image files, folders of them, DICOM series")
    add("--out", type=Path, required=True, metavar="DIR", help="where label files go; complete ones are skipped")
    add("--ensemble", action="append", default=[], type=Path, metavar="RUN", help="average this run in too")
    add("--task", metavar="NAME", help="which label set, for a model of several (default: the classes of all)")
    add("--modality", metavar="NAME", help="what the scans are, where the model prepares several differently")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--method", metavar="FILE:CLASS", help="where the method lies, for a model of your own method")
    add("--each-class", action="store_true", help="also write every class alone, as DIR/CLASS/CASE")
    add("--probabilities", action="store_true", help="also save class probabilities (.npz, float16)")
    add(
        "--oracle-prompts",
        type=Path,
        metavar="LABELS",
        help="draw the prompts from labels: an upper bound, to evaluate",
    )
    add_settings(parser, "overlap, stride, flips, keep_continuous, largest_component, uncertainty, batch")


def run(arguments: argparse.Namespace) -> None:
    from semivox.experiments.predict import predict
    from semivox.training.config import parse_assignments

    settings, others = parse_assignments([text.removeprefix("inference.") for text in arguments.settings or []])
    written = predict(
        arguments.run,
        arguments.inputs,
        arguments.out,
        ensemble=arguments.ensemble,
        task=arguments.task,
        modality=arguments.modality,
        device=arguments.device,
        method=arguments.method,
        settings=settings | others,
        probabilities=arguments.probabilities,
        each_class=arguments.each_class,
        oracle_prompts=arguments.oracle_prompts,
    )
    print(f"{len(written)} cases in {arguments.out}")
