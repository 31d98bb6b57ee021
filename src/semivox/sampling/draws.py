"""Random numbers that depend on what they are for, never on what was drawn before.

Every draw is named by a tuple such as (run seed, "labelled", step, place). The same tuple gives the same numbers in any
process, in any order, so nothing about randomness need be saved to resume a run.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Key = int | str


def _sequence(keys: tuple[Key, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([zlib.crc32(key.encode()) if isinstance(key, str) else int(key) for key in keys])


def seed_of(*keys: Key) -> int:
    """One seed of 63 bits for a tuple of names and numbers (0 or more)."""
    return int(_sequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*keys: Key) -> np.random.Generator:
    """A generator for a tuple of names and numbers (0 or more)."""
    return np.random.Generator(np.random.Philox(_sequence(keys)))


def normal(shape: tuple[int, ...], seeds: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal noise (B, *shape), float32, made on `device`; row b is a function of `seeds[b]` alone.

    A processor and a GPU have different generators, so the values differ between kinds of device.
    """
    return _rows(lambda row, source: row.normal_(generator=source), shape, seeds, device)


def gumbel(shape: tuple[int, ...], seeds: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard Gumbel noise, -ln E with E ~ Exp(1); else as `normal`."""
    return -_rows(lambda row, source: row.exponential_(generator=source), shape, seeds, device).log()


def _rows(
    draw: Callable[[Tensor, torch.Generator], Tensor],
    shape: tuple[int, ...],
    seeds: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """(B, *shape), each row filled by `draw` from a generator of its own seed."""
    noise = torch.empty((len(seeds), *shape), device=device)
    source = torch.Generator(device)
    for row, seed in zip(noise, seeds, strict=True):
        draw(row, source.manual_seed(seed))
    return noise
