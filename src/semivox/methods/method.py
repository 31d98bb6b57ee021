"""The interface of a semi-supervised method: one algorithm, one file, one class.

A method declares the views it wants, builds its networks, and says for a batch which loss terms there are. It knows
nothing of loops, devices, precision, logging or checkpoints. Everything it does not say has a default that amounts to
training one network on the labelled samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from semivox.errors import RunError
from semivox.inference.windows import Windows
from semivox.methods.average import Average
from semivox.methods.class_weighting import ClassWeighting
from semivox.methods.clock import Clock
from semivox.methods.problem import Problem
from semivox.methods.stage_tools import StageTools
from semivox.networks.network import Network
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.settings import Part

OTHER_NETWORK = "its network differs from this run's; give the same plan and network"
"""What is said where the weights of another run do not fit."""

Terms = dict[str, Tensor]
"""Named loss terms, already weighted; the engine sums, logs and steps them."""


class MethodSettings(Part):
    """Base of a method's typed settings."""


def in_parts(terms: Terms | Iterator[Terms]) -> Iterator[Terms]:
    """What a function of `Method.steps` gave, as parts: the terms as they are, if they are one."""
    if isinstance(terms, dict):
        yield terms
    else:
        yield from terms


@dataclass(frozen=True)
class Optimiser:
    """One optimiser: the modules it trains, and where it differs from the run's settings (None: as the run says)."""

    name: str
    modules: tuple[nn.Module, ...]
    kind: Literal["sgd", "adam", "adamw"] | None = None
    learning_rate: float | None = None
    schedule: Literal["poly", "constant", "cosine"] | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    """β₁ and β₂ of adam and adamw."""


@dataclass(frozen=True)
class Stage:
    """A part of the budget. When it begins, weights are handed over, optimisers reset, then `prepare_stage` is called.

    torch's generators are seeded for that from (run seed, first step of the stage), alike on every process, so that
    fresh weights made there are reproducible.
    """

    name: str
    share: float = 1.0
    """Of the run's steps, relative to the other stages' shares."""
    unlabelled: bool = True
    """Whether the unlabelled stream is made in this stage."""
    pseudo: bool = False
    """Whether the unlabelled stream is made only of cases with a pseudo-label that `prepare_stage` stored; it comes as
    `Stream.pseudo`."""
    initialise: dict[str, str] = field(default_factory=dict)
    """A module's name → the one whose weights it takes."""
    keep_optimisers: bool = True
    """False: the optimisers forget their momenta, and the learning rate begins a new schedule, warm-up included, that
    spans the stages until the next one with False. (`Clock.progress` goes on counting the whole run.)"""


