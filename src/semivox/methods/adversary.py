"""An adversary: it learns to tell labelled from unlabelled scans by what a segmenter makes of them, and the segmenter
learns to be taken for labelled everywhere."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.reduction import full_precision
from semivox.methods.method import MethodSettings, Optimiser
from semivox.methods.problem import Problem
from semivox.networks.discriminator import Discriminator
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.features import channel_dropout

LABELLED, UNLABELLED = 0, 1
"""The discriminator's two classes."""
DISCRIMINATOR_PASS, DISCRIMINATOR_WEIGHTS = 0.5, 1.3
"""A discriminator in units of a network: of a pass 0.4 of the V-Net's operations and 0.6 of the U-Net's; of the weights
1.2 and 1.5."""


class AdversarySettings(MethodSettings):
    """What methods with an adversary can be told of it."""

    discriminator_learning_rate: float = Field(1e-4, gt=0)
    """Learning rate of the discriminator's Adam (β₁ 0.9, β₂ 0.99, no weight decay); constant."""
    discriminator_dropout: float = Field(0.5, ge=0, lt=1)
    """Probability with which a channel of the discriminator is dropped while it learns."""


class Adversary(nn.Module):
    """A discriminator D on maps of `maps` channels and their images, with its two losses and its optimiser.

    It sees nothing of padding, and a sample counts by its share of voxels that are none.
    """

    def __init__(self, problem: Problem, maps: int, settings: AdversarySettings) -> None:
        super().__init__()
        self.discriminator = Discriminator(problem.dimensions, maps, problem.channels)
        self.settings = settings

    def optimiser(self) -> Optimiser:
        """The discriminator's own, named `discriminator`."""
        return Optimiser(
            "discriminator",
            (self.discriminator,),
            kind="adam",
            learning_rate=self.settings.discriminator_learning_rate,
            schedule="constant",
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )

    def suspicion(self, maps: Tensor, stream: Stream) -> Tensor:
        """CE(D(maps, x), "labelled"): 0 where the maps (B, maps, *space) of `stream` are taken for labelled ones.

        The gradient passes D on its way to the maps, without dropout, and leaves D's weights alone.
        """
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, fixed, visible(maps, stream.image, stream.valid))
        return cross_entropy(logits, origins(LABELLED, stream), share(stream.valid))

    def confusion(self, maps: Tensor, batch: Batch) -> Tensor:
        """CE(D(maps, x), origin), which teaches D. maps: of both streams, the labelled one first, without gradient."""
        labelled, unlabelled = batch.labelled, batch.unlabelled
        image, valid = torch.cat([labelled.image, unlabelled.image]), torch.cat([labelled.valid, unlabelled.valid])
        seeds = (*labelled.seeds, *unlabelled.seeds)
        logits = self.discriminator(
            *visible(maps, image, valid),
            lambda features, level: channel_dropout(features, seeds, self.settings.discriminator_dropout, level),
        )
        origin = torch.cat([origins(LABELLED, labelled), origins(UNLABELLED, unlabelled)])
        return cross_entropy(logits, origin, share(valid))


def adversarial_demand(views: Views) -> Demand:
    """Of a segmenter and its adversary, in turns."""
    return Demand(
        views=views,
        networks=1 + DISCRIMINATOR_WEIGHTS,
        averages=1,
        labelled_forwards=1 + DISCRIMINATOR_PASS,
        unlabelled_forwards=1 + 2 * DISCRIMINATOR_PASS,
        teacher_forwards=2,  # both streams, for the discriminator
    )


def origins(origin: int, stream: Stream) -> Tensor:
    """The same origin for each sample of a stream, (B,)."""
    return torch.full((len(stream),), origin, device=stream.image.device)


def visible(maps: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and images, both 0 on padding."""
    return full_precision(maps) * valid.unsqueeze(1), image * valid.unsqueeze(1)


def share(valid: Tensor) -> Tensor:
    """Each sample's share of voxels that are no padding: (B, *space) bool → (B,)."""
    return valid.flatten(1).float().mean(1)
