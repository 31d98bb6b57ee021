"""CauSSL: co-training of networks whose weights shall not follow from one another."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.errors import SettingError
from semivox.losses.dependence import condensed, weight_dependence
from semivox.losses.mutual import mutual_mse
from semivox.losses.sharpening import sharpen_classes
from semivox.methods.clock import Clock
from semivox.methods.cross_pseudo_supervision import CrossPseudoSupervision
from semivox.methods.method import Method, MethodSettings, Optimiser, Terms
from semivox.methods.mutual_consistency import MutualConsistencyPlus
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand
from semivox.sampling.batch import Batch

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FIRST_GUESS = 1e-3
"""Standard deviation of fresh coefficients."""
COEFFICIENT_WEIGHTS = 0.1
"""All P_k in units of a network: 0.1 of V-Net's weights, 0.3 of the 2-D U-Net's."""


class Independence(Method):
    """What CauSSL adds to a method of several networks: I_i, the dependence of network i on the others.

    Max phases teach P, in steps of its own optimiser, to tell each network's weights from the others'; in between the
    networks learn weights that cannot be told. Neither step has a gradient for what the other one trains.
    """

    class Settings(MethodSettings):
        independence_weight: float = Field(3.0, ge=0)
        """Weight of each I_i."""
        independence_from: float = Field(0.1, ge=0, lt=1)
        """Share of the run after which the first max phase comes, and with it I_i: 500 of 5000 steps."""
        phase_share: float = Field(0.012, gt=0, le=1)
        """Share of the run from one max phase to the next: 60 of 5000 steps."""
        phase_steps: int | None = Field(None, ge=1)
        """Adam steps on P in a max phase. null: as many as training steps to the next one; 60 and 60 there."""
        coefficient_rate: float = Field(2e-2, gt=0)
        """Adam's learning rate of P."""

    settings: Settings

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        demand = super().demand(settings)
        return replace(demand, networks=demand.networks + COEFFICIENT_WEIGHTS)

    def build(self, problem: Problem) -> None:
        super().build(problem)
        self.layers = corresponding_weights(self.members())
        if not self.layers:
            raise SettingError(
                f"{type(self).__name__} compares convolutions, of which network '{problem.plan.network.name}' has none;"
                " choose another with --network"
            )
        self.coefficients = nn.ModuleList(
            nn.ParameterList(
                FIRST_GUESS * torch.randn(len(layer[0]), (len(layer) - 1) * len(layer[0])) for layer in self.layers
            )
            for _ in self.layers[0]
        )

    def members(self) -> Sequence[nn.Module]:
        """The modules, alike in structure, whose weights shall be independent."""
        raise NotImplementedError

    def optimisers(self) -> Sequence[Optimiser]:
        networks = tuple(module for module in self.children() if module is not self.coefficients)
        return (
            Optimiser("main", networks),
            # I_i does not change with the length of P's rows: to shorten them by decay would only hide its gradient.
            Optimiser(
                "coefficients",
                (self.coefficients,),
                kind="adam",
                learning_rate=self.settings.coefficient_rate,
                schedule="constant",
                weight_decay=0.0,
            ),
        )

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        count = self.max_steps(clock)
        if count:
            # The weights stay as they are in this phase, so that their inner products are taken once.
            layers = [condensed(matrices) for matrices in rows(self.layers)]
            for _ in range(count):
                yield "coefficients", partial(self.unexplained, layers)
        yield from super().steps(batch, clock)

    def max_steps(self, clock: Clock) -> int:
        """How often P is stepped before the networks are, 0 outside max phases."""
        period = max(1, round(self.settings.phase_share * clock.iterations))
        since_first = clock.step - self.first_phase(clock)
        if since_first < 0 or since_first % period:
            return 0
        return self.settings.phase_steps or period

    def first_phase(self, clock: Clock) -> int:
        """The step of the first max phase."""
        return math.ceil(self.settings.independence_from * clock.iterations)

    def unexplained(self, layers: Sequence[Sequence[Tensor]]) -> Terms:
        """1 - I_i, which P minimises."""
        values = dependences([list(own.parameters()) for own in self.coefficients], layers)
        return {f"unexplained_{number}": 1 - value for number, value in enumerate(values, start=1)}

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        terms = super().losses(batch, clock)
        if clock.step >= self.first_phase(clock):
            fixed = [[p.detach() for p in own.parameters()] for own in self.coefficients]
            for number, value in enumerate(dependences(fixed, rows(self.layers)), start=1):
                terms[f"dependence_{number}"] = self.settings.independence_weight * value
        return terms


