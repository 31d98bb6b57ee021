"""Runs every benchmark, each in a process of its own, and writes docs/benchmarks.md.

    make bench            all of them
    python -m benchmarks metrics inference
    make peers                              before, for the rows of nnU-Net, MONAI and TorchIO
    python -m benchmarks page               the page alone, anew
    python -m benchmarks methods=fixmatch,unimatch    these rows alone, beside those of before

Leave the machine alone meanwhile: times are of this run, ratios are between ways that took turns in it.
"""

import importlib
import inspect
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semivox.atomic import atomic_write_text
from semivox.training.environment import environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RECORD = ROOT / "benchmarks" / "measured.json"
"""What was measured last, per benchmark, so that one can be measured anew without the others."""
GPU = ROOT / "benchmarks" / "gpu.json"
"""What `benchmarks/gpu.sh` measured on a machine with a GPU, copied from its results."""
NAMES = (
    "metrics",
    "batches",
    "preparation",
    "training_step",
    "inference",
    "startup",
    "methods",
    "transferable",
    "diffusion",
    "prompts",
    "prompted",
    "sam2",
)


def measure(name: str, rows: Sequence[str] = ()) -> dict[str, Any]:
    """One benchmark's figures, or those of some of its rows, from a fresh process on one thread."""
    call = f"measure({list(rows)!r})" if rows else "measure()"
    code = f"import json\nfrom benchmarks.{name} import measure\nif __name__ == '__main__': print(json.dumps({call}))"
    # A file, not -c: benchmarks that start processes need a main module that can be imported.
    script = ROOT / "benchmarks" / f".run_{name}.py"
    script.write_text(code, encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        script.unlink()
    return json.loads(done.stdout.strip().splitlines()[-1])


def section(name: str, measured: dict[str, Any], on_gpu: dict[str, Any]) -> list[str]:
    """A benchmark's part of the page: what it does, in its own words, and its figures; those of `benchmarks/gpu.sh`
    beside them."""
    module = importlib.import_module(f"benchmarks.{name}")
    document = inspect.cleandoc(module.__doc__ or "").split("\n\n    ")[0]
    table = getattr(module, "table", listing)(measured["figures"], on_gpu)
    heading = name.replace("_", " ").capitalize()
    stamp = f"`python -m benchmarks {name}` at commit {measured['commit']}, torch {measured['torch']}"
    stamp += f", {measured['machine']}" if "machine" in measured else ""
    later = [f"{', '.join(rows)} at {commit}" for commit, rows in measured.get("later", {}).items()]
    stamp += "".join(f"; {rows}" for rows in later)
    return [f"## {heading}", "", document, "", *table, "", stamp, ""]


def listing(figures: dict[str, Any], on_gpu: dict[str, Any]) -> list[str]:
    """The figures as Markdown, a row each, for benchmarks that have no `table` of their own."""
    gpu = dict(flattened(on_gpu))
    rows = [f"| {key} | {text(value)} | {text(gpu.get(key, 'not run'))} |" for key, value in flattened(figures)]
    return ["| figure | CPU | GPU |", "|---|---|---|", *rows]


def gpu_machine(gpu: dict[str, Any]) -> str:
    """On what the GPU column was measured."""
    return f"{gpu['machine']}, at commit {gpu['commit']}" if gpu else "not run; `benchmarks/gpu.sh` fills the column"


def flattened(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every number with its names, outermost first."""
    rows: list[tuple[str, Any]] = []
    for key, value in figures.items():
        rows += flattened(value, f"{prefix}{key}: ") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


def text(value: Any) -> str:
    """A figure to four digits."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> str:
    """The processor's name, where the system tells it, and how many cores there are. No host name."""
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(encoding="utf-8"), re.M) if cpus.exists() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    names = [] if sys.argv[1:] == ["page"] else sys.argv[1:] or NAMES
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    versions = environment()["versions"]
    for word in names:
        print(f"measuring {word}", file=sys.stderr, flush=True)
        name, _, rows = word.partition("=")
        if rows:
            found = measure(name, rows.split(","))
            record[name]["figures"] |= found
            record[name].setdefault("later", {}).setdefault(commit, []).extend(found)
        else:
            stamp = {"commit": commit, "torch": versions["torch"], "machine": machine()}  # type: ignore[index]
            record[name] = {"figures": measure(name), **stamp}
        atomic_write_text(RECORD, json.dumps(record, indent=1) + "\n")
    write_page(record)


def write_page(record: dict[str, Any]) -> None:
    """docs/benchmarks.md, of what was measured here and on a GPU."""
    gpu = json.loads(GPU.read_text(encoding="utf-8")) if GPU.exists() else {}
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks` (`make bench`); not typed. CPU: one thread of a shared two-core machine;",
        f"read the ratios, not the seconds. GPU: {gpu_machine(gpu)}.",
        "",
    ]
    for name in NAMES:
        if name in record:
            lines += section(name, record[name], gpu.get("figures", {}).get(name, {}))
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
