"""Which device and precision a run uses."""

import torch

from semivox.errors import SettingError

DEVICES = ("auto", "cpu", "cuda", "mps")
AUTOCAST: dict[str, torch.dtype | None] = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision → the type that networks compute in; None is float32 throughout."""
PRECISIONS = ("auto", *AUTOCAST)


def choose_device(name: str) -> str:
    """Resolves `auto`; raises where the device is not there."""
    if name not in DEVICES:
        raise SettingError(f"--device {name}: there are {', '.join(DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[name]:
        raise SettingError(f"--device {name}: torch finds none here; use --device cpu or install a torch built for it")
    return name


def choose_precision(name: str, device: str) -> str:
    """Resolves `auto`: bf16 where the hardware multiplies it faster than float32, else 32."""
    if name not in PRECISIONS:
        raise SettingError(f"--precision {name}: there are {', '.join(PRECISIONS)}")
    if name == "fp16" and device == "cpu":
        raise SettingError("--precision fp16: a CPU has no fp16 training; use bf16 or 32")
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if device == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "32"
    return "32"
