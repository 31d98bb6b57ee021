"""Perturbed and strict mean teachers (PS-MT)."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.divergence import kl_divergence
from semivox.losses.pseudo_label import confidence_weighted_cross_entropy, confident_label
from semivox.losses.reduction import full_precision
from semivox.losses.virtual_adversarial import adversarial_direction
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Optimiser, Stage, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import in_evaluation_mode
from semivox.networks.network import Network
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.draws import normal, seed_of
from semivox.sampling.mixing import boxes, cutmix, partners

OWN_DECODER_PASS = 0.6
"""A network's own decoder in units of the network: of a pass 0.57 of V-Net's operations, 0.64 of the 2-D U-Net's."""


class PerturbedStrictMeanTeacher(Method):
    """Perturbed and strict mean teachers for semi-supervised semantic segmentation (PS-MT, Liu et al., CVPR 2022).

    Two teachers, averages of one student that move in turns, label the weak view together: z̃ = ½ (z₁ + z₂). The
    student sees the strong view with a CutMix box of its neighbour, and its features are changed by ε d, the direction
    in which the *teachers'* decoders are misled most; also on labelled scans. Confident labels count by their
    confidence: L = L_sup + λ(t) · mean over max p̃ ≥ τ of max p̃ · CE(z, argmax p̃). Before that, all three networks are
    trained on the labels apart from one another, so that the teachers begin differently.

    Features are changed on the coarsest level alone: the paper's network has one level, and all of a U-Net in 3-D would
    not fit. A turn is an epoch there, a number of steps here. The teacher that does not move is there held to its seven
    best classes, which means nothing for seven classes or fewer and is left out. There d is looked for ξ = 1e-6 away,
    a difference that float32 rounds off: measured by us, what is found has nothing to do with the direction in double
    precision, while ξ = 2 gives it within 3 % in float32 and within 10 % in bfloat16. L_sup is that of every method
    (there cross-entropy). The teachers are copies of an untrained student until the warm-up is over, and so is what is
    evaluated, the mean of their logits.
    """

    class Settings(MethodSettings):
        unlabelled_weight: float = Field(1.5, ge=0)
        """λ_max: weight of the unlabelled term once the ramp is at its top; 0.06 to 0.6 for labels of high quality."""
        ramp_share: float = Field(0.4, ge=0, le=1)
        """Share of the second stage over which the sigmoid ramp λ(t) grows."""
        threshold: float = Field(0.6, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts."""
        radius: float = Field(2.0, ge=0)
        """ε: norm of the change of the coarsest features over a whole sample."""
        xi: float = Field(2.0, gt=0)
        """ξ: how far from the features the power step takes its gradient; 1e-6 in the paper."""
        turn_steps: int = Field(38, ge=1)
        """Steps for which one teacher moves before it is the other's turn; an epoch of 76 unlabelled scans of LA."""
        warm_up_share: float = Field(0.0625, gt=0, lt=1)
        """Share of the run for which the three networks are trained on labels alone; 5 of 80 epochs."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the teachers; 0.996 in the paper."""
        teacher_mode: Literal["train", "eval"] = "eval"
        """eval: the teachers normalise with averaged statistics (public code). train: with their batch, with
        dropout."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"), unlabelled_multiple=2)
    requires = frozenset({"features"})
    paper: ClassVar[str] = "Liu et al., CVPR 2022"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Per teacher: what its decoder makes of the clean features, of the changed ones, and their gradient, which to
        # features alone costs what a pass does.
        search = 2 * 3 * OWN_DECODER_PASS
        return Demand(
            views=cls.views,
            networks=3,
            averages=2,
            unlabelled_forwards=1,
            teacher_forwards=2 + 2 * search,  # the labelled stream's searches counted too
            parts=2,
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.student = problem.network()
        mode, decay = self.settings.teacher_mode, self.settings.average_decay
        self.first_teacher = problem.average(self.student, decay, mode=mode)
        self.second_teacher = problem.average(self.student, decay, mode=mode)
        self.beginners = nn.ModuleList([problem.network(), problem.network()])
        """What the teachers are when the warm-up is over."""

    def stages(self) -> Sequence[Stage]:
        beginnings = {"first_teacher.module": "beginners.0", "second_teacher.module": "beginners.1"}
        share = self.settings.warm_up_share
        return Stage("warm_up", share, unlabelled=False), Stage("train", 1 - share, initialise=beginnings)

    def optimisers(self) -> Sequence[Optimiser]:
        return Optimiser("main", (self.student,)), Optimiser("beginners", (self.beginners,))

    def steps(self, batch: Batch, clock: Clock) -> Iterator[tuple[str, Callable[[], Terms | Iterator[Terms]]]]:
        if clock.stage == "warm_up":
            yield "main", lambda: self.supervised_terms(batch, supervised=self.student)
            first, second = self.beginners
            yield "beginners", lambda: self.supervised_terms(batch, supervised_first=first, supervised_second=second)
        else:
            yield "main", lambda: self.parts(batch, clock)

    def supervised_terms(self, batch: Batch, **networks: nn.Module) -> Terms:
        """What each network has to learn from labels alone."""
        labelled = batch.labelled
        return {
            name: self.problem.supervised_loss(network(labelled.image), labelled) for name, network in networks.items()
        }

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        labelled = batch.labelled
        # Apart, so that strong views do not spoil the labelled samples' batch-norm statistics.
        logits = self.misled(labelled.image, labelled.valid, labelled)
        yield {"supervised": self.problem.supervised_loss(logits, labelled)}
        yield {"strong": self.unlabelled_loss(batch.unlabelled, clock)}

    def unlabelled_loss(self, stream: Stream, clock: Clock) -> Tensor:
        """The confidence-weighted term of the unlabelled stream, weighted."""
        weak, strong = stream.views
        teachers = self.mean_logits(weak)
        box = boxes(weak.shape[2:], stream.seeds, lambda random: random.beta(4, 4), stretch=1, device=weak.device)
        neighbour = partners(len(weak), device=weak.device)
        strong, valid, teachers = (cutmix(each, neighbour, box) for each in (strong, stream.valid, teachers))
        confidence = teachers.softmax(1)
        pseudo, kept = confident_label(confidence, valid, self.settings.threshold)

        student = self.misled(strong, valid, stream)
        self.note(student=student, teacher=teachers, kept=kept)
        weight = self.settings.unlabelled_weight * clock.ramp(self.settings.ramp_share)
        return weight * confidence_weighted_cross_entropy(student, pseudo, confidence.amax(1), kept)

    def misled(self, image: Tensor, valid: Tensor, stream: Stream) -> Tensor:
        """The student's logits of images (B, C, *space) made of `stream`, its coarsest features changed."""
        features = self.student.encode(image)
        clean = [level.detach() for level in features]
        seeds = tuple(seed_of(seed, "direction") for seed in stream.seeds)
        with in_evaluation_mode(self.first_teacher.module), in_evaluation_mode(self.second_teacher.module):
            with torch.no_grad():
                target = self.decoded(clean)
            direction = adversarial_direction(
                lambda change: kl_divergence(target, self.decoded([*clean[:-1], clean[-1] + change]), valid),
                normal(tuple(clean[-1].shape[1:]), seeds, image.device),
                self.settings.xi,
            )
        changed = features[-1] + self.settings.radius * direction
        return self.student.head(self.student.decode([*features[:-1], changed])[-1])

    def decoded(self, features: list[Tensor]) -> Tensor:
        """The mean of the logits that the teachers' decoders make of features."""
        logits = []
        for network in (self.first_teacher.module, self.second_teacher.module):
            assert isinstance(network, Network)
            logits.append(full_precision(network.head(network.decode(features)[-1])))
        return torch.stack(logits).mean(0)

    def mean_logits(self, image: Tensor) -> Tensor:
        """The mean of the teachers' logits, float32."""
        return (full_precision(self.first_teacher(image)) + full_precision(self.second_teacher(image))) / 2

    def after_step(self, clock: Clock) -> None:
        """Moves the teacher whose turn it is; in the warm-up there are none."""
        if clock.stage == "train":
            turn = clock.stage_step // self.settings.turn_steps
            (self.first_teacher, self.second_teacher)[turn % 2].update()

    def predict(self, image: Tensor, task: str) -> Tensor:
        return self.mean_logits(image).softmax(1)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return self.first_teacher, self.second_teacher
