"""Ramps and rates as functions of progress, so that a run of any length keeps their shape."""

import math


def sigmoid_ramp(progress: float, share: float = 1.0) -> float:
    """exp(-5 (1 - min(r, 1))²) with r = progress / share; 0.0067 at the start, 1 from r = 1 on.

    Laine & Aila, Temporal ensembling, ICLR 2017. The field writes it as λ(t)/λ_max with r = floor(t/150)/R.
    """
    r = 1.0 if share <= 0 else min(progress / share, 1.0)
    return math.exp(-5.0 * (1.0 - r) ** 2)


def poly(progress: float, power: float = 0.9) -> float:
    """(1 - progress)^power: the learning rate's factor in most of the field."""
    return (1.0 - min(progress, 1.0)) ** power


def average_decay(step: float, limit: float) -> float:
    """α = min(1 - 1/(step + 1), limit): the average is a copy at step 0 and warms up to `limit`.

    Tarvainen & Valpola, NeurIPS 2017.
    """
    return min(1.0 - 1.0 / (step + 1), limit)
