"""Aggregating & Decoupling (A&D)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semivox.data.labels import IGNORE
from semivox.losses.dice_ce import dice_ce
from semivox.losses.difficulty import Difficulty
from semivox.losses.diffusion import STEPS, clean_map, ddim, fused_scores, gumbel_softmax, q_sample
from semivox.losses.reduction import batch_mean, full_precision
from semivox.methods.clock import Clock
from semivox.methods.method import Method, MethodSettings, Terms
from semivox.methods.problem import Problem
from semivox.networks.layers import running_statistics_kept
from semivox.networks.network import Branch
from semivox.planning.demand import Demand, Views
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.draws import generator, gumbel, normal, seed_of

NETWORKS = 1.5
"""Trained weights in units of what predicts: D_ψ is 0.22 of it, the denoiser with its time layers and D_ξ 0.28."""


class AggregatingDecoupling(Method):
    """Towards generic semi-supervised framework for volumetric medical image segmentation (Wang & Li, NeurIPS 2023).

    *Aggregating*: one encoder sees labelled and unlabelled scans of all domains, and serves images and a diffusion that
    restores label maps from noise. *Decoupling*: decoders ξ (diffusion) and ψ learn from labels alone, a third one, θ,
    from pseudo-labels alone, and it predicts. L = L_deno + L_diff + μ(t) L_u, each DiceCE:
    L_deno = DiceCE(p_ξ(x_l, y_t, t), y) with y_t = √ᾱ_t (2 onehot(y) - 1) + √(1 - ᾱ_t) ε at a random step t;
    L_diff = DiceCE_w(p_ψ(x_l), y) with w from how far p_ξ has each class learnt, so that hard and rare ones count more;
    L_u = DiceCE(p_θ(x_u), ŷ) with ŷ = argmax G(GumbelSoftmax(z; τ)) + softmax(q_ψ), z sampled by ten DDIM steps, G a
    Gaussian. And θ ← m θ + (1 - m) (ξ + ψ) / 2 at every step. Prediction is one pass of θ: no diffusion.

    The released code is followed, also where the authors' own tracker tells of trouble; repairs are settings, and off.
    Its batch norm mixes statistics of eleven passes of noisy label maps with those of three of images
    (`sampling_mode`); a sample clamped to ±1 gives its class at most e / (e + (K - 1) / e) once the Gumbel noise is on
    it, 0.36 of 14 classes (`logit_scale`, `temperature`, `gumbel_noise`, `clean_estimate`); weights have no bound
    (`normalise_weights`). Streams and views pass one by one as there, as every pass has batch statistics of its own
    (and with several processes, of its process).

    Where we differ: DiceCE is shifted so that 0 is its best value; ramps follow steps, not epochs, whose count lags by
    one there; θ is mixed after a step, not before the next; the views are the project's, there three of six transforms;
    and, as for every method here, a moving average of the weights is evaluated.
    """

    class Settings(MethodSettings):
        unlabelled_weight: float = Field(10.0, ge=0)
        """μ_max: weight of the pseudo-labels' term once the ramp is at its top; 10 in the published command."""
        ramp_share: float = Field(1.0, ge=0, le=1)
        """R/E: share of the run over which the sigmoid ramp μ(t) grows; 300 of 300 epochs, 100 on M&Ms."""
        mixing_decay: float = Field(0.99, ge=0, le=1)
        """m: what θ's decoder keeps of itself at each step; the rest is the mean of the other two."""
        difficulty_window: int = Field(50, ge=1)
        """τ_w: steps over which learning and unlearning of a class are averaged."""
        normalise_weights: bool = False
        """Whether w is divided by its largest value before it is multiplied with K, as in the authors' DHC."""
        sampling_steps: int = Field(10, ge=1, le=STEPS)
        """DDIM steps from noise to a label map."""
        sampling_mode: Literal["train", "train_apart", "eval"] = "train"
        """train: DDIM passes with dropout and batch statistics (code). train_apart: so too, but the running statistics
        do not see them. eval: without dropout, with running statistics."""
        clean_estimate: Literal["clamped_logits", "softmax"] = "clamped_logits"
        """x̂_0 of a DDIM pass: logits clamped to [-1, 1] (code), or 2 softmax - 1."""
        logit_scale: float = Field(1.0, gt=0)
        """What the sampled map, in [-1, 1], is multiplied with before Gumbel noise and softmax."""
        gumbel_noise: bool = True
        """Whether Gumbel noise is added to the sampled map."""
        temperature: float = Field(1.0, gt=0)
        """τ: of the Gumbel softmax."""
        average_decay: float = Field(0.99, ge=0, lt=1)
        """α: decay of the evaluated average of the weights."""

    settings: Settings
    views = Views(labelled=("weak",), unlabelled=("weak",))
    requires = frozenset({"features", "decoder", "head", "diffusion"})
    preferred_network = "diffusion_vnet"
    paper: ClassVar[str] = "Wang & Li, NeurIPS 2023"
    covers: ClassVar[tuple[str, ...]] = ("SSL", "imbalanced SSL", "UDA", "SemiDG", "partial labels")
    weighs_classes: ClassVar[bool] = True

    @classmethod
    def demand(cls, settings: MethodSettings) -> Demand:
        assert isinstance(settings, cls.Settings)
        return Demand(
            views=cls.views,
            networks=NETWORKS,
            averages=1,
            labelled_forwards=2,
            unlabelled_forwards=1,
            teacher_forwards=settings.sampling_steps + 1,
            parts=3,
        )

    def build(self, problem: Problem) -> None:
        self.problem = problem
        self.network = problem.network()  # θ
        self.denoiser = self.network.new_denoiser()  # ξ
        self.psi = Branch(self.network)
        self.average = problem.average(self.network, self.settings.average_decay)
        self.difficulty = Difficulty(problem.classes, self.settings.difficulty_window, self.settings.normalise_weights)
        self.psi_agreement = torch.zeros(())

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        labelled, unlabelled = batch.labelled, batch.unlabelled
        label, known = labelled.label, labelled.known
        assert label is not None

        noisy, times = self.diffused(labelled, label)
        xi = self.denoiser(labelled.image, noisy, times)
        yield {"supervised_denoising": dice_ce(xi, label, known=known)}

        weights = self.difficulty(self.difficulty.dice(xi.argmax(1), label, known))
        psi = self.psi(self.network.encode(labelled.image))
        yield {"supervised_difficulty": dice_ce(psi, label, weights, known)}

        scores = self.pseudo_scores(unlabelled)
        pseudo = scores.argmax(1).masked_fill(~unlabelled.valid, IGNORE)
        theta = self.network(unlabelled.image)
        self.note(student=theta, teacher=scores)
        weight = self.settings.unlabelled_weight * clock.ramp(self.settings.ramp_share)
        yield {"unlabelled": weight * dice_ce(theta, pseudo)}

    def diffused(self, stream: Stream, label: Tensor) -> tuple[Tensor, Tensor]:
        """The labels at a random step of their diffusion, x_t (B, K, *space), and t (B,)."""
        times = [int(generator(seed, "time").integers(STEPS)) for seed in stream.seeds]
        clean = clean_map(label, stream.known)
        noise = normal(tuple(clean.shape[1:]), own_seeds(stream, "diffusion"), clean.device)
        return q_sample(clean, noise, times), torch.tensor(times, device=clean.device)

    @torch.no_grad()
    def pseudo_scores(self, stream: Stream) -> Tensor:
        """Scores (B, K, *space) whose argmax is the pseudo-label: the sampled map and ψ, fused."""
        settings = self.settings
        sampled = settings.logit_scale * self.sampled(stream)
        shape, device = tuple(sampled.shape[1:]), sampled.device
        noise = gumbel(shape, own_seeds(stream, "gumbel"), device) if settings.gumbel_noise else None
        psi = self.psi(self.network.encode(stream.image))
        scores = fused_scores(gumbel_softmax(sampled, noise, settings.temperature), psi)
        self.psi_agreement = batch_mean((scores.argmax(1) == psi.argmax(1)).float(), stream.valid.float())
        return scores

    @torch.no_grad()
    def sampled(self, stream: Stream) -> Tensor:
        """z: a label map (B, K, *space) in [-1, 1], sampled from noise for the images of a stream."""
        image = stream.image
        noise = normal((self.problem.classes, *image.shape[2:]), own_seeds(stream, "sampling"), image.device)

        def estimate(noisy: Tensor, time: int) -> Tensor:
            logits = full_precision(self.denoiser(image, noisy, torch.full((len(image),), time, device=image.device)))
            if self.settings.clean_estimate == "softmax":
                return 2 * logits.softmax(1) - 1
            return logits.clamp(-1, 1)

        with self.sampling():
            return ddim(estimate, noise, self.settings.sampling_steps)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Network and denoiser as `sampling_mode` says, afterwards as they were."""
        modules = nn.ModuleList([self.network, self.denoiser])
        if self.settings.sampling_mode == "train_apart":
            with running_statistics_kept(modules):
                yield
            return
        modules.train(self.training and self.settings.sampling_mode == "train")
        try:
            yield
        finally:
            modules.train(self.training)

    def after_step(self, clock: Clock) -> None:
        self.mix_decoders()
        self.difficulty.advance()
        super().after_step(clock)

    @torch.no_grad()
    def mix_decoders(self) -> None:
        """θ ← m θ + (1 - m) (ξ + ψ) / 2, parameter by parameter; running statistics stay θ's own."""
        own = weights_of(self.network.decoder, self.network.classifier)
        xi = weights_of(self.denoiser.decoder, self.denoiser.head)
        psi = weights_of(self.psi.decoder, self.psi.head)
        means = [(one + other) / 2 for one, other in zip(xi, psi, strict=True)]
        torch._foreach_lerp_(own, means, 1 - self.settings.mixing_decay)

    def inference_modules(self) -> tuple[nn.Module, ...]:
        return (self.average,)

    def diagnostics(self, class_names: Sequence[str]) -> dict[str, float]:
        """The difficulty weight of every class, and where ψ alone would give the fused pseudo-label."""
        weights = {
            f"difficulty/weight/{name}": float(weight)
            for name, weight in zip(class_names, self.difficulty.weights, strict=True)
        }
        return {"fusion/psi_agreement": float(self.psi_agreement), **weights}


def own_seeds(stream: Stream, use: str) -> tuple[int, ...]:
    """A seed for each sample of a stream, of its own for each use."""
    return tuple(seed_of(seed, use) for seed in stream.seeds)


def weights_of(decoder: nn.Module, head: nn.Module) -> list[Tensor]:
    """The parameters of a decoder and its head, in one order for all that are built alike."""
    return [*decoder.parameters(), *head.parameters()]
