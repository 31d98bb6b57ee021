"""Trains a model from labelled and unlabelled scans; then predicts, scores and reports the test cases."""

import argparse
import sys
from pathlib import Path
from typing import Literal

from semivox.cli import add_settings
from semivox.errors import SettingError

EXAMPLE = """
  semivox train data/la --method mean_teacher --labelled 8 --seed 0 --max-minutes 15 --out runs/mt8
  semivox train data/la --method mean_teacher --labelled 8 --iterations 2000 --baseline -s consistency_weight=1
  semivox train data/acdc --protocol acdc --method mean_teacher --labelled 7
  semivox train --resume runs/mt8
"""


RESUMABLE = ("iterations", "method", "baseline", "test")
"""What may be given with --resume."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS  # only what is given reaches `train`, whose own defaults hold otherwise
    add = parser.add_argument
    add("datasets", nargs="*", type=Path, metavar="DATASET", help="folder in the nnU-Net v2 raw layout; several join")
    add("--method", help="see `semivox methods`, or path/to/file.py:Class (default: mean_teacher)")
    add(
        "--labelled",
        action="append",
        metavar="N | DOMAIN=N | all",
        help="how many groups (patients, else cases) keep their label, per domain and task; others are never opened",
    )
    add("--unseen", nargs="+", metavar="DOMAIN", help="leave the training cases of these domains out, to test there")
    add("--unlabelled", type=Path, metavar="DIR", help="a folder of further scans without labels")
    add("--labels", nargs="+", metavar="NAME", help="only these label names")
    add("--network", metavar="NAME", help="see `semivox networks` (default: chosen by the plan)")
    planned = parser.add_mutually_exclusive_group()
    planned.add_argument("--plan", type=Path, metavar="FILE", help="a plan in YAML instead of one made from the data")
    planned.add_argument(
        "--protocol",
        metavar="NAME | FILE",
        help="a benchmark that says plan, labels, steps and settings; what is given here wins over it",
    )
    add("--development", action="store_true", help="leave the test cases alone: score validation cases at the end")
    add("--seed", type=int, metavar="S", help="seed of all random numbers (default: 0)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--iterations", type=int, metavar="N", help="optimiser steps; with --resume, extends the run")
    budget.add_argument("--max-minutes", type=float, metavar="M", help="turned into steps once, after some timed ones")
    add("--baseline", action="store_true", help="train labelled-only too, with the same steps, seed, plan and views")
    add("--init-from", type=Path, metavar="RUN", help="start from the network of another run")
    add("--device", help="auto, cpu, cuda or mps (default: auto)")
    add(
        "--devices",
        type=int,
        metavar="N",
        help="processes that share each batch (default: 1, or those that torchrun started)",
    )
    add("--precision", help="auto, 32, bf16 or fp16 (default: auto)")
    add_settings(parser, "any field of config.yaml by its dotted name; a method's settings need no prefix")
    add("--out", type=Path, metavar="RUN", help="run folder (default: runs/DATASET-METHOD-LABELLED-SEED)")
    add("--resume", type=Path, metavar="RUN", help="continue a run where its last checkpoint stands")
    add(
        "--test",
        action=argparse.BooleanOptionalAction,
        help="predict and score the test cases at the end (default: yes; with --resume, as the run began)",
    )


def run(arguments: argparse.Namespace) -> int:
    from semivox.experiments.train import resume, train
    from semivox.training.stopping import Interrupted

    given = vars(arguments)
    datasets = given.pop("datasets", [])
    try:
        if "resume" in given:
            again = given.pop("resume")
            refused = [*map(str, datasets), *(f"--{name}" for name in given if name not in RESUMABLE)]
            if refused:
                raise SettingError(f"--resume {again}: the run's config.yaml says the rest; leave {refused[0]} out")
            resume(again, **given)
        elif not datasets:
            raise SettingError("which data set? give its folder, e.g. `semivox train data/la --max-minutes 15`")
        else:
            train(datasets, **given | {"labelled": parse_labelled(given.get("labelled"))})
    except Interrupted as stop:
        print(f"semivox: {stop}", file=sys.stderr)
        return 130
    return 0


def parse_labelled(texts: list[str] | None) -> int | dict[str, int] | Literal["all"] | None:
    """`["8"]` → 8; `["A=3", "B=0"]` → {"A": 3, "B": 0}; `["all"]` → "all", which a protocol's number gives way to."""
    if not texts:
        return None
    if texts == ["all"]:
        return "all"
    numbers: dict[str, int] = {}
    for text in texts:
        domain, _, number = text.rpartition("=")
        if not number.isdigit():
            raise SettingError(f"--labelled {text}: give a number, or DOMAIN=NUMBER, or all")
        if domain in numbers:
            raise SettingError(f"--labelled {' '.join(texts)}: gives a number twice; give one for all, or per domain")
        numbers[domain] = int(number)
    if "" in numbers:
        if len(texts) > 1:
            raise SettingError(f"--labelled {' '.join(texts)}: give one number for all, or DOMAIN=NUMBER for each")
        return numbers[""]
    return numbers
