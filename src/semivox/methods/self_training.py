"""Self-training (ST) and its form that begins with the reliable scans (ST++)."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.case import Case
from semivox.data.labels import IGNORE
from semivox.evaluation.overlap import mean_dice
from semivox.inference.augmentation import Predictor
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Stage, Terms
from semivox.methods.problem import Problem
from semivox.methods.stage_tools import StageTools
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.mixing import boxes

CUT_OUT_SHARE = (0.02, 0.4)
"""Bounds of a cut-out box's share of the patch, as released."""


class SelfTraining(Method):
    """ST: self-training with strong augmentation (Yang et al., ST++: make self-training work better for semi-supervised
    semantic segmentation, CVPR 2022).

    A network learns from labels, then labels every unlabelled scan once, ŷ = argmax p, without any threshold. A network
    that starts afresh learns from both, from unlabelled scans in their strong view A only: L = ½ [L_sup(x_l, y_l) +
    L_sup(A(x_u), ŷ_u)]. A has a box cut out of half of the samples; inside it the label does not count.

    Both halves of a batch count alike: the released code repeats the labelled list to the length of the unlabelled
    one. It trains on CE; here and in the medical field L_sup has Dice too. Its cut-out box is filled with noise, here
    with the patch's mean, as in cut-out's own paper. It labels with the stage's best weights, here with the evaluated
    average of the last ones; averages, optimiser and learning rate begin anew with each stage. Afresh means from the
    weights that the run began with, so that --init-from serves every stage, as pretraining does there. Labelling takes
    one prediction of every unlabelled scan, at the end of the first stage.
    """

    class Settings(MethodSettings):
        labelled_stage: float = Field(1.0, gt=0)
        """Steps of the first stage, on labelled scans, relative to the other stages'."""
        all_stage: float = Field(2.0, gt=0)
        """Steps of the last stage, on all scans. (In the paper: as many epochs, of more scans.)"""
        cut_out_probability: float = Field(0.5, ge=0, le=1)
        """How often the strong view has a box cut out."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("strong",))
    paper: ClassVar[str] = "Yang et al., CVPR 2022"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=2, unlabelled_forwards=1)

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.average = problem.average(self.network, self.settings.average_decay)
        self.initial = problem.frozen(copy.deepcopy(self.network))

    def stages(self) -> Sequence[Stage]:
        return (
            Stage("labelled", self.settings.labelled_stage, unlabelled=False),
            self.afresh("all", self.settings.all_stage),
        )

    def afresh(self, name: str, share: float) -> Stage:
        """A stage in which a new network learns from labels and stored pseudo-labels."""
        return Stage(name, share, pseudo=True, initialise={"network": "initial.module"}, keep_optimisers=False)

    def prepare_stage(self, stage: Stage, tools: StageTools) -> None:
        if stage.pseudo:
            tools.label(tools.cases, lambda case: (self.hard_label(case, tools), None))

    def hard_label(self, case: Case, tools: StageTools) -> np.ndarray:
        """ŷ = argmax p of the evaluated weights."""
        return argmax(tools, case, lambda image: self.predict(image, case.task))

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        if unlabelled is None:
            return {"supervised": self.problem.supervised_loss(self.network(labelled.image), labelled)}
        assert unlabelled.pseudo is not None, "a stage with pseudo-labels"
        image, pseudo = self.cut_out(unlabelled.image, unlabelled.pseudo, unlabelled.seeds)
        logits = self.network(torch.cat([labelled.image, image]))
        supervised, student = logits.split([len(labelled.image), len(image)])
        kept = pseudo != IGNORE
        self.note(student=student, teacher=one_hot(pseudo.masked_fill(~kept, 0), student), kept=kept)
        # A pseudo-label names every class, whatever the case's own task would have annotated.
        labelled_anew = replace(unlabelled, label=pseudo, known=torch.ones_like(unlabelled.known))
        return {
            "supervised": 0.5 * self.problem.supervised_loss(supervised, labelled),
            "pseudo": 0.5 * self.problem.supervised_loss(student, labelled_anew),
        }

    def cut_out(self, image: Tensor, pseudo: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (B, C, *space) with a box of their own mean, and labels (B, *space) with `IGNORE` inside it."""

        def share(random: np.random.Generator) -> float:
            return random.uniform(*CUT_OUT_SHARE) if random.random() < self.settings.cut_out_probability else 0.0

        box = boxes(image.shape[2:], seeds, share, device=image.device)
        mean = image.mean(tuple(range(2, image.dim())), keepdim=True)
        return torch.where(box[:, None], mean, image), pseudo.masked_fill(box, IGNORE)

    def after_step(self, clock: Clock) -> None:
        self.average.update(clock.stage_step)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)


