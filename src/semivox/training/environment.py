"""Versions and hardware, for environment.json."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("semivox", "torch", "lightning", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom")


def environment() -> dict[str, object]:
    """What the run ran on. No host name, user name or path."""
    revision = commit()
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES}
        | ({"commit": revision} if revision else {}),
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """The commit of the checkout that holds `package` as src/semivox, marked `-dirty` where files of it were changed.

    None for an installed package, whose version says what it is, and where there is no git.
    """
    checkout = package.parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--exclude=*", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
