"""A method on the bench: real batches of the phantom at any of its stages, outside any loop."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from semivox.methods import find_method
from semivox.methods.average import Average
from semivox.methods.clock import Clock
from semivox.methods.method import Stage, Terms, in_parts
from semivox.networks.network import Network
from semivox.sampling.batch import Batch
from semivox.testing.phantom import TinyPhantom, shared_phantom, tiny_plan
from semivox.training.config import Config, MethodChoice, TrainingSettings, method_settings
from semivox.training.engine import seed_torch
from semivox.training.fit import build, make_engine, open_store
from semivox.training.optimisation import make_optimiser

STAGE_STEPS = 6
"""Steps that a stage has on the bench, on average."""
DECISION = 10.0
"""What the weights before the logits are multiplied with, so that many voxels are decided and some are not."""


def tiny_config(
    method: str,
    dimensions: int = 2,
    *,
    settings: Mapping[str, Any] | None = None,
    phantom: TinyPhantom | None = None,
    batch: int = 2,
    width: int = 4,
    dropout: bool = True,
    network: str | None = None,
    detail: int = 1,
    seed: int = 0,
    **training: Any,
) -> Config:
    """The config of a run on the phantom whose steps take some tens of milliseconds.

    settings: the method's, where they differ from its defaults. batch: samples of each stream. width: channels of the
    finest level. network: None takes the one that the method prefers, or the usual one. detail: of the
    phantom, where none is given, and of the patch. training: fields of the config's section.
    """
    typed = method_settings(MethodChoice(name=method, settings=dict(settings or {})))
    stages = find_method(method)(typed).stages()
    network = network or find_method(method).preferred_network
    defaults = {"iterations": STAGE_STEPS * len(stages), "device": "cpu", "precision": "32", "log_every": 1}
    return Config(
        data=(phantom or shared_phantom(detail)).data,
        plan=tiny_plan(dimensions, batch, width=width, dropout=dropout, network=network, detail=detail),
        method=MethodChoice(name=method, settings=typed.model_dump(mode="json")),
        training=TrainingSettings(**{**defaults, **training}),
        seed=seed,
    )


class Workbench:
    """One method, freshly built for the phantom, in the middle of one of its stages.

    method: a registered name or `file.py:Class`. stage: its number. rank: of the process, where
    `devices` is given. The other arguments are those of `tiny_config`.
    """

    def __init__(
        self,
        method: str,
        dimensions: int = 2,
        *,
        stage: int = 0,
        rank: int = 0,
        phantom: TinyPhantom | None = None,
        **config: Any,
    ) -> None:
        self.phantom = phantom or shared_phantom()
        self.config = tiny_config(method, dimensions, phantom=self.phantom, **config)
        self.dataset = self.phantom.dataset
        self.rank = rank
        self.method, self.problem = build(self.config, self.dataset)
        store = open_store(self.config, self.dataset)
        self.engine = make_engine(self.config, self.dataset, store, self.method, rank)
        span = self.engine.spans[stage]
        self.engine.step = (span.start + span.end) // 2
        self.method.train()

    @property
    def stage(self) -> Stage:
        """The stage that the method stands in."""
        return self.engine.span.stage

    @property
    def place(self) -> str:
        """Where the bench stands, for messages."""
        stages = len(self.engine.spans)
        return f"{self.problem.dimensions}-D" + (f", stage '{self.stage.name}'" if stages > 1 else "")

    @property
    def clock(self) -> Clock:
        """Where the next step stands."""
        return self.engine.clock()

    @cached_property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The method's optimisers by name."""
        return {o.name: make_optimiser(o, self.config.training) for o in self.method.optimisers()}

    @property
    def averages(self) -> dict[str, Average]:
        """The method's moving averages by name."""
        return {name: module for name, module in self.method.named_modules() if isinstance(module, Average)}

    def batch(self, step: int = 0) -> Batch:
        """The batch of a step, with pseudo-labels where the stage learns from stored ones."""
        labels = self.phantom.pseudo_labels if self.stage.pseudo else None
        loader = self.engine.make_loader(self.engine.views(self.stage), labels)
        return self.engine.on_after_batch_transfer(loader[step], 0)

    def losses(self, batch: Batch) -> Terms:
        """The terms of one step, those of all optimisers together."""
        self._seed()
        terms: Terms = {}
        for _, function in self.method.steps(batch, self.clock):
            for part in in_parts(function()):
                terms |= part
        return terms

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Parameter's name → the gradient that its optimiser sees in one step."""
        self._seed()
        names = {parameter: name for name, parameter in self.method.named_parameters()}
        gradients: dict[str, Tensor] = {}
        for optimiser, function in self.method.steps(batch, self.clock):
            self.method.zero_grad(set_to_none=True)
            back_propagate(function)
            trained = [p for group in self.optimisers[optimiser].param_groups for p in group["params"]]
            gradients |= {names[p]: p.grad.clone() for p in trained if p.grad is not None}
        return gradients

    def train_step(self, batch: Batch) -> None:
        """One training step as the engine does it; the clock moves on."""
        self._seed()
        for name, function in self.method.steps(batch, self.clock):
            self.optimisers[name].zero_grad(set_to_none=True)
            back_propagate(function)
            self.optimisers[name].step()
        self.method.finish_step(self.clock)
        self.engine.step += 1

    @torch.no_grad()
    def decide(self) -> "Workbench":
        """Weights as of a network that has learnt: it is sure of many voxels, and no average equals its source.

        Untrained networks are sure of nothing, so that whatever waits for confidence would not be tried.
        """
        random = torch.Generator()
        for name, parameter in self.method.named_parameters():
            random.manual_seed(zlib.crc32(name.encode()))
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=random))
        for module in self.method.modules():
            if isinstance(module, Network):
                for parameter in module.classifier.parameters():
                    parameter.mul_(DECISION)
        return self

    def _seed(self) -> None:
        seed_torch(self.config.seed, self.engine.step, self.rank)


def back_propagate(function: Callable[[], Terms | Iterator[Terms]]) -> None:
    """Adds the gradient of what a function of `Method.steps` gives to the weights', part by part."""
    for part in in_parts(function()):
        torch.stack([*part.values()]).sum().backward()
