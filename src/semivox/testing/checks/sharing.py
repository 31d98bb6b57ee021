"""What holds where a batch is shared between processes."""

from contextlib import nullcontext
from typing import Any

import torch

from semivox.testing.candidate import Candidate
from semivox.testing.processes import TwoProcesses, shared_step

CLOSE = 1e-3
"""Largest difference of gradients, as a share of the largest gradient of a weight."""


def two_processes_give_the_loss_and_gradient_of_one(candidate: Candidate) -> None:
    """Each of two processes has half of a batch; the mean of their terms and gradients is that of one process.

    Tried without dropout, whose masks are a process's own, and with GroupNorm: batch norm's statistics differ.
    """
    with nullcontext(candidate.processes) if candidate.processes else TwoProcesses() as processes:
        for stage in range(candidate.stages):
            compare(candidate, stage, processes)


def compare(candidate: Candidate, stage: int, processes: TwoProcesses) -> None:
    """Holds the processes' step in one stage against that of this process."""
    size: dict[str, Any] = {"stage": stage, "batch": 4, "dropout": False}
    bench = candidate.bench(**size)
    one = shared_step(bench)
    shares = processes.step({"method": candidate.name, "settings": candidate.settings, **candidate.tried_with, **size})
    for name, term in one.terms.items():
        mean = torch.stack([share.terms[name] for share in shares]).mean()
        assert torch.isclose(mean, term, rtol=CLOSE, atol=1e-6), (
            f"{bench.place}: term '{name}' is {term.item():.6g} in one process and {mean.item():.6g} in two; {MEND}"
        )
    largest = max(gradient.abs().max() for gradient in one.gradients.values())
    for name, gradient in one.gradients.items():
        missing = torch.zeros_like(gradient)
        mean = torch.stack([share.gradients.get(name, missing) for share in shares]).mean(0)
        assert (mean - gradient).abs().max() <= CLOSE * max(gradient.abs().max(), 1e-2 * largest), (
            f"{bench.place}: the gradient of {name} in two processes is not that of one; {MEND}"
        )


MEND = (
    "sum over the batch with losses.reduction.batch_sum or batch_mean, draw per sample from stream.seeds and per step"
    " from clock.seed, and mix only neighbours (sampling.mixing.partners)"
)