class Method(nn.Module):
    """Base class. A subclass gives `losses`, usually `build`, `views` and `Settings`; the rest where it needs more."""

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    views: ClassVar[Views] = Views()
    """Views of every stage, where they depend on no setting; else `demand` says them."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Network capabilities that the method relies on."""
    preferred_network: ClassVar[str | None] = None
    """The network that a plan takes where none is named; None: the usual one."""
    paper: ClassVar[str] = ""
    covers: ClassVar[tuple[str, ...]] = ("SSL", "partial labels")
    """The settings that the method was made for or treats soundly: SSL, imbalanced SSL, UDA, SemiDG, partial labels."""
    weighs_classes: ClassVar[bool] = False
    """Whether the supervised terms are the method's own and weigh the classes themselves, so that
    `training.class_weighting` has nothing to do."""

    def __init__(self, settings: MethodSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or self.Settings()
        self.notes: dict[str, Tensor] = {}

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        """What a step needs and costs: its views for sampling, its counts for planning.

        The default is labelled-only training of one network on `views`.
        """
        return Demand(views=cls.views)

    def build(self, problem: Problem) -> None:
        """Makes the modules. The default is one network."""
        self.problem = problem
        self.network = problem.network()

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        """Named, already weighted loss terms of one step."""
        raise NotImplementedError

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        """The terms of one step in parts. Each is back-propagated before the next is computed, and the gradients add
        up: as all at once, but what one part keeps for its backward pass is gone when the next begins.

        The default is one part, `losses`.
        """
        yield self.losses(batch, clock)

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        """(optimiser name, function → terms, or their parts) pairs. The engine calls, back-propagates and steps them in
        order."""
        yield "main", lambda: self.parts(batch, clock)

    def initialise_from(self, donor: "Method") -> None:
        """Begins with the weights of a trained method. Raises RunError where they do not fit.

        The default gives the donor's first network to the first of this method, and to those that begin as copies of
        it. Networks that begin otherwise stay as they are: a method has several because they differ.
        """
        given = donor.inference_modules()[0].state_dict()
        given = {name.removeprefix("module."): tensor for name, tensor in given.items()}
        networks = [module for module in self.modules() if isinstance(module, Network)]
        own = {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}
        if own.keys() != given.keys() or any(own[name].shape != given[name].shape for name in own):
            raise RunError(OTHER_NETWORK)
        for network in networks:
            state = network.state_dict()
            if state.keys() == own.keys() and all(torch.equal(state[name], own[name]) for name in own):
                network.load_state_dict(given)

    def optimisers(self) -> Sequence[Optimiser]:
        """The default is one, `main`, over every trainable parameter."""
        return (Optimiser("main", (self,)),)

    def stages(self) -> Sequence[Stage]:
        """The default is one stage over the whole budget."""
        return (Stage("train"),)

    def prepare_stage(self, stage: Stage, tools: StageTools) -> None:
        """Called when a stage begins, in evaluation mode: stores pseudo-labels, makes fresh weights.

        A run that was killed in here calls it again with the same weights, so it must not depend on anything else.
        """

    def after_step(self, clock: Clock) -> None:
        """After the optimisers have stepped. The default moves every average."""
        for module in self.modules():
            if isinstance(module, Average):
                module.update(clock.step)

    def take_over(self, stage: Stage) -> None:
        """What the engine calls when a stage begins: modules take the weights of others, as `stage.initialise` says,
        and what the run keeps of their classifiers begins anew."""
        modules = dict(self.named_modules())
        for target, source in stage.initialise.items():
            modules[target].load_state_dict(modules[source].state_dict())
            for weighting in self._class_weightings():
                weighting.forget(target)

    def finish_step(self, clock: Clock) -> None:
        """What the engine calls: `after_step`, and what the run itself keeps beside the method."""
        self.after_step(clock)
        for weighting in self._class_weightings():
            weighting.advance()

    def predict(self, image: Tensor, task: str) -> Tensor:
        """Class probabilities (B, K, *space), float32, of one batch of patches (B, C, *space).

        The default is the mean over `inference_modules`.
        """
        modules = self.inference_modules()
        return sum(module(image).float().softmax(1) for module in modules) / len(modules)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        """The modules that `predict` needs, and so the ones a model folder holds. The default is the first child."""
        return (next(self.children()),)

    def predict_volume(self, volume: Tensor, windows: Windows, task: str) -> Tensor:
        """Class probabilities (K, X, Y, Z) of a prepared scan (C, X, Y, Z). Default: a sliding window of `predict`."""
        return windows.run(lambda patch: self.predict(patch, task), volume)

    @property
    def takes_prompts(self) -> bool:
        """Whether `predict_prompted_volume` works."""
        return False

    def predict_prompted_volume(self, volume: Tensor, label: Tensor, windows: Windows, task: str) -> Tensor:
        """`predict_volume` with prompts drawn from a label (X, Y, Z) of class indices: an upper bound, to evaluate."""
        raise NotImplementedError

    def teachers(self) -> Sequence[Average]:
        """The averages that make targets in training; additions listen to them. They are given the unlabelled samples
        in their order, once or several times in one batch.

        The default is the children whose name is or ends with `teacher`.
        """
        return [
            module for name, module in self.named_children() if isinstance(module, Average) and name.endswith("teacher")
        ]

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """Figures of the method's own, name → value, asked for when a row of the log is written.

        A name is `topic/figure`, or `topic/figure/CLASS`; the report draws one chart for each figure.
        """
        return {}

    def figures(self, class_names: Sequence[str]) -> dict[str, float]:
        """What the log asks for: `diagnostics`, and the figures of what the run itself keeps beside the method."""
        own = [weighting.diagnostics(class_names) for weighting in self._class_weightings()]
        return {name: value for found in (self.diagnostics(class_names), *own) for name, value in found.items()}

    def _class_weightings(self) -> list[ClassWeighting]:
        return [module for module in self.modules() if isinstance(module, ClassWeighting)]

    def note(self, **compared: Tensor) -> None:
        """Hands what was compared to whoever watches: pseudo-label health, additions such as feature augmentation.

        Known names: `student` and `teacher`, logits or probabilities (B, K, *space) on the unlabelled samples; `kept`
        (B, *space) bool, the voxels whose pseudo-label counts; `pseudo` (B, *space), the teacher's labels as the method
        cleaned them, noted before the student's pass. They are detached, and forgotten after the step.
        """
        self.notes.update({name: value.detach() for name, value in compared.items()})
