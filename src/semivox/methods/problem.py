"""What a method is given to build itself: the shape of the task, networks for it, and the supervised loss."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from semivox.data.labels import LabelMap
from semivox.errors import SettingError
from semivox.losses.supervised import supervised_loss
from semivox.methods.average import Average
from semivox.methods.class_weighting import ClassWeighting
from semivox.methods.frozen import Frozen
from semivox.networks import NETWORKS, find_network, make_network
from semivox.networks.network import Network
from semivox.planning.plan import Plan
from semivox.sampling.batch import Stream


@dataclass(frozen=True)
class Problem:
    """`channels` in, `classes` out (background included), on patches of `plan.patch`."""

    plan: Plan
    channels: int
    labels: LabelMap
    requires: frozenset[str] = field(default_factory=frozenset)
    """Network capabilities that the method asked for; checked whenever a network is made."""
    class_weighting: ClassWeighting | None = None
    """What weighs the classes in supervised terms; None: all count alike."""
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Task → names of its classes, where the data set has several; a task that is absent has all of them."""
    pretrained: bool = True
    """Whether networks take the pretrained weights that the plan names; False where all weights are restored next."""

    @property
    def dimensions(self) -> int:
        return self.plan.dimensions

    @property
    def classes(self) -> int:
        return self.labels.count

    def classes_of(self, task: str) -> list[int]:
        """The foreground classes that `task` names, in order; all where it is not one of several."""
        names = self.tasks.get(task, self.labels.foreground)
        return [index for index, name in enumerate(self.labels.names) if index and name in names]

    def network(self, name: str | None = None, **changes: Any) -> Network:
        """A freshly initialised network: the plan's, or another by `name`; `changes` override its settings."""
        choice = self.plan.network
        settings = {**(choice.settings if name in (None, choice.name) else {}), **changes}
        network = make_network(
            name or choice.name,
            dimensions=self.dimensions,
            channels=self.channels,
            classes=self.classes,
            settings=settings,
            patch=self.plan.patch,
            spacing_mm=self.plan.patch_spacing_mm,
        )
        missing = self.requires - network.capabilities
        if missing:
            able = [other for other in NETWORKS if self.requires <= find_network(other).capabilities]
            raise SettingError(
                f"network '{name or choice.name}' cannot give {', '.join(sorted(missing))}, which this method needs;"
                f" choose {' or '.join(able) or 'another'} with --network"
            )
        if self.pretrained:
            network.load_pretrained()
        return network

    def average(self, network: nn.Module, decay: float, *, mode: Literal["train", "eval"] = "eval") -> Average:
        """A moving average of `network`; see `Average` for the two policies."""
        return Average(network, decay, mode=mode)

    def frozen(self, module: nn.Module) -> Frozen:
        """`module`, never trained and always in evaluation mode."""
        return Frozen(module)

    def supervised_loss(self, logits: Tensor, stream: Stream, weight: Tensor | None = None) -> Tensor:
        """The supervised term of every method: ½ (cross-entropy + Dice) on a labelled stream.

        logits: (B, K, *space), of the stream's views. weight: (B, *space) float or bool, by which voxels count, e.g.
        the part of a mix that is from the stream. Voxels on padding or marked `IGNORE` do not count; classes that a
        sample's task does not annotate are merged into its background. The run may weigh the classes.
        """
        if stream.label is None:
            raise ValueError("supervised_loss: the stream has no labels")
        class_weight = None
        if self.class_weighting is not None:
            class_weight = self.class_weighting(logits, stream.label, stream.known, weight)
        return supervised_loss(logits, stream.label, stream.known, class_weight, weight)
