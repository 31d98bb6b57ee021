"""Weights of classes in every supervised term of a method that knows nothing of them: `training.class_weighting`."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.losses.class_distribution import ClassDistribution
from semivox.losses.difficulty import Difficulty
from semivox.losses.partial import merge_label
from semivox.losses.reduction import batch_sum
from semivox.networks.network import Network

ClassWeightingKind = Literal["difficulty", "distribution", "dhc"]
"""difficulty: by how far a class is from learnt and how it lately fared. distribution: by how rare it is in labels.
dhc: the one for the first of two networks, the other for the second."""


class ClassWeighting(nn.Module):
    """Turns what a supervised term compares into weights of the classes (K,), and remembers how they fared.

    Each classifier has a state of its own, for each network, decoder and scale learns at its own pace; autograd's graph
    tells which one gave the logits. States are made when a classifier is first heard, and their buffers are part of the
    method, so that a checkpoint holds them.

    A term compared in several parts of a step (the two mixes of copy-paste) has in each the weights that follow from
    it, and their mean Dice or count is remembered. Difficulty is measured on the very logits that are supervised, where
    A&D measures it on a second decoder's; the terms are means over classes, so that only ratios of weights matter.
    Classes that a batch's tasks do not annotate keep their place.
    """

    def __init__(self, kind: ClassWeightingKind, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.classes = classes
        self.states = nn.ModuleDict()
        self._method: tuple[nn.Module, ...] = ()
        self._heard: dict[str, list[Tensor]] = {}
        self.register_load_state_dict_pre_hook(_make_states)

    def watch(self, method: nn.Module) -> None:
        """Begins to weigh the terms of `method`, once it is built.

        Raises SettingError where it has not the two networks that `dhc` is for.
        """
        self._method = (method,)  # a tuple, so that the method is not registered as a submodule
        networks = [m for m in method.modules() if isinstance(m, Network) and next(m.parameters()).requires_grad]
        if self.kind == "dhc" and len(networks) != 2:
            raise SettingError(
                "training.class_weighting=dhc gives each of two networks a weighting of its own, but the method trains"
                f" {len(networks)}; give difficulty or distribution, or --method cross_pseudo_supervision"
            )

    def forward(self, logits: Tensor, label: Tensor, known: Tensor | None, weight: Tensor | None) -> Tensor:
        """The weights (K,) for a supervised term; arguments as of `losses.supervised`."""
        name = self._name(logits)
        state = self._state(name) if name in self.states else self._make_state(name).to(logits.device)
        if weight is not None:
            label = label.masked_fill(weight == 0, IGNORE)
        if isinstance(state, Difficulty):
            figure = state.dice(logits.detach().argmax(1), label, known)
        else:
            label = label if known is None else merge_label(label, known)
            figure = batch_sum(torch.stack([(label == k).sum() for k in range(self.classes)]))
        self._heard.setdefault(name, []).append(figure)
        return state(figure)

    def advance(self) -> None:
        """Remembers what was heard since the last time: once a step."""
        for name, figures in self._heard.items():
            state = self._state(name)
            state(torch.stack(figures).double().mean(0))
            state.advance()
        self._heard.clear()
        if not self.states:
            raise SettingError(
                "training.class_weighting has no effect: the method weighs the classes of its supervised terms itself;"
                " leave it out"
            )

    def forget(self, module: str) -> None:
        """The classifiers of a module, by its name within the method, begin anew: it has been given other weights."""
        for name in self.states:
            if name.startswith(f"{_plain(module)}/"):
                state = self._state(name)
                device = next(state.buffers()).device
                self.states[name] = type(state)(self.classes).to(device)

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """The weight of each class for each classifier; their mean is 1."""
        figures: dict[str, float] = {}
        for number, name in enumerate(self.states, start=1):
            weights = self._state(name).weights
            which = f"classifier_{number}" if len(self.states) > 1 else "classifier"
            shares = (weights / weights.mean()).tolist()
            figures |= {f"class_weight/{which}/{name}": share for name, share in zip(class_names, shares, strict=True)}
        return figures

    def _name(self, logits: Tensor) -> str:
        """By what name the classifier that gave the logits goes: that of the trained tensor nearest to them."""
        nearest = nearest_parameter(logits)
        (method,) = self._method
        found = (name for name, parameter in method.named_parameters() if parameter is nearest)
        return _plain(next(found, "unknown"))

    def _state(self, name: str) -> Difficulty | ClassDistribution:
        state = self.states[name]
        assert isinstance(state, Difficulty | ClassDistribution)
        return state

    def _make_state(self, name: str) -> Difficulty | ClassDistribution:
        is_difficulty = self.kind == "difficulty" or (self.kind == "dhc" and not self.states)
        self.states[name] = Difficulty(self.classes) if is_difficulty else ClassDistribution(self.classes)
        return self._state(name)


def _plain(name: str) -> str:
    """A name of several parts as one: a dot would part the names of modules."""
    return name.replace(".", "/")


def nearest_parameter(logits: Tensor) -> Tensor | None:
    """The trained tensor that the fewest operations part from `logits`: the classifier's bias, else its weight."""
    waiting = deque([logits.grad_fn])
    while waiting:
        node: Any = waiting.popleft()
        if node is None:
            continue
        if hasattr(node, "variable"):
            return node.variable
        # The last ones first: a layer's input stands before its own tensors.
        waiting.extend(function for function, _ in reversed(node.next_functions))
    return None


def _make_states(weighting: ClassWeighting, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Makes the states that a checkpoint holds, in its order, before it is read."""
    start = f"{prefix}states."
    names = dict.fromkeys(key.removeprefix(start).partition(".")[0] for key in state_dict if key.startswith(start))
    for name in names:
        if name not in weighting.states:
            weighting._make_state(name)