class SelfTrainingPlus(SelfTraining):
    """ST++: make self-training work better for semi-supervised semantic segmentation (Yang et al., CVPR 2022).

    ST that learns from reliable scans first. How well the predictions of a scan agreed while the first stage was still
    learning tells how reliable they are: s = mean over j of Dice(M_j(x), M_K(x)), M_j the weights after 1/3 and 2/3 of
    the first stage, M_K its last ones. The better half is labelled by M_K and trained on; the network of that stage
    labels the rest, the better half keeps its labels, and a last network learns from all.

    The paper takes the mean IoU over all classes; here it is Dice over the foreground classes that either prediction
    has, as figures in this field are, and 0 where neither has any: an empty prediction is no reason to trust. M_j are
    snapshots of the evaluated average. Else as `SelfTraining`. Labelling takes three predictions of every unlabelled
    scan before the second stage, and one of half of them before the last.
    """

    class Settings(SelfTraining.Settings):
        reliable_stage: float = Field(1.0, gt=0)
        """Steps of the stage on labelled and reliable scans, relative to the other stages'."""
        reliable_share: float = Field(0.5, gt=0, le=1)
        """Share of the unlabelled scans that counts as reliable."""

    settings: Settings

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return replace(super().demand(settings), averages=4)

    def build(self, problem: Problem) -> None:
        super().build(problem)
        self.snapshots = nn.ModuleList(problem.frozen(copy.deepcopy(self.network)) for _ in range(2))

    def stages(self) -> Sequence[Stage]:
        labelled, last = super().stages()
        return labelled, self.afresh("reliable", self.settings.reliable_stage), last

    def prepare_stage(self, stage: Stage, tools: StageTools) -> None:
        if stage.name == "reliable":
            tools.label(tools.cases, lambda case: self.judged_label(case, tools))
            ranked = sorted(tools.cases, key=lambda case: tools.labels.reliability(case.id) or 0.0, reverse=True)
            count = max(int(self.settings.reliable_share * len(ranked)), 1)
            tools.labels.keep([case.id for case in ranked[:count]])
        elif stage.name == "all":
            reliable = tools.labels_of("reliable")
            kept = set(reliable.kept)
            tools.label(
                tools.cases,
                lambda case: (reliable.read(case.id) if case.id in kept else self.hard_label(case, tools), None),
            )

    def judged_label(self, case: Case, tools: StageTools) -> tuple[np.ndarray, float]:
        """The last weights' label, and its mean Dice with those of the snapshots."""
        last = self.hard_label(case, tools)
        early = [argmax(tools, case, probabilities(snapshot)) for snapshot in self.snapshots]
        return last, float(np.nan_to_num([mean_dice(label, last, self.problem.classes) for label in early]).mean())

    def after_step(self, clock: Clock) -> None:
        super().after_step(clock)
        if clock.stage == "labelled":
            for third, snapshot in enumerate(self.snapshots, start=1):
                if clock.stage_step + 1 == max(round(third * clock.stage_iterations / 3), 1):
                    snapshot.load_state_dict(self.average.state_dict())


def argmax(tools: StageTools, case: Case, function: Predictor) -> np.ndarray:
    """The hard label (X, Y, Z), uint8, of a whole scan."""
    return tools.predict(case, function).argmax(0).to(torch.uint8).cpu().numpy()


def probabilities(network: nn.Module) -> Predictor:
    """What `network` predicts of patches."""
    return lambda image: network(image).float().softmax(1)


def one_hot(label: Tensor, like: Tensor) -> Tensor:
    """(B, *space) → (B, K, *space), as probabilities of the type of `like`."""
    return torch.zeros_like(like).scatter_(1, label[:, None], 1.0)
