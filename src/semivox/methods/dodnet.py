"""DoDNet, and what it shares with VerSemi."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.errors import RunError
from semivox.losses.foreground import binary_cross_entropy, foreground_dice
from semivox.losses.reduction import batch_sum
from semivox.methods.clock import Clock
from semivox.methods.method import OTHER_NETWORK, Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.prompted import HeadNorm, PromptedNetwork
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream

DiceOver = Literal["batch", "organ"]


class DoDNet(Method):
    """Learning to segment multi-organ and tumors from multiple partially labeled datasets (Zhang et al., CVPR 2021).

    One network for several data sets, each labelled for organs of its own, on labelled scans alone. A controller makes
    the kernels of a small head from the image and a prompt, so that a scan teaches the prompts of what its task
    annotates, and no voxel is background of an organ that nobody looked for. p(x|k) is the foreground of prompt k:
    L = D(p(x|own prompts), y) + BCE(p(x|own prompts), y), D the Dice.

    Published, a prompt names a data set and has two outputs, organ with tumour and tumour, each with a sigmoid; here it
    names an organ and has background and foreground. For a set of one organ that is the same. Published code takes Dice
    without squares sample by sample, adds 1 to its denominator and trains a residual network with standardised weights;
    here D is VerSemi's, over the whole batch at once, with squares, and the network is the plan's, so that the two
    methods differ in nothing else.

    Prediction: the scores of the organs' prompts (foreground's logit less background's) beside 0 for background, in one
    softmax. The organ of the largest score wins where its own probability exceeds ½. `task` limits it to that task's
    organs; of one organ it is the two-class softmax.
    """

    class Settings(MethodSettings):
        head_norm: HeadNorm = "group"
        """What the head normalises over. group: 16 groups of channels, as DoDNet. batch: as VerSemi's released code,
        which mixes tasks and modalities, and differs between training and prediction."""
        dice_over: DiceOver = "batch"
        """What D sums over. batch: all foreground of the batch, as VerSemi, where small organs count for little beside
        large ones. organ: each organ's in the batch, then the mean over organs."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights; 0 evaluates the last ones, as published."""

    settings: Settings
    prompts: Tensor
    views = Views(labelled=("weak",))
    requires = frozenset({"features", "maps"})
    paper: ClassVar[str] = "Zhang et al., CVPR 2021"
    weighs_classes = True
    further_prompts: ClassVar[tuple[str, ...]] = ()
    """Names of prompts behind those of the organs; they never predict."""

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.organs = problem.classes - 1
        prompts = (*problem.labels.foreground, *self.further_prompts)
        self.student = PromptedNetwork(problem.network(), prompts, self.settings.head_norm)
        self.average = problem.average(self.student, self.settings.average_decay)
        self.register_buffer("prompts", torch.arange(len(prompts)), persistent=False)
        self.dice = torch.zeros(self.organs)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        return {"supervised": self.supervised(batch.labelled)}

    def supervised(self, stream: Stream) -> Tensor:
        """D + BCE of labelled scans as they are, each under the prompts of its own task."""
        assert stream.label is not None
        numbers, own = own_prompts(organs_known(stream))
        scores = self.student(stream.image, numbers)
        target, counted = targets(stream.label, numbers)
        sets = torch.cat([own.unsqueeze(0), self.by_organ(own, numbers)])
        dice = foreground_dice(scores.sigmoid(), target, counted, sets)
        self.dice = 1 - dice[1:].detach()
        chosen = dice[0] if self.settings.dice_over == "batch" else mean_of_known(dice[1:], sets[1:])
        return chosen + binary_cross_entropy(scores, target, counted & over_space(own, counted))

    def by_organ(self, pairs: Tensor, numbers: Tensor) -> Tensor:
        """Pairs (..., B, P) bool of samples and their prompts (B, P), organ by organ: (..., K - 1, B, P) bool."""
        return pairs.unsqueeze(-3) & (numbers == self.prompts[: self.organs].view(-1, 1, 1))

    def predict(self, image: Tensor, task: str) -> Tensor:
        organs = torch.tensor(self.problem.classes_of(task), device=image.device)
        scores = self.average.module(image, organs - 1)
        chosen = torch.cat([torch.zeros_like(scores[:, :1]), scores], 1).softmax(1)
        probabilities = chosen.new_zeros(len(image), self.problem.classes, *image.shape[2:])
        probabilities[:, [0, *self.problem.classes_of(task)]] = chosen
        return probabilities

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)

    def initialise_from(self, donor: Method) -> None:
        """Prompts take the weights of those that have their name, so that an organ keeps what it was taught; the
        prompts of further organs begin anew."""
        if not isinstance(donor, DoDNet):
            raise RunError("it was trained by a method without prompts; give a run of versemi or dodnet")
        given = donor.average.module
        assert isinstance(given, PromptedNetwork)
        try:
            self.student.take_weights(given)
        except ValueError:
            raise RunError(OTHER_NETWORK) from None
        self.average.module.load_state_dict(self.student.state_dict())

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """Of each organ's prompt the soft Dice on labelled scans of the last step, 1 where no task had the organ."""
        return {
            f"prompt_dice/soft/{name}": float(value) for name, value in zip(class_names[1:], self.dice, strict=True)
        }


def organs_known(stream: Stream) -> Tensor:
    """(B, K - 1) bool: the organs that each sample's task annotates."""
    return stream.known[:, 1:]


def own_prompts(known: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the prompts that each sample knows, (B, P), as many as one of them has at most, and which are its
    own, (B, P) bool: samples that know fewer are filled up with others. known: (B, prompts) bool."""
    most = max(int(known.sum(1).max()), 1)
    numbers = known.int().argsort(stable=True, dim=1, descending=True)[:, :most]
    return numbers, known.gather(1, numbers)


def mean_of_known(dice: Tensor, sets: Tensor) -> Tensor:
    """The mean over organs of `dice` (..., K - 1), of those that a sample of the batch knows; sets: (..., K - 1, B, P),
    bool. 0 where none is known."""
    known = batch_sum(sets.to(dice).sum((-1, -2))) > 0
    return (dice * known).sum(-1) / known.sum(-1).clamp_min(1)


def targets(label: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label (B, *space) has the organs of prompts (B, P), and where it is known: (B, P, *space) bool and
    (B, 1, *space) bool."""
    label = label.unsqueeze(1)
    return label == over_space(numbers + 1, label), label != IGNORE


def over_space(values: Tensor, maps: Tensor) -> Tensor:
    """Values (B, P) for every voxel of `maps` (B, any, *space)."""
    return values.view(*values.shape, *[1] * (maps.ndim - 2))
