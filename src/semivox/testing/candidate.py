"""A method under test: benches to try it on, and short runs of it."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

from semivox.methods import find_method
from semivox.methods.method import Method
from semivox.networks import find_network
from semivox.testing.phantom import TinyPhantom, shared_phantom
from semivox.testing.processes import TwoProcesses
from semivox.testing.workbench import Workbench, tiny_config
from semivox.training.checkpoint import load_checkpoint
from semivox.training.config import Config
from semivox.training.engine import Engine
from semivox.training.fit import fit
from semivox.training.run import RunFolder


@dataclass
class Candidate:
    """A method as it is tested.

    name: a registered name or `file.py:Class`. settings: where they differ from the defaults. processes: two processes
    that serve several candidates; without them the check that needs them starts its own. training: fields of the
    config's section by which the method is tried, where they differ.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: TwoProcesses | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    network: str | None = None
    """With which the method is tried; None: the one that it prefers, or the usual one."""

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return find_method(self.name)

    @property
    def phantom(self) -> TinyPhantom:
        """What all candidates of this process are tried on."""
        return shared_phantom()

    @property
    def named_network(self) -> str | None:
        """The network with which it is tried; None: the usual one."""
        return self.network or self.kind.preferred_network

    @property
    def dimensions(self) -> tuple[int, ...]:
        """2 and 3, as far as its network reads them."""
        network = self.named_network
        return (2, 3) if network is None else tuple(sorted(find_network(network).dimensionalities))

    @property
    def tried_with(self) -> dict[str, Any]:
        """Arguments of `tiny_config` that are the same in every check."""
        return {**self.training, "network": self.network}

    @cached_property
    def stages(self) -> int:
        """How many stages the method has."""
        return len(self.bench().method.stages())

    def bench(self, dimensions: int = 2, stage: int = 0, **config: Any) -> Workbench:
        """The method, freshly built, in the middle of a stage; see `Workbench`."""
        return Workbench(self.name, dimensions, stage=stage, settings=self.settings, **{**self.tried_with, **config})

    def benches(self, **config: Any) -> Iterator[Workbench]:
        """A bench per dimensionality and stage."""
        for dimensions in self.dimensions:
            for stage in range(self.stages):
                yield self.bench(dimensions, stage, **config)

    def config(self, **changes: Any) -> Config:
        """The config of a short 2-D run."""
        return tiny_config(self.name, settings=self.settings, **{**self.tried_with, **changes})

    def steps_of_run(self, steps: int) -> int:
        """Steps of a run of which each stage has at least `steps`."""
        shares = [stage.share for stage in self.bench().method.stages()]
        return math.ceil((steps + 1) * sum(shares) / min(shares))  # one more, for stages end at whole steps

    def short_config(self, **changes: Any) -> Config:
        """A run with two steps or more in each stage that saves after every step."""
        stages = self.bench().method.stages()
        smallest = min(stage.share for stage in stages) / sum(stage.share for stage in stages)
        return self.config(iterations=max(4, min(round(2 / smallest), 40)), checkpoint_every=1, **changes)

    @cached_property
    def short_run(self) -> dict[str, Any]:
        """The last checkpoint of a run of `short_config` that nothing interrupted."""
        with run_folder() as run:
            return trained(self.short_config(), run)


@contextmanager
def run_folder() -> Iterator[RunFolder]:
    """A run folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="semivox-run-") as folder:
        run = RunFolder(Path(folder) / "run")
        run.create()
        yield run


def trained(config: Config, run: RunFolder, power_cuts: Sequence[int] = ()) -> dict[str, Any]:
    """The last checkpoint of a run that died at the given steps, and was resumed each time."""
    for step in power_cuts:
        with power_cut_at(step), suppress(PowerCutError):
            fit(config, run)
    fit(config, run)
    return load_checkpoint(run.last)


class PowerCutError(Exception):
    """Stands in for a power cut: nothing is saved, nothing cleaned up."""


@contextmanager
def power_cut_at(step: int) -> Iterator[None]:
    """Runs that begin in this block die before `step` is computed."""
    original = Engine.training_step

    def training_step(engine: Engine, batch: Any, index: int) -> None:
        if engine.step == step:
            raise PowerCutError
        original(engine, batch, index)

    with mock.patch.object(Engine, "training_step", training_step):
        yield
