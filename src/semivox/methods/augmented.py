"""A method with transferable semantic augmentation put on: `--method mean_teacher+transferable_augmentation`."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from semivox.errors import SettingError
from semivox.inference.windows import Windows
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Optimiser, Stage, Terms
from semivox.methods.problem import Problem
from semivox.methods.stage_tools import StageTools
from semivox.methods.transferable_augmentation import Overheard, TransferableAugmentation, TransferableSettings
from semivox.networks.network import Network
from semivox.planning.demand import Demand
from semivox.sampling.batch import Batch


class Augmented(Method):
    """A method as it is, and one further loss term on what its student and teacher show of themselves.

    It holds the method and hands everything on to it. Prediction is the method's alone.
    """

    Base: ClassVar[type[Method]]

    class Settings(MethodSettings):
        transferable_augmentation: TransferableSettings = TransferableSettings()
        """The addition's own settings."""

    settings: Settings

    def __init__(self, settings: MethodSettings | None = None) -> None:
        super().__init__(settings)
        fields = self.Base.Settings.model_fields
        self.base = self.Base(self.Base.Settings(**{name: getattr(self.settings, name) for name in fields}))
        self.base.notes = self.notes

    @classmethod
    def demand(cls, settings: Settings) -> Demand:  # type: ignore[override]
        demand = cls.Base.demand(settings)
        clean = settings.transferable_augmentation.source == "clean"
        return replace(demand, labelled_forwards=demand.labelled_forwards + clean)

    def build(self, problem: Problem) -> None:
        if type(self.base).steps is not Method.steps:
            raise SettingError(
                f"transferable_augmentation cannot be added to {type(self.base).__name__}, whose networks take turns"
            )
        self.problem = problem
        self.augmentation = TransferableAugmentation(self.settings.transferable_augmentation, self.base)
        self.base.build(Overheard(**vars(problem), heard=self.augmentation.hear, dressed=self.dressed))
        self.augmentation.watch(problem.classes)

    def dressed(self, network: Network) -> Network:
        """A network of the method, before it trains."""
        return network

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        if batch.unlabelled is None:
            return self.base.losses(batch, clock)
        self.augmentation.begin(batch)
        return {**self.base.losses(batch, clock), "transferable": self.augmentation.term(clock)}

    def initialise_from(self, donor: Method) -> None:
        self.base.initialise_from(donor)

    def optimisers(self) -> Sequence[Optimiser]:
        return self.base.optimisers()

    def stages(self) -> Sequence[Stage]:
        def own(stage: Stage) -> Stage:
            names = {f"base.{target}": f"base.{source}" for target, source in stage.initialise.items()}
            return replace(stage, initialise=names)

        return [own(stage) for stage in self.base.stages()]

    def prepare_stage(self, stage: Stage, tools: StageTools) -> None:
        self.base.prepare_stage(stage, tools)

    def after_step(self, clock: Clock) -> None:
        self.base.after_step(clock)

    def predict(self, image: Tensor, task: str) -> Tensor:
        return self.base.predict(image, task)

    def predict_volume(self, volume: Tensor, windows: Windows, task: str) -> Tensor:
        return self.base.predict_volume(volume, windows, task)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return self.base.inference_modules()

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        return {**self.base.diagnostics(class_names), **self.augmentation.diagnostics(class_names)}


@functools.cache
def augmented(Base: type[Method]) -> type[Augmented]:
    """`Base` with the augmentation; its settings are those of `Base` and `transferable_augmentation`."""
    if issubclass(Base, Augmented):
        raise SettingError(f"{Base.__name__} has transferable_augmentation already; name it without the addition")

    class Settings(Augmented.Settings, Base.Settings):  # type: ignore[name-defined]
        pass

    attributes = {
        "__doc__": Base.__doc__,
        "__module__": Base.__module__,
        "Base": Base,
        "Settings": Settings,
        **{
            name: getattr(Base, name)
            for name in ("views", "requires", "preferred_network", "paper", "covers", "weighs_classes")
        },
    }
    return type(f"Augmented{Base.__name__}", (Augmented,), attributes)
