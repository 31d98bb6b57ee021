"""VerSemi."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from semivox.losses.foreground import Aggregate, aggregated, any_foreground, foreground_dice
from semivox.losses.reduction import batch_sum
from semivox.methods.bidirectional_copy_paste import pair, refuse_odd_batches
from semivox.methods.clock import Clock
from semivox.methods.dodnet import DoDNet, mean_of_known, organs_known, over_space, own_prompts, targets
from semivox.methods.method import MethodSettings, Stage, Terms
from semivox.methods.problem import Problem
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.draws import generator
from semivox.sampling.mixing import copy_paste, similar_boxes

PRETRAIN, TRAIN = "labelled", "semi_supervised"
PRETRAINING_SIDE, SIDES = 2 / 3, (0.3, 0.6)
"""Of the patch, along each axis, rounded down: what a box takes; in the second stage drawn once for each mix."""
SYNTHETIC = "any foreground"
"""Name of the synthetic task's prompt, the last one."""


class VerSemi(DoDNet):
    """Segment together: a versatile paradigm for semi-supervised medical image segmentation (Zeng et al., IEEE TMI
    2025, arXiv 2311.11686).

    One network for several data sets, each labelled for organs of its own: a head generated from a prompt, one prompt
    for each organ, and one more for the *synthetic task*, any foreground. p(x|k) is a prompt's foreground, D a Dice
    over the whole batch at once, squared denominator, M 0 in a random box and 1 around it, labelled neighbours a and b.
    First, on labelled scans alone, L1 = L_sup + L_syn + L_spec:
    L_sup = D(p(x|own task), y) + CE, on scans as they are;
    L_syn = D(p(x_m|any), y_m) with x_m = x_a M + x_b (1 - M), y_m any foreground of either;
    L_spec = ½ [D(p(x_m|task a), t_a) + D(p(x_m|task b), t_b)], t_a = y_a M, t_b = y_b (1 - M), or y_m if tasks agree.
    Then, with unlabelled scans u pasted over with labelled ones, L2 = L_sup + L_syn + L_cons + L_box:
    L_cons = D(p(x_u|any), max_k p(x_u|k)), the maximum with its gradient; L_box = D over the box of p(x_u|any) and y.
    All prompts of an image share one pass of the network; the released code takes five.

    The full text could not be read: the released code is followed. Where it is at fault (L_box compares each sample in
    the boxes of all, where it mostly has no label) it is mended, and `released_box` brings the fault back.

    A task of several organs is one binary target for each: `Stream.known` says which prompts learn from a sample. A
    mix has one map of classes, y_a outside the box and y_b in it; the target of a prompt is where that map has its
    class, and it counts in a's term where a's task has the organ, in b's where b's has. So an organ that both know is
    taught all over the mix, one that only a knows is background in b's part. With binary tasks that is the above.

    L_sup and prediction are DoDNet's here; the synthetic prompt never predicts.

    Where we differ: neighbours mix, not the first half with the second, so that partners lie on one rank; views are the
    project's weak ones at random places, there bare crops, of unlabelled scans always the centre; the head normalises
    by groups, as DoDNet's, by default (`head_norm`); and, as for every method here, a moving average is evaluated.
    """

    class Settings(DoDNet.Settings):
        pretraining_share: float = Field(0.5, gt=0, le=1)
        """Share of the run that trains on labelled scans only; 1000 of 2000 epochs at most in the released code. 1: the
        first stage alone, which is all that the released command runs."""
        consistency_weight: float = Field(1.0, ge=0)
        """Weight of L_cons; published: 1."""
        ramp_share: float = Field(0.0, ge=0, le=1)
        """Share of the second stage over which a sigmoid ramp brings L_cons in; published: 0. The code computes such a
        ramp w(e), and uses it nowhere."""
        aggregate: Aggregate = "max"
        """A, the probability of any foreground from those of the organs: max_k p_k, their mean, or 1 - Π (1 - p_k)."""
        detach_aggregate: bool = False
        """Whether L_cons teaches the synthetic prompt alone. As released, the winning organ's prompt learns too."""
        released_box: bool = False
        """Whether L_box looks into the boxes of all samples, as by an error of the released code."""
        exclude_other_tasks: float | None = Field(None, gt=0, le=1)
        """τ: background is not taught to the synthetic prompt where the prompt of an organ that the sample's task does
        not annotate is at least so sure. None: it is, as released, although the organ may be there."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",), labelled_multiple=2, unlabelled_multiple=2)
    paper: ClassVar[str] = "Zeng et al., IEEE TMI 2025"
    further_prompts = (SYNTHETIC,)

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # Scans as they are, half as many mixes of neighbours, and mixes with unlabelled scans, one part after another.
        # Of the head nothing but scores waits for the backward pass, as many maps as there are classes.
        return Demand(views=cls.views, averages=1, labelled_forwards=1.5, unlabelled_forwards=1, parts=2)

    def build(self, problem: Problem) -> None:
        refuse_odd_batches("versemi", problem.plan.batch)
        super().build(problem)
        self.shares = torch.zeros(self.organs + 1)

    def stages(self) -> Sequence[Stage]:
        share = self.settings.pretraining_share
        pretraining = Stage(PRETRAIN, share, unlabelled=False)
        return (pretraining,) if share == 1 else (pretraining, Stage(TRAIN, 1 - share))

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        yield {"supervised": self.supervised(batch.labelled)}
        yield self.mixed(*pair(batch.labelled), clock)
        if clock.stage == TRAIN:
            yield self.pasted(batch.unlabelled, batch.labelled, clock)

    def mixed(self, a: Stream, b: Stream, clock: Clock) -> Terms:
        """L_syn, and in the first stage L_spec, of labelled scans with boxes of their neighbours."""
        assert a.label is not None
        assert b.label is not None
        box = self.boxes(a, clock, "labelled")
        label, _ = copy_paste(a.label, b.label, box)
        encoded = self.student.encode(copy_paste(a.image, b.image, box)[0])
        knowns = torch.stack([organs_known(a), organs_known(b)])
        foreground, counted = any_foreground(label)
        threshold = self.settings.exclude_other_tasks
        if threshold is not None:
            with torch.no_grad():
                organs = self.student.scores(encoded, self.prompts[:-1]).sigmoid()
            around, inside = (other_organs(organs, known, threshold) for known in knowns)
            counted = counted & (foreground | ~torch.where(box.unsqueeze(1), inside, around))
        synthetic = self.student.scores(encoded, self.prompts[-1:]).sigmoid()
        terms = {"synthetic": foreground_dice(synthetic, foreground, counted)}
        if clock.stage == PRETRAIN:
            numbers, _ = own_prompts(knowns.any(0))
            target, counted = targets(label, numbers)
            sets = knowns.gather(2, numbers.expand(2, *numbers.shape))
            organs = self.student.scores(encoded, numbers).sigmoid()
            if self.settings.dice_over == "batch":
                dice = foreground_dice(organs, target, counted, sets)
            else:
                of_organs = self.by_organ(sets, numbers)
                dice = mean_of_known(foreground_dice(organs, target, counted, of_organs), of_organs)
            terms["task_specific"] = dice.mean()
        return terms

    def pasted(self, unlabelled: Stream, labelled: Stream, clock: Clock) -> Terms:
        """L_cons and L_box of unlabelled scans with boxes of labelled ones."""
        assert labelled.label is not None
        box = self.boxes(unlabelled, clock, "unlabelled")
        image, _ = copy_paste(unlabelled.image, labelled.image, box)
        valid, _ = copy_paste(unlabelled.valid, labelled.valid, box)
        probabilities = self.student(image).sigmoid()
        organs, synthetic = probabilities.split([self.organs, 1], dim=1)
        whole = aggregated(organs, self.settings.aggregate)
        whole = whole.detach() if self.settings.detach_aggregate else whole
        self.note_shares(probabilities, valid)

        foreground, counted = any_foreground(labelled.label)
        threshold = self.settings.exclude_other_tasks
        if threshold is not None:
            counted = counted & (foreground | ~other_organs(organs, organs_known(labelled), threshold))
        # The released code multiplies (B, *space) with boxes of (B, 1, *space): each sample in the box of every one.
        boxes = batch_sum(box.float().sum(0, keepdim=True)) if self.settings.released_box else box
        ramp = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "consistency": ramp * foreground_dice(synthetic, whole, valid.unsqueeze(1)),
            "box": foreground_dice(synthetic, foreground, counted * boxes.unsqueeze(1)),
        }

    def boxes(self, stream: Stream, clock: Clock, use: str) -> Tensor:
        """1 - M for each sample (B, *space) bool; `use` tells the two mixes of a step apart."""
        side = PRETRAINING_SIDE if clock.stage == PRETRAIN else generator(clock.seed, "side", use).uniform(*SIDES)
        return similar_boxes(stream.image.shape[2:], stream.seeds, side, device=stream.image.device, far_border=False)

    @torch.no_grad()
    def note_shares(self, probabilities: Tensor, valid: Tensor) -> None:
        """Remembers each prompt's mean foreground (B, P, *space) over what is no padding."""
        weight = valid.unsqueeze(1).float()
        sums = batch_sum(torch.cat([(probabilities * weight).flatten(2).sum((0, 2)), weight.sum().view(1)]))
        self.shares = sums[:-1] / sums[-1].clamp_min(1)

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """As of DoDNet, and in the second stage of every prompt the share of foreground in what it sees there."""
        prompts = (*class_names[1:], SYNTHETIC)
        shares = {f"prompt/share/{name}": float(value) for name, value in zip(prompts, self.shares, strict=True)}
        return super().diagnostics(class_names) | shares


def other_organs(probabilities: Tensor, known: Tensor, threshold: float) -> Tensor:
    """Where the prompt of an organ that is not known is at least so sure of it, (B, 1, *space) bool.

    probabilities: (B, K - 1, *space). known: (B, K - 1) bool.
    """
    return ((probabilities >= threshold) & over_space(~known, probabilities)).any(1, keepdim=True)
