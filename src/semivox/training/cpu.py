"""What makes training and inference on a CPU faster at the same values; chosen by `benchmarks/training_step.py`."""

import ctypes
import platform

import torch
from torch import nn

from semivox.networks.layers import GroupNorm
from semivox.networks.network import Network

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt, as malloc.h numbers them."""

PAD_BYTES = 512 * 1024**2

GROUPWISE = (GroupNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm)
"""Normalisations over single samples' channels."""


def keep_heap() -> None:
    """Lets glibc keep freed memory for the next tensor instead of giving it back to the system; nothing elsewhere.

    Large tensors are otherwise mapped afresh for every operation: the kernel must find and zero each page again, which
    takes a tenth to a quarter of a training step. With MMAP_MAX 0 they come from the heap, which is never trimmed and
    grows by 512 MiB at a time. The price is about that much memory; values do not change. Call it before any work.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, PAD_BYTES)


def memory_format(network: Network) -> torch.memory_format:
    """The faster layout of a network's weights on a CPU, which the images then follow by themselves.

    Channels-last, which takes a fifth to a third off a bfloat16 step, unless the network normalises group by group:
    that gathers what channels-last scatters, and costs as much as is won.
    """
    if any(isinstance(layer, GROUPWISE) for layer in network.modules()):
        return torch.contiguous_format
    return torch.channels_last if network.dimensions == 2 else torch.channels_last_3d


def lay_out(module: nn.Module) -> None:
    """Puts every network inside `module` into its faster layout, in place. Values are those before.

    Weights then are not contiguous; what writes them to safetensors makes them so.
    """
    for network in module.modules():
        if isinstance(network, Network):
            network.to(memory_format=memory_format(network))  # type: ignore[call-overload]
