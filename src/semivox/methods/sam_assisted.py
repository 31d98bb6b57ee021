"""Segment anything model-enhanced consistency (SemiSAM, SemiSAM+)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from semivox.inference.clicks import NONE, next_clicks
from semivox.losses.consistency import probability_mse
from semivox.losses.reduction import full_precision
from semivox.losses.schedules import sigmoid_ramp
from semivox.losses.uncertainty import steadiness
from semivox.methods.clock import Clock
from semivox.methods.mean_teacher import MeanTeacher
from semivox.methods.method import MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.sam2 import Sam2Settings
from semivox.networks.sam2_frozen import FrozenSam2
from semivox.networks.sam2_prompts import Prompts, class_logits
from semivox.planning.demand import Demand
from semivox.sampling.batch import Stream
from semivox.settings import Part

SAM_PASS, SAM_WEIGHTS = 2, 10
"""SAM-2 hiera-small in units of a network: of a pass 3.8 of the U-Net's operations, and on eight slices 0.6 of
V-Net's; of the weights 21 and 4."""
MASK_LOGIT = 10.0
"""Of a mask prompt: as sure as SAM-2 is of its own."""


class SamSettings(Part):
    """Which SAM-2 is asked."""

    size: Literal["miniature", "tiny", "small", "base_plus", "large"] = "small"
    """SAM-2's own sizes; miniature: for tests."""
    weights: str | None = None
    """Folder with config.json and model.safetensors, or id of the hub that was fetched before; null: random weights,
    which tell nothing."""
    intensities: Literal["standardised", "unit"] = "standardised"
    """Of prepared scans: mean 0 and deviation 1 (zscore, ct), or [0, 1] (minmax, range)."""


