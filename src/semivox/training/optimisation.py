"""Optimisers and learning rates."""

import math
from typing import Any

import torch

from semivox.losses.schedules import poly
from semivox.methods.method import Optimiser
from semivox.networks.network import Network
from semivox.training.config import TrainingSettings


def make_optimiser(specification: Optimiser, training: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of the trainable parameters of the modules that `specification` names.

    Parts of a network that have a rate of their own (`Network.rates`) are a group with the key `factor`.
    """
    parameters: dict[int, torch.nn.Parameter] = {}
    factors: dict[int, float] = {}
    for module in specification.modules:
        parameters |= {id(p): p for p in module.parameters() if p.requires_grad}
        for network in (inner for inner in module.modules() if isinstance(inner, Network)):
            for part, factor in network.rates.items():
                factors |= {id(p): factor for p in part.parameters()}
    rate = base_learning_rate(specification, training)
    kind = specification.kind or training.optimiser
    decay = training.weight_decay if specification.weight_decay is None else specification.weight_decay
    by_factor: dict[float, list[torch.nn.Parameter]] = {}
    for key, parameter in parameters.items():
        by_factor.setdefault(factors.get(key, 1.0), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": own} if factor == 1 else {"params": own, "lr": rate * factor, "factor": factor}
        for factor, own in by_factor.items()
    ]
    if kind == "sgd":
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=training.momentum,
            weight_decay=decay,
            nesterov=training.nesterov,
            foreach=True,
        )
    Kind = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return Kind(groups, lr=rate, betas=specification.betas, weight_decay=decay, foreach=True)


def base_learning_rate(specification: Optimiser, training: TrainingSettings) -> float:
    """What the schedule multiplies: the optimiser's own rate, which may be 0, else the run's."""
    return training.learning_rate if specification.learning_rate is None else specification.learning_rate


def learning_rate_factor(step: int, steps: int, schedule: str, training: TrainingSettings) -> float:
    """What the base learning rate is multiplied with at `step` of the `steps` that a schedule spans."""
    progress, warmup = step / steps, training.warmup_share
    if warmup and progress < warmup:
        return max(progress / warmup, 1e-3)
    if schedule == "step":
        return 0.1 ** (step // training.step_every)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return poly(progress)
