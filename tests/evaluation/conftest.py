"""Masks that look like anatomy and like predictions of it."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def blobs() -> Callable[..., Pair]:
    """`blobs(shape, seed)`: (prediction, reference), two smooth boolean masks that mostly agree."""

    def make(shape: tuple[int, ...], seed: int, disagreement: float = 0.5) -> Pair:
        rng = np.random.default_rng(seed)
        form, change = (gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(2))
        return form + disagreement * change > 0.05, form > 0.05

    return make
