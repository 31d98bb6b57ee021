"""Deep co-training of two networks."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.divergence import jensen_shannon, kl_divergence
from semivox.methods.clock import Clock
from semivox.methods.cross_pseudo_supervision import hard_labels
from semivox.methods.method import MethodSettings, Terms
from semivox.methods.two_networks import TwoNetworks
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch


class DeepCoTraining(TwoNetworks):
    """Deep co-training for semi-supervised image recognition (Qiao et al., ECCV 2018), in the two-network form for
    segmentation (Peng et al., Pattern Recognition 2020).

    Two networks of different initialisation agree on unlabelled scans, and are kept different, so that they have
    something to tell each other: each learns, where the *other* is fooled, what the other says of the clean scan. L =
    Σ_i L_sup(i) + λ_cot(t) · JS(p_1(x_u), p_2(x_u)) + λ_dif(t) · ½ [KL(p_2(x) ‖ p_1(x + r_2)) + KL(p_1(x) ‖ p_2(x +
    r_1))] over labelled and unlabelled x, r_i = ε sign ∇_x ℓ_i, ℓ_i network i's supervised loss on labelled scans and
    its cross-entropy to its own argmax on unlabelled ones. The clean prediction in KL carries no gradient.

    Peng et al. have the KL (the original a cross-entropy, larger by a constant) and its mean of two; per step and
    network they draw either a labelled batch or an unlabelled one, with a virtual adversarial direction there. Here
    both streams take part at every step by the sign of the gradient alone, as in the original, whose unlabelled labels
    are the network's own too. The gradient is taken of the pass in train mode that is made anyway; they make another,
    in eval mode. Weights and ramp are the original's (10, 0.5, 80 of 600 epochs), ε = 0.05 is Peng et al.'s (0.02 in
    the original). What predicts is the mean of moving averages of both networks.

    The benchmark SSL4MIS gives the name to something else, which is `deep_co_training_rotation` here.
    """

    class Settings(TwoNetworks.Settings):
        agreement_weight: float = Field(10.0, ge=0)
        """λ_cot: weight of the agreement once the ramp is at its top."""
        difference_weight: float = Field(0.5, ge=0)
        """λ_dif: weight of the view difference once the ramp is at its top."""
        ramp_share: float = Field(0.13, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramps λ(t) grow."""
        perturbation: float = Field(0.05, gt=0)
        """ε: by how much an adversarial scan differs in each voxel, in units of the prepared intensities."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    paper: ClassVar[str] = "Qiao et al., ECCV 2018"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        # A gradient to both streams' images alone costs each network what a pass without gradient does.
        return Demand(
            views=cls.views, networks=2, averages=2, labelled_forwards=4, unlabelled_forwards=4, teacher_forwards=4
        )

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        images = torch.cat([labelled.image, unlabelled.image]).requires_grad_()
        valid = torch.cat([labelled.valid, unlabelled.valid])
        logits_1, logits_2 = self.first(images), self.second(images)
        (supervised_1, adversarial_1), (supervised_2, adversarial_2) = (
            self.supervised_and_fooled(images, valid, logits, batch) for logits in (logits_1, logits_2)
        )
        differences = (
            kl_divergence(logits_2.detach(), self.first(adversarial_2), valid),
            kl_divergence(logits_1.detach(), self.second(adversarial_1), valid),
        )
        student, teacher = logits_1[len(labelled) :], logits_2[len(labelled) :]
        self.note(student=student, teacher=teacher)
        ramp = clock.ramp(self.settings.ramp_share)
        return {
            "supervised_1": supervised_1,
            "supervised_2": supervised_2,
            "agreement": ramp * self.settings.agreement_weight * jensen_shannon(student, teacher, unlabelled.valid),
            "difference_1": ramp * self.settings.difference_weight / 2 * differences[0],
            "difference_2": ramp * self.settings.difference_weight / 2 * differences[1],
        }

    def supervised_and_fooled(
        self, images: Tensor, valid: Tensor, logits: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """The supervised loss of a network whose `logits` (B, K, *space) of the `images` are given, and the images
        moved one step against it (B, C, *space), without gradient; padding stays as it is."""
        of_labelled, of_unlabelled = logits.split([len(batch.labelled), len(batch.unlabelled)])
        supervised = self.problem.supervised_loss(of_labelled, batch.labelled)
        own = cross_entropy(of_unlabelled, hard_labels(of_unlabelled, batch.unlabelled.valid))
        # A sum over voxels has the mean's sign, and is not lost in half precision.
        (gradient,) = torch.autograd.grad((supervised + own) * images[:, 0].numel(), images, retain_graph=True)
        return supervised, images.detach() + self.settings.perturbation * gradient.sign() * valid.unsqueeze(1)
