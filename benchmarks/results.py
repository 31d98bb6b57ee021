"""docs/results.md: the tables of finished benchmarks, what they say of each method, and our remarks on them.

    semivox benchmark acdc_cpu --method ... --seeds 3 --data ../shared/data --out runs/acdc_cpu
    python -m benchmarks.results runs/acdc_cpu runs/hippocampus_cpu

Every number is read from the benchmarks' own results; remarks in words, without numbers of their own, lie in
benchmarks/remarks, named as the benchmark's folder.
"""

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from semivox.atomic import atomic_write_text
from semivox.experiments.benchmark import LABELLED_ONLY
from semivox.experiments.compare import compare
from semivox.experiments.results import differences
from semivox.methods import METHODS, find_method

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
REMARKS = ROOT / "benchmarks" / "remarks"


def section(out: Path) -> list[str]:
    """One benchmark's part of the page."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    # Headings go one level down: the page has a title of its own.
    tables = re.sub(r"^#", "##", (out / "results.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    remarks = REMARKS / f"{out.name}.md"
    lines = [tables.rstrip(), "", verdict(results), "", *additions(results)]
    if remarks.exists():
        lines += [remarks.read_text(encoding="utf-8").rstrip(), ""]
    return lines


def additions(results: dict[str, Any]) -> list[str]:
    """What is put on a method, against the method alone with the same labels."""
    names = {find_method(name): name for name in METHODS}
    runs = {(group["method"], str(group["labelled"])): list(map(Path, group["runs"])) for group in results["groups"]}
    lines = []
    for Base, name in names.items():
        for base, labelled in [found for found in runs if found[0] == name]:
            on_top = [
                folders
                for (method, count), folders in runs.items()
                if count == labelled and getattr(find_method(method), "Base", None) is Base
            ]
            if on_top:
                table = differences(compare([*runs[base, labelled], *itertools.chain(*on_top)]))
                assert table is not None
                lines += [table.markdown(), ""]
    return lines


def verdict(results: dict[str, Any]) -> str:
    """Which methods beat labelled-only with the same labels in Dice, and which its interval over cases tells from it.

    Groups that see every label are a bound, not methods.
    """
    few = {group["name"] for group in results["groups"] if group["labelled"] is not None}
    methods = {pair["second"]: pair["scores"]["mean"]["dice"] for pair in results["pairs"] if pair["second"] in few}
    if not methods or results["groups"][0]["method"] != LABELLED_ONLY or results["groups"][0]["name"] not in few:
        return "**No method is compared with labelled-only with few labels yet.**"
    above = [name for name, dice in methods.items() if dice["difference"] > 0]
    clearly = [name for name, dice in methods.items() if dice["low"] > 0]
    below = [name for name, dice in methods.items() if dice["high"] < 0]
    return (
        f"**{len(above)} of {len(methods)} methods have a higher mean Dice than labelled-only with the same labels;"
        f" for {len(clearly)} the 95 % interval over cases excludes zero ({', '.join(clearly) or 'none'}), and"
        f" {len(below)} {'is' if len(below) == 1 else 'are'} clearly worse ({', '.join(below) or 'none'}).**"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="+", type=Path, help="folders of finished benchmarks")
    chosen = parser.parse_args()
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [
        "# Results",
        "",
        f"Written by `python -m benchmarks.results` at commit {commit.stdout.strip()}; not typed. Real scans, a CPU's"
        " budget: figures of minutes, not of days. The model is the last one, a moving average of the weights for"
        " every method; no test case had a part in choosing it, nor in any setting but where a section says so. Budgets"
        " and settings were chosen on development cases ([where labels matter](label-study.md)).",
        "",
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, two runs at once, a thread each.",
        "",
    ]
    for out in chosen.benchmarks:
        lines += section(out)
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
