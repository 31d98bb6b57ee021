"""Versions and hardware, for environment.json."""

import importlib.metadata
import os
import platform

import torch

PACKAGES = ("semivox", "torch", "lightning", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom")


def environment() -> dict[str, object]:
    """What the run ran on. No host name, user name or path."""
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