class SamAssisted(MeanTeacher):
    """SemiSAM: enhancing semi-supervised medical image segmentation via SAM-assisted consistency regularization (Zhang
    et al., 2023), and SemiSAM+ (Medical Image Analysis 2025).

    A mean teacher whose student also follows a frozen model that segments whatever it is pointed at: L = L_MT +
    κ λ(t_max - t) MSE(p_θ(x_u), SAM(x_u, prompts)), λ the sigmoid ramp read backwards, so that the term fades as the
    student learns. The prompts are the student's own: of each foreground class in its argmax, clicks, one after the
    other at the centre of the largest region that SAM still has otherwise, or the argmax itself as a mask. Where the
    student finds nothing there is no prompt, and no term. No label of an unlabelled scan has a part in this.

    SAM is SAM-2, on slices across the plan's coarse axis, or else the last one; the paper has a model of volumes
    (SAM-Med3D) on whole patches. Of each sample at most `slices` of those with foreground are shown to it, evenly
    spread, and the mean is over their voxels. With K classes its masks, one per class, compete in a softmax with a
    background of logit 0. The public LA script clicks by the true labels, unlabelled samples' too: not here. In the
    public SemiSAM+ the term is divided by itself, and so a constant, as with `sam_weight: 0`; `weighting: steadiness`
    weighs each voxel by how little its probability varies from click to click, which is what the text says. SAM needs
    the extra `sam`, is read from disk and is neither saved nor needed where the model predicts.
    """

    class Settings(MeanTeacher.Settings):
        sam: SamSettings = SamSettings()
        sam_weight: float = Field(0.5, ge=0)
        """κ: weight of SAM's term beside the mean teacher's; 0.1 in SemiSAM+."""
        prompt: Literal["clicks", "mask"] = "clicks"
        """What of the student's argmax SAM is shown."""
        clicks: int = Field(10, ge=1)
        """Clicks for each class and slice, at most."""
        slices: int = Field(8, ge=1)
        """Slices of a 3-D patch that SAM sees, at most."""
        weighting: Literal["none", "steadiness"] = "none"
        """none: every voxel counts alike (SemiSAM). steadiness: the less, the more it changes from click to click
        (SemiSAM+)."""

    settings: Settings
    paper: ClassVar[str] = "Zhang et al., 2023"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        return Demand(views=cls.views, averages=1 + SAM_WEIGHTS, unlabelled_forwards=1, teacher_forwards=1 + SAM_PASS)

    def build(self, problem: Problem) -> None:
        super().build(problem)
        asked = self.settings.sam
        self.sam = FrozenSam2(
            problem.channels, Sam2Settings(size=asked.size, weights=asked.weights, intensities=asked.intensities)
        )
        if problem.pretrained:
            self.sam.refuse_absent_files()

    def further_terms(self, student: Tensor, stream: Stream, clock: Clock) -> Terms:
        settings = self.settings
        target, weight = self.asked(stream, full_precision(student.detach()).softmax(1))
        ramp = sigmoid_ramp(1 - clock.stage_progress, settings.ramp_share)
        mse = probability_mse(full_precision(student).softmax(1), target, weight)
        return {"sam": settings.sam_weight * settings.consistency_weight * ramp * mse}

    @torch.no_grad()
    def asked(self, stream: Stream, student: Tensor) -> tuple[Tensor, Tensor]:
        """SAM's probabilities (B, K, *space), and what each voxel counts (B, *space): 0 where SAM was not asked.

        student: probabilities (B, K, *space), of which the prompts are made, and which stand where SAM was not asked.
        """
        label = student.argmax(1).masked_fill(~stream.valid, 0)
        wanted = torch.stack([label == k for k in range(1, self.problem.classes)], 1)
        images, target, masks = (self.as_slices(x).clone() for x in (stream.image, student, wanted))
        weight = torch.zeros_like(target[:, :, 0])
        rows = self.chosen(masks.flatten(2).any(2))
        if len(rows):
            rounds = self.rounds(images[rows.unbind(1)], masks[rows.unbind(1)])
            target[rows.unbind(1)] = rounds[-1].to(target)
            steady = (
                steadiness(rounds) if self.settings.weighting == "steadiness" else torch.ones_like(rounds[-1, :, 0])
            )
            weight[rows.unbind(1)] = steady.to(weight)
        return self.as_patches(target), self.as_patches(weight.unsqueeze(2)).squeeze(1) * stream.valid

    def chosen(self, has_foreground: Tensor) -> Tensor:
        """Sample and slice (N, 2) of those that SAM sees, evenly spread over (B, S) bool."""
        rows = []
        for sample, has in enumerate(has_foreground):
            (found,) = has.nonzero(as_tuple=True)
            count = min(len(found), self.settings.slices)
            # The middles of `count` equal parts.
            places = [(2 * part + 1) * len(found) // (2 * count) for part in range(count)]
            rows += [(sample, int(found[place])) for place in places]
        return torch.tensor(rows, dtype=torch.long, device=has_foreground.device).view(-1, 2)

    def rounds(self, images: Tensor, wanted: Tensor) -> Tensor:
        """SAM's class probabilities after each click (R, N, K, H, W); images (N, C, H, W), wanted (N, K - 1, H, W)."""
        features = self.sam.encode(images)
        has = wanted.flatten(2).any(2)
        if self.settings.prompt == "mask":
            guess = MASK_LOGIT * (2 * wanted.float() - 1)
            return class_logits(self.sam.masks(features, Prompts(has, masks=guess))).softmax(1).unsqueeze(0)
        found = torch.zeros_like(wanted)
        points: list[Tensor] = []
        kinds: list[Tensor] = []
        said: list[Tensor] = []
        for _ in range(self.settings.clicks):
            place, kind = next_clicks(wanted, found)
            if said and (kind == NONE).all():
                break
            points.append(place)
            kinds.append(kind)
            prompts = Prompts(has, points=torch.stack(points, 2), point_kinds=torch.stack(kinds, 2))
            masks = self.sam.masks(features, prompts)
            found = masks > 0
            said.append(class_logits(masks).softmax(1))
        return torch.stack(said)

    def as_slices(self, x: Tensor) -> Tensor:
        """(B, C, *space) → (B, S, C, H, W); one slice of a picture."""
        return x.unsqueeze(1) if self.problem.dimensions == 2 else x.movedim(2 + self.across, 1)

    def as_patches(self, x: Tensor) -> Tensor:
        """The inverse of `as_slices`."""
        return x.squeeze(1) if self.problem.dimensions == 2 else x.movedim(1, 2 + self.across)

    @property
    def across(self) -> int:
        """The axis of a 3-D patch across which slices lie."""
        coarse = self.problem.plan.preparation.coarse_axis
        return 2 if coarse is None else coarse
