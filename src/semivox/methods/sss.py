"""SSS: SAM-2 with prompts that it finds by itself."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from semivox.inference.prompts import BoxStack, PromptRules, bounds, box_maps, find_prompts, tight_boxes
from semivox.inference.windows import Windows
from semivox.losses.predicted_iou import predicted_iou_error
from semivox.losses.pseudo_label import confident_cross_entropy, confident_dice, confident_label
from semivox.losses.reduction import full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.methods.remembering import Recollection, of_all_processes
from semivox.methods.unimatch import occasional_boxes
from semivox.networks.feature_enhancement import enhance
from semivox.networks.memory_bank import MemoryBank
from semivox.networks.network import Network
from semivox.networks.sam2_architecture import MEMORY_WIDTH, map_size
from semivox.networks.sam2_memory import answer
from semivox.networks.sam2_prompts import Prompter, Prompts, class_logits
from semivox.planning.demand import Demand, Views
from semivox.progress import say
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.draws import generator
from semivox.sampling.features import complementary_dropout
from semivox.sampling.intensity import Shares
from semivox.sampling.mixing import cutmix, partners

PATIENCE_STEPS = 200
"""Steps in a row without any prompt after which it is said, once."""
KEPT_BYTES = 2 * 2**30
"""Features of a scan that are kept between the passes of prediction; what is more is computed again."""

DECODER_PASS, DECODER_WEIGHTS = 0.1, 0.12
"""Prompt encoder and mask decoder in units of the network, SAM-2 hiera-small: of what a pass keeps, with boxes of three
classes (of its operations 0.04), and of the weights."""
MEMORY_PASS, MEMORY_WEIGHTS = 0.2, 0.21
"""The same of memory attention and memory encoder (of the operations 0.18)."""

Features = list[Tensor]


class SSS(Method):
    """SSS: semi-supervised SAM-2 with efficient prompting for medical imaging segmentation (Zhu et al., 2025, arXiv
    2506.08949).

    SAM-2 asks for prompts, which unlabelled scans lack. A light *semantic head* on its encoder finds the classes
    roughly; what continues over adjacent slices becomes a box for each slice and class, and SAM-2's mask decoder turns
    boxes into masks z_k: p = softmax([0, z_1, ..., z_K]), z_k = -10 where class k has no box. A teacher, the moving
    average of all that, sees clips of T slices in a weak and in strong views, whose features are enhanced by where both
    agree; its prompted masks of the weak view are the pseudo-labels. The student learns them on the CutMixed strong
    views, prompted by the boxes of the strong views: L = ½ [L_x + ½ (L_s1 + L_s2)] + L_head, L_x and L_head ½ (CE +
    Dice) of the masks and of the semantic head, L_s ½ (cross-entropy over all valid voxels + Dice) of confident labels.

    Only abstract, project page and pipeline figure could be read, and no code is published. The figure gives the order
    of all this, window length 3 and the feature enhancement's place; the formulas, numbers and the semantic head are
    ours, as are an average in place of what the figure calls frozen, and the losses, UniMatch V2's with Dice. Our
    figures are no reproduction of the paper's.

    With `memory`, what the figure draws behind the prompts: a bank of up to 16 memories that sorts itself, as in
    Medical SAM 2 (Zhu et al., 2024). Each slice draws T of them, with replacement, by the softmax of their likeness to
    it, and attends to them before its boxes are answered. The labelled slices of a step come first, then the teacher's
    weak views, then the strong ones; the first two leave a memory of each slice with a box: of its features, of the
    foreground that was found, and of the mean IoU that SAM-2 predicts for its masks, which is then trained as well
    (squared error). Student and teacher have one bank, which is saved with the run. To predict, each volume begins with
    an empty one, and slice after slice reads what those before it left. All this is ours but the rules of the bank.

    A clip without any box is labelled, and learnt, by the semantic head, so that training begins. CutMix moves the
    clean masks with the image; boxes are then drawn tightly around what came of them. A labelled slice is prompted by
    chance with the boxes of its label, each side shifted, or with those that the semantic head finds.

    No prompt from anyone is needed to predict. In a volume boxes come from the semantic head's classes over all slices;
    `predict`, which sees patches one by one, takes each slice for itself.
    """

    class Settings(MethodSettings):
        slices: int = Field(4, ge=1)
        """T: adjacent slices of a clip, which is what a batch counts."""
        strong_views: Literal[1, 2] = 2
        """How many strong views; the paper's figure draws one, a summary of it writes two."""
        enhancement: float = Field(0.5, ge=0, le=1)
        """β: strength of the feature enhancement; 0: none."""
        enhancement_residual: Literal["difference", "sum"] = "difference"
        """Whether F + β (R - F) or, as the paper's figure may be read, F + β R."""
        prompts: bool = True
        """Whether boxes prompt the mask decoder; without them the semantic head alone is trained, and predicts."""
        rules: PromptRules = PromptRules()
        """What is continuous enough to become a box."""
        true_box_probability: float = Field(0.5, ge=0, le=1)
        """Probability with which a labelled slice is prompted with the boxes of its label."""
        box_shift: float = Field(0.1, ge=0, lt=0.5)
        """Largest shift of each side of such a box, as a share of its length."""
        threshold: float = Field(0.95, ge=0, le=1)
        """τ: confidence from which a pseudo-label counts; in a run of few steps little reaches 0.95, lower it there."""
        unlabelled_loss: Literal["dice_ce", "dice", "cross_entropy"] = "dice_ce"
        """dice: over the confident voxels (UniMatch). cross_entropy: divided by all valid voxels (UniMatch V2)."""
        unlabelled_weight: float = Field(1.0, ge=0)
        """Weight of the strong views together."""
        head_weight: float = Field(1.0, ge=0)
        """Weight of the semantic head's supervised term."""
        warmup_share: float = Field(0.05, ge=0, lt=1)
        """Share of the run, its first steps, that trains on labelled scans only; the teacher moves."""
        ramp_share: float = Field(0.0, ge=0, le=1)
        """Share of the run over which a sigmoid ramp brings the unlabelled terms in; 0: at once after that."""
        cutmix_probability: float = Field(0.5, ge=0, le=1)
        """Probability with which a clip's strong view gets a box of its neighbour."""
        box_share: Shares = (0.02, 0.4)
        """Bounds of a CutMix box's share of the patch."""
        complementary_dropout: bool = False
        """Whether the two strong views see complementary halves of the encoder's channels, the same at all scales, in
        half of the clips (UniMatch V2)."""
        memory: bool = False
        """Whether slices remember others by a self-sorting bank (Medical SAM 2)."""
        score_weight: float = Field(1.0, ge=0)
        """With memory: weight of the predicted IoU's squared error."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the teacher; 0.996 in UniMatch V2."""

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.complementary_dropout and self.strong_views != 2:
                raise ValueError("complementary_dropout needs two strong views; set strong_views=2")
            if self.memory and not self.prompts:
                raise ValueError("memory is of prompted masks, there are none; set prompts=true or memory=false")
            return self

    settings: Settings
    requires = frozenset({"features", "maps", "head", "prompter"})
    preferred_network = "sam2"
    paper: ClassVar[str] = "Zhu et al., 2025"

    @classmethod
    def demand(cls, settings: Settings) -> Demand:  # type: ignore[override]
        strong = settings.strong_views
        views = Views(
            labelled=("weak",),
            unlabelled=("weak", *["strong"] * strong),
            clip=settings.slices,
            unlabelled_multiple=2,
        )
        answer_pass = DECODER_PASS * settings.prompts + MEMORY_PASS * settings.memory
        weights = 1 + DECODER_WEIGHTS * settings.prompts + MEMORY_WEIGHTS * settings.memory
        return Demand(
            views=views,
            networks=weights,
            averages=weights,
            labelled_forwards=1 + answer_pass,
            unlabelled_forwards=strong * (1 + answer_pass),
            teacher_forwards=1 + strong + answer_pass,
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        decay = self.settings.average_decay
        self.student = problem.network()
        self.teacher = problem.average(self.student, decay)
        if self.settings.prompts:
            memory = self.settings.memory
            self.prompter = self.student.new_prompter(problem.classes - 1, score=memory, memory=memory)
            self.prompter_average = problem.average(self.prompter, decay)
            if memory:
                self.bank = MemoryBank(MEMORY_WIDTH, self.student.feature_channels[-1], map_size(problem.plan.patch))
        self.kept: dict[str, Tensor] = {}
        self.found = torch.zeros(problem.classes - 1)
        self.steps_without_prompt = 0
        self.has_told = False

    @property
    def _averaged(self) -> Network:
        """The network of the teacher, whose parts are called one by one."""
        return cast(Network, self.teacher.module)

    @property
    def _prompter(self) -> Prompter:
        return cast(Prompter, self.prompter)

    @property
    def _averaged_prompter(self) -> Prompter:
        return cast(Prompter, self.prompter_average.module)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        terms = self._labelled_terms(batch.labelled)
        if clock.progress < self.settings.warmup_share:
            return terms
        return terms | self._unlabelled_terms(batch.unlabelled, clock)

    def _labelled_terms(self, stream: Stream) -> Terms:
        features = self.student.encode(stream.image)
        rough = semantic_logits(self.student, features)
        terms = {"supervised_head": self.settings.head_weight * self.problem.supervised_loss(rough, stream)}
        if self.settings.prompts:
            prompts = self._labelled_prompts(stream, rough)
            masks, scores = self._answer(self._prompter, features, prompts, stream, "labelled", remembers=True)
            terms["supervised"] = self.problem.supervised_loss(class_logits(masks), stream) / 2
            if self.settings.memory:
                assert stream.label is not None
                error = predicted_iou_error(scores, masks, stream.label, stream.known[:, 1:] & prompts.valid)
                terms["supervised_score"] = self.settings.score_weight * error
        return terms

    def _answer(
        self,
        prompter: Prompter,
        features: Features,
        prompts: Prompts,
        stream: Stream,
        name: str,
        remembers: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoU, with what memory there is; `remembers`: what was answered is then put into the bank.
        `name` tells the draws of different views apart."""
        if not self.settings.memory:
            return prompter(features, prompts)
        memories = self.bank.read()
        numbers = [
            generator(seed, "memories", name, row % self.settings.slices).random(self.settings.slices)
            for row, seed in enumerate(stream.seeds)
        ]
        drawn = torch.from_numpy(np.stack(numbers)).to(features[-1].device)
        masks, scores, found, present = answer(prompter, features, prompts, stream.valid, memories, drawn)
        if remembers:
            self.bank.keep(memories.after(of_all_processes(found, present)))
        return masks, scores

    def _labelled_prompts(self, stream: Stream, rough: Tensor) -> Prompts:
        """By chance for each slice, the shifted boxes of its label or those that the semantic head finds."""
        assert stream.label is not None
        settings, classes = self.settings, self.problem.classes
        found = self._find(full_precision(rough.detach()).softmax(1), stream.valid, stream.clip)
        true = tight_boxes(stream.label, classes)
        takes_true, shifts = [], []
        for row, seed in enumerate(stream.seeds):
            random = generator(seed, "labelled boxes", row % settings.slices)
            takes_true.append(random.random() < settings.true_box_probability)
            shifts.append(random.uniform(-settings.box_shift, settings.box_shift, (classes - 1, 4)))
        shift = torch.from_numpy(np.stack(shifts)).to(true.boxes)
        boxes = shifted(true.boxes, shift, stream.label.shape[1:])
        chosen = torch.tensor(takes_true, device=shift.device)[:, None]
        return Prompts(
            torch.where(chosen, true.valid, found.valid),
            boxes=torch.where(chosen[..., None], boxes, found.boxes),
        )

    def _unlabelled_terms(self, stream: Stream, clock: Clock) -> Terms:
        settings = self.settings
        pseudo, prompts = self._taught(stream)
        maps = *confident_label(pseudo, stream.valid, settings.threshold), stream.valid
        neighbour = partners(len(stream), settings.slices, pseudo.device)
        weight = settings.unlabelled_weight * clock.ramp(settings.ramp_share) / 2 / settings.strong_views
        terms: Terms = {}
        cuts = [
            occasional_boxes(stream, settings.cutmix_probability, settings.box_share, draw)
            for draw in range(settings.strong_views)
        ]
        views = [
            self.student.encode(cutmix(view, neighbour, cut)) for view, cut in zip(stream.views[1:], cuts, strict=True)
        ]
        if settings.complementary_dropout:
            views = halved(views, stream.seeds)
        for draw, (features, cut) in enumerate(zip(views, cuts, strict=True)):
            logits = semantic_logits(self.student, features)
            if settings.prompts:
                asked = cutmixed(prompts[draw], neighbour, cut, settings.rules.margin)
                masks, _ = self._answer(self._prompter, features, asked, stream, f"strong {draw}")
                logits = torch.where(in_clips_with(asked.valid, stream.clip), class_logits(masks), logits)
            label, kept, valid = (cutmix(each, neighbour, cut) for each in maps)
            if draw == 0:
                self.note(student=logits, teacher=cutmix(pseudo, neighbour, cut), kept=kept)
            terms[f"strong_{draw + 1}"] = weight * self._unlabelled_loss(logits, label, kept, valid)
        return terms

    def _unlabelled_loss(self, logits: Tensor, label: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
        kind, parts = self.settings.unlabelled_loss, []
        if kind != "dice":
            parts.append(confident_cross_entropy(logits, label, kept, valid))
        if kind != "cross_entropy":
            parts.append(confident_dice(logits, label, kept))
        return torch.stack(parts).mean()

    @torch.no_grad()
    def _taught(self, stream: Stream) -> tuple[Tensor, list[BoxStack]]:
        """The teacher's probabilities of the weak view, and the prompts of each strong view."""
        settings, teacher = self.settings, self._averaged
        features = enhanced(
            [teacher.encode(view) for view in stream.views], settings.enhancement, settings.enhancement_residual
        )
        rough = [full_precision(semantic_logits(teacher, own)).softmax(1) for own in features]
        self.kept = {"semantic_head": share_kept(rough[0], stream.valid, settings.threshold)}
        if not settings.prompts:
            return rough[0], []
        weak, *strong = (self._find(own, stream.valid, stream.clip) for own in rough)
        asked = Prompts(weak.valid, boxes=weak.boxes)
        masks, _ = self._answer(self._averaged_prompter, features[0], asked, stream, "weak", remembers=True)
        prompted = in_clips_with(weak.valid, stream.clip)
        fine = class_logits(masks).softmax(1)
        self.kept["mask_decoder"] = share_kept(fine, stream.valid & prompted[:, 0], settings.threshold)
        self.found = weak.valid.float().mean(0)
        self._tell_if_idle(bool(weak.valid.any()))
        return torch.where(prompted, fine, rough[0]), [completed(own, weak) for own in strong]

    def _find(self, probabilities: Tensor, valid: Tensor, clip: Tensor | None) -> BoxStack:
        """Boxes of a stack of slices from probabilities (T, K + 1, H, W); nothing on padding, where valid is False."""
        confidence, label = probabilities.max(1)
        return find_prompts(label.masked_fill(~valid, 0), confidence, self.problem.classes, self.settings.rules, clip)

    def _tell_if_idle(self, is_prompted: bool) -> None:
        self.steps_without_prompt = 0 if is_prompted else self.steps_without_prompt + 1
        if self.steps_without_prompt == PATIENCE_STEPS and not self.has_told:
            self.has_told = True
            say(
                f"sss: {PATIENCE_STEPS} steps without a prompt, for the semantic head is sure of no foreground that"
                " continues over slices; training goes on with its own labels. If it stays so, lower rules.confidence"
            )

    def predict(self, image: Tensor, task: str) -> Tensor:
        network = self._averaged
        features = network.encode(image)
        rough = full_precision(semantic_logits(network, features)).softmax(1)
        if not self.settings.prompts:
            return rough
        everywhere = torch.ones_like(rough[:, 0], dtype=torch.bool)
        alone = torch.arange(len(image), device=image.device)
        found = self._find(rough, everywhere, alone)
        fine = class_logits(self._new_decoder()(features, Prompts(found.valid, boxes=found.boxes))).softmax(1)
        return torch.where(in_clips_with(found.valid, alone), fine, rough)

    def predict_volume(self, volume: Tensor, windows: Windows, task: str) -> Tensor:
        """The semantic head over all windows, boxes over the whole volume, then the mask decoder over the same windows
        with what of each box lies in them, to whole pixels. Features of the first pass serve the second.

        A volume without any box is as the semantic head says.
        """
        if not self.settings.prompts:
            return super().predict_volume(volume, windows, task)
        return self._prompted(volume, windows, None)

    @property
    def takes_prompts(self) -> bool:
        return self.settings.prompts

    def predict_prompted_volume(self, volume: Tensor, label: Tensor, windows: Windows, task: str) -> Tensor:
        """With the tight boxes of the label in place of those it finds; a volume of background alone as without any."""
        slices = label.movedim(windows.slice_axis, 0)
        return self._prompted(volume, windows, tight_boxes(slices, self.problem.classes))

    def _prompted(self, volume: Tensor, windows: Windows, boxes: BoxStack | None) -> Tensor:
        """The mask decoder's answers to `boxes` of each slice, or to those that the semantic head finds."""
        network, decoder, channels = self._averaged, self._new_decoder(), len(volume)
        kept: deque[Features] = deque()
        bytes_kept = 0

        def rough(patch: Tensor) -> Tensor:
            nonlocal bytes_kept
            features = network.encode(patch)
            bytes_kept += sum(level.nbytes for level in features)
            if bytes_kept <= KEPT_BYTES:
                kept.append(features)
            return full_precision(semantic_logits(network, features)).softmax(1)

        def fine(patch: Tensor) -> Tensor:
            image, maps = patch[:, :channels], patch[:, channels:]
            boxes, valid = bounds(maps > 0)
            # Windows come in the same order again.
            features = kept.popleft() if kept else network.encode(image)
            return class_logits(decoder(features, Prompts(valid, boxes=boxes))).softmax(1)

        first = windows.run(rough, volume)
        slices = full_precision(first.movedim(windows.slice_axis + 1, 0))
        if boxes is None:
            boxes = self._find(slices, torch.ones_like(slices[:, 0], dtype=torch.bool), None)
        if not boxes.valid.any():
            return first
        maps = box_maps(boxes, slices.shape[2:]).movedim(0, windows.slice_axis + 1)
        return windows.run(fine, torch.cat([volume, maps.to(volume)]))

    def _new_decoder(self) -> Callable[[Features, Prompts], Tensor]:
        """Features and prompts of slices → mask logits (B, K, H, W); with memory the slices come in order, and each
        remembers those before it."""
        prompter = self._averaged_prompter
        if self.settings.memory:
            return Recollection(prompter, self.settings.slices)
        return lambda features, prompts: prompter(features, prompts)[0]

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.teacher, self.prompter_average) if self.settings.prompts else (self.teacher,)

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """How much of the weak view each of the teacher's heads is confident of, and the share of slices with a box of
        each class."""
        figures = {f"confidence/{head}": float(share) for head, share in self.kept.items()}
        if not self.settings.prompts:
            return figures
        return figures | {
            f"prompts/share/{name}": float(share) for name, share in zip(class_names[1:], self.found, strict=True)
        }


def semantic_logits(network: Network, features: Features) -> Tensor:
    """Logits (B, K + 1, H, W) of the semantic head."""
    return network.head(network.decode(features)[-1])


def enhanced(views: Sequence[Features], strength: float, residual: Literal["difference", "sum"]) -> list[Features]:
    """Features of the weak and of each strong view, each strong one enhanced with the weak one; that has the mean over
    its pairs. The first feature, the image, is kept as it is."""
    weak, *strong = views
    pairs = [
        [enhance(one, other, strength, residual=residual) for one, other in zip(weak[1:], own[1:], strict=True)]
        for own in strong
    ]
    mean = [torch.stack([one for one, _ in level]).mean(0) for level in zip(*pairs, strict=True)]
    own = [[view[0], *(other for _, other in levels)] for view, levels in zip(strong, pairs, strict=True)]
    return [[weak[0], *mean], *own]


def halved(views: Sequence[Features], seeds: Sequence[int]) -> list[Features]:
    """Features of two strong views with complementary halves of their channels; the first feature, the image, is kept.
    All scales have equally many channels, and the same halves."""
    first, second = views
    pairs = [complementary_dropout(*levels, seeds) for levels in zip(first[1:], second[1:], strict=True)]
    return [[first[0], *(one for one, _ in pairs)], [second[0], *(other for _, other in pairs)]]


def shifted(boxes: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (B, K, 4) of which each side moves by `shift` (B, K, 4) of its length, within a slice of `size` (H, W)."""
    lengths = (boxes[..., 2:] - boxes[..., :2] + 1).repeat(1, 1, 2)
    last = boxes.new_tensor([size[1] - 1, size[0] - 1]).repeat(2)
    return (boxes + shift * lengths).clamp_min(0).minimum(last)


def completed(own: BoxStack, other: BoxStack) -> BoxStack:
    """`own`, and where it has no box of a class in a slice, that of `other` with its mask."""
    missing = torch.cat([torch.zeros_like(own.valid[:, :1]), ~own.valid], 1)
    rows = torch.arange(len(missing), device=missing.device)[:, None, None]
    taken = missing[rows, other.label.long()] & (own.label == 0)
    return BoxStack(
        torch.where(own.valid[..., None], own.boxes, other.boxes),
        own.valid | other.valid,
        torch.where(taken, other.label, own.label),
    )


def cutmixed(stack: BoxStack, neighbour: Tensor, cut: Tensor, margin: float) -> Prompts:
    """Prompts of slices that got a box of their neighbour: around the masks that are mixed alike, whatever continues
    and however small. Slices that got none keep theirs."""
    again = tight_boxes(cutmix(stack.label, neighbour, cut), stack.valid.shape[1] + 1, margin)
    is_cut = cut.flatten(1).any(1)[:, None]
    return Prompts(
        torch.where(is_cut, again.valid, stack.valid),
        boxes=torch.where(is_cut[..., None], again.boxes, stack.boxes),
    )


def in_clips_with(valid: Tensor, clip: Tensor | None) -> Tensor:
    """Which slices are of a clip that has a prompt, (B, 1, 1, 1) bool; valid (B, K), clip (B,)."""
    assert clip is not None
    return torch.isin(clip, clip[valid.any(1)])[:, None, None, None]


def share_kept(probabilities: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Share of the valid voxels of which the probabilities are confident; 0 where none is valid."""
    kept = confident_label(probabilities, valid, threshold)[1]
    return kept.sum() / valid.sum().clamp_min(1)
