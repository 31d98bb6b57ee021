"""Trains a model from labelled and unlabelled scans; then predicts, scores and reports the test cases."""

import argparse
import sys
from pathlib import Path

from semivox.cli import add_settings
from semivox.errors import SettingError

EXAMPLE = """
  semivox train data/la --method mean_teacher --labelled 8 --seed 0 --max-minutes 15 --out runs/mt8
  semivox train data/la --method mean_teacher --labelled 8 --iterations 2000 --baseline -s consistency_weight=1
  semivox train --resume runs/mt8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("datasets", nargs="*", type=Path, metavar="DATASET", help="folder in the nnU-Net v2 raw layout; several join")
    add("--method", help="see `semivox methods`, or path/to/file.py:Class (default: mean_teacher)")
    add(
        "--labelled",
        action="append",
        metavar="N | DOMAIN=N",
        help="how many groups (patients, else cases) keep their label, per domain and task; others are never opened",
    )
    add("--unlabelled", type=Path, metavar="DIR", help="a folder of further scans without labels")
    add("--labels", nargs="+", metavar="NAME", help="only these label names")
    add("--network", metavar="NAME", help="see `semivox networks` (default: chosen by the plan)")
    add("--plan", type=Path, metavar="FILE", help="a plan in YAML instead of one made from the data")
    add("--seed", type=int, metavar="S", default=0, help="seed of all random numbers (default: 0)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--iterations", type=int, metavar="N", help="optimiser steps; with --resume, extends the run")
    budget.add_argument("--max-minutes", type=float, metavar="M", help="turned into steps once, after some timed ones")
    add("--baseline", action="store_true", help="train labelled-only too, with the same steps, seed, plan and views")
    add("--init-from", type=Path, metavar="RUN", help="start from the network of another run")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--devices", type=int, default=1, metavar="N", help="processes that share each batch (default: 1)")
    add("--precision", default="auto", help="auto, 32, bf16 or fp16 (default: auto)")
    add_settings(parser, "any field of config.yaml by its dotted name; a method's settings need no prefix")
    add("--out", type=Path, metavar="RUN", help="run folder (default: runs/DATASET-METHOD-LABELLED-SEED)")
    add("--resume", type=Path, metavar="RUN", help="continue a run where its last checkpoint stands")
    add("--no-test", dest="test", action="store_false", help="do not predict and score the test cases at the end")


def run(arguments: argparse.Namespace) -> int:
    from semivox.experiments.train import resume, train
    from semivox.training.interruption import Interrupted

    given = vars(arguments)
    again, datasets, iterations, method = (given.pop(key) for key in ("resume", "datasets", "iterations", "method"))
    try:
        if again is not None:
            if datasets:
                raise SettingError(f"--resume {again}: the run knows its data; leave {datasets[0]} out")
            resume(again, iterations=iterations, method=method, baseline=arguments.baseline, test=arguments.test)
        elif not datasets:
            raise SettingError("which data set? give its folder, e.g. `semivox train data/la --max-minutes 15`")
        else:
            given["labelled"] = parse_labelled(arguments.labelled)
            train(datasets, method or "mean_teacher", iterations=iterations, **given)
    except Interrupted as stop:
        print(f"semivox: {stop}", file=sys.stderr)
        return 130
    return 0


def parse_labelled(texts: list[str] | None) -> int | dict[str, int] | None:
    """`["8"]` → 8; `["A=3", "B=0"]` → {"A": 3, "B": 0}."""
    if not texts:
        return None
    numbers: dict[str, int] = {}
    for text in texts:
        domain, _, number = text.rpartition("=")
        if not number.isdigit():
            raise SettingError(f"--labelled {text}: give a number, or DOMAIN=NUMBER")
        numbers[domain] = int(number)
    if "" in numbers:
        if len(texts) > 1:
            raise SettingError(f"--labelled {' '.join(texts)}: give one number for all, or DOMAIN=NUMBER for each")
        return numbers[""]
    return numbers