class Causality(Independence, CrossPseudoSupervision):
    """CauSSL: causality-inspired semi-supervised learning for medical image segmentation (Miao et al., ICCV 2023).

    Networks that teach one another help as long as they are independent, and with CauSSL their weights say how far they
    are: I_i = mean_k mean_rows cos²(row(P_k W_j), row(W_i)) over convolutions k, W_i the filters of network i as rows,
    is near 1 where matrices P_k (one per layer and direction) tell i's filters from j's. To cross pseudo supervision
    it adds L_i = L_sup(i) + λ(t) CE(z_i, argmax z_j) + 3 I_i. Max phases teach P to raise I_1 and I_2, by steps of Adam
    on fixed weights; then the networks lower it, each against the other's fixed weights.

    Convolutions count that all networks have in the same shape, transposed ones too, with the weight's first axis as
    rows (public code). There λ sets in after 400 of 5000 steps, where its ramp is at 1 %, and ends at 86 % of its top;
    here it grows from the first step to the last. Max steps see weights in coordinates of the space that they span, of
    equal inner products: the same steps in less time, with no gradient for the networks to be cleared of. What is
    evaluated is a moving average of the weights, as for every method here.
    """

    class Settings(Independence.Settings, CrossPseudoSupervision.Settings):
        consistency_weight: float = Field(0.03, ge=0)
        """λ_max: weight of the cross supervision once the ramp is at its top; 0.3 times 0.1 in the public code."""

    settings: Settings
    paper: ClassVar[str] = "Miao et al., ICCV 2023"

    def members(self) -> Sequence[nn.Module]:
        return self.first, self.second


class MutualCausality(Independence, MutualConsistencyPlus):
    """CauSSL in its form of one encoder and three decoders (Miao et al., ICCV 2023).

    The independence of CauSSL on mutual consistency: L = Σ_i [L_sup(i) + 3 I_i] + λ(t) Σ_{i≠j} MSE(p_i, s(p_j)) with
    s(p) = p^{1/T} / Σ_c p_c^{1/T}, a target without gradient, on unlabelled scans alone. I_i is as in CauSSL, with
    the filters of both other decoders one below the other and P_k of twice as many columns. Layers that upsample differ
    between decoders, so that they do not count.

    The public code reads the weights of the second and third decoder from a state dictionary, where they carry no
    gradient, so that only the first decoder's I_1 teaches anything; here all three do, unless `independent` is first,
    by which the paper's figures were probably made. There the first max phase comes after 60 of 5000 steps, in the
    other form after 500; here as the setting says.
    """

    class Settings(Independence.Settings, MutualConsistencyPlus.Settings):
        temperature: float = Field(0.5, gt=0, le=1)
        """T: of the sharpening; 1 changes nothing, small values make hard labels."""
        detach: bool = True
        """Whether a sharpened map is a target without gradient."""
        supervised_weight: float | None = Field(1.0, ge=0)
        """λ_d: weight of each decoder's supervised loss. null: as published for MC-Net, 0.5 in 3-D and 1 in 2-D."""
        consistency_weight: float | None = Field(0.1, ge=0)
        """λ_max: weight of the consistency once the ramp is at its top. null: as published for MC-Net."""
        independence_from: float = Field(0.012, ge=0, lt=1)
        """Share of the run after which the first max phase comes, and with it I_i: 60 of 5000 steps."""
        independent: Literal["all", "first"] = "all"
        """Decoders that learn from their I_i. all: as meant. first: the first one alone, as in the public code."""

    settings: Settings
    paper: ClassVar[str] = "Miao et al., ICCV 2023"

    def members(self) -> Sequence[nn.Module]:
        own = nn.ModuleDict({"decoder": self.network.decoder, "head": self.network.classifier})
        return own, *self.branches

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        terms = super().losses(batch, clock)
        if self.settings.independent == "first":
            others = [name for name in terms if name.startswith("dependence") and name != "dependence_1"]
            terms |= {name: terms[name].detach() for name in others}
        return terms

    def consistency(self, logits: list[Tensor], batch: Batch) -> Tensor:
        unlabelled = [one[len(batch.labelled) :] for one in logits]
        settings, valid = self.settings, batch.unlabelled.valid
        return mutual_mse(unlabelled, settings.temperature, valid, settings.detach, sharpen_classes)


def corresponding_weights(members: Sequence[nn.Module]) -> list[tuple[Tensor, ...]]:
    """The weights of the convolutions that all members have by one name and in one shape, layer by layer."""
    found = [
        {name: layer.weight for name, layer in member.named_modules() if isinstance(layer, CONVOLUTIONS)}
        for member in members
    ]
    common = [tuple(weights[name] for weights in found) for name in found[0] if all(name in one for one in found)]
    return [weights for weights in common if all(weight.shape == weights[0].shape for weight in weights)]


def rows(layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Each weight (out, in, *kernel) as a matrix (out, n)."""
    return [[weight.flatten(1) for weight in layer] for layer in layers]


def dependences(coefficients: Sequence[Sequence[Tensor]], layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """I_i of every member i, whose coefficients are `coefficients[i]`, from each layer's matrices, one per member. Only
    a member's own carry a gradient."""
    values = []
    for number, own in enumerate(coefficients):
        others = [torch.cat([*layer[:number], *layer[number + 1 :]]).detach() for layer in layers]
        values.append(weight_dependence(own, [layer[number] for layer in layers], others))
    return values
