"""Cross-consistency training (CCT)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.losses.consistency import mean_softmax_mse
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.network import Branch
from semivox.planning.demand import DECODER_PASS, DECODER_WEIGHTS, Demand, Views
from semivox.sampling.batch import Batch
from semivox.sampling.features import dropout, feature_drop, feature_noise

Perturbation = Literal["noise", "dropout", "drop"]

PERTURBATIONS: dict[Perturbation, Callable[..., Tensor]] = {
    "noise": feature_noise,
    "dropout": partial(dropout, probability=0.3),
    "drop": feature_drop,
}
"""noise: f (1 + n), n ~ U(-0.3, 0.3). dropout: 0.3 of all values. drop: the most active places, from U(0.7, 0.9) of the
largest mean over channels on."""


class CrossConsistency(Method):
    """Semi-supervised semantic segmentation with cross-consistency training (Ouali et al., CVPR 2020).

    One encoder, a main decoder, and K auxiliary decoders that see its features disturbed, each in its own way and on
    all levels; on unlabelled scans they must agree with the main one: L = mean_{main, k} L_sup + λ(t) · mean_k
    MSE(p_main(x_u), p_k(x_u)).

    Paper and public medical script (SSL4MIS) are two methods; by default the script's, with K = 3, λ_max = 0.1, the
    auxiliary decoders supervised too, and a gradient into the main one. `auxiliary_supervision: false` and `detach:
    true` are the paper's: there auxiliary decoders, 30 of seven kinds, learn from the main one alone, whose prediction
    is a fixed target, with weight 30 after a tenth of the run. Its four other kinds (adversarial, cut-out and masking
    by context or object) are not here. Noise is drawn per sample, in both once for the batch; in the script features
    are disturbed at evaluation too, here in training only. What is evaluated is a moving average of encoder and main
    decoder.
    """

    class Settings(MethodSettings):
        perturbations: tuple[Perturbation, ...] = Field(("noise", "dropout", "drop"), min_length=1)
        """One for each of the K auxiliary decoders; a kind may come several times."""
        auxiliary_supervision: bool = True
        """Whether auxiliary decoders learn from labels too, on disturbed features (public script); paper: false."""
        detach: bool = False
        """Whether the main decoder's prediction is a target without gradient (paper)."""
        consistency_weight: float = Field(0.1, ge=0)
        """λ_max: weight of the consistency term once the ramp is at its top."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/t_max: share of the run over which the sigmoid ramp λ(t) grows."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    requires = frozenset({"features", "decoder", "head"})
    paper: ClassVar[str] = "Ouali et al., CVPR 2020"

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, CrossConsistency.Settings)
        auxiliary = len(settings.perturbations)
        return Demand(
            views=cls.views,
            networks=1 + auxiliary * DECODER_WEIGHTS,
            averages=1,
            labelled_forwards=1 + auxiliary * DECODER_PASS * settings.auxiliary_supervision,
            unlabelled_forwards=1 + auxiliary * DECODER_PASS,
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()
        self.auxiliary = nn.ModuleList(Branch(self.network) for _ in self.settings.perturbations)
        self.average = problem.average(self.network, self.settings.average_decay)

    def losses(self, batch: Batch, clock: Clock) -> Terms:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        sizes = [len(labelled), len(unlabelled)]
        features = self.network.encode(torch.cat([labelled.image, unlabelled.image]))
        supervised, main = self.network.head(self.network.decode(features)[-1]).split(sizes)
        all_supervised = [self.problem.supervised_loss(supervised, labelled)]
        if self.settings.auxiliary_supervision:
            logits = [one.split(sizes) for one in self.disturbed(features, labelled.seeds + unlabelled.seeds)]
            all_supervised += [self.problem.supervised_loss(one, labelled) for one, _ in logits]
            auxiliary = [one for _, one in logits]
        else:
            auxiliary = self.disturbed([level[len(labelled) :] for level in features], unlabelled.seeds)
        self.note(student=auxiliary[0], teacher=main)
        target = main.detach() if self.settings.detach else main
        weight = self.settings.consistency_weight * clock.ramp(self.settings.ramp_share)
        return {
            "supervised": torch.stack(all_supervised).mean(),
            "consistency": weight * mean_softmax_mse(auxiliary, target, unlabelled.valid),
        }

    def disturbed(self, features: Sequence[Tensor], seeds: tuple[int, ...]) -> list[Tensor]:
        """Logits of each auxiliary decoder on features that are disturbed in its way, on every level anew."""
        logits = []
        for number, (kind, branch) in enumerate(zip(self.settings.perturbations, self.auxiliary, strict=True)):
            draws = range(number * len(features), (number + 1) * len(features))
            perturb = PERTURBATIONS[kind]
            logits.append(branch([perturb(one, seeds, draw=draw) for one, draw in zip(features, draws, strict=True)]))
        return logits

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)
