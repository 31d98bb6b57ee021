"""One network for many targets: a small head whose convolutions are generated from the image and a prompt.

DoDNet (Zhang et al., CVPR 2021), as VerSemi has it (Zeng et al., arXiv 2311.11686). A prompt names a binary target, for
example an organ. It costs three 1³ convolutions, for encoder and decoder know nothing of prompts: one pass serves all.

Sizes in names: B samples, P prompts of each, H channels of the head, N numbers that make up its kernels.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from semivox.networks.layers import convolution, normalisation
from semivox.networks.network import Network

WIDTH = 8
"""H of the published head."""
CLASSES = 2
"""Outputs of the published head: background, foreground."""
CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**26}
"""Elements of a hidden map that are worked on at a time, by device: what fits into a processor's cache, or a GPU."""

HeadNorm = Literal["batch", "group"]
Layout = Literal["compact", "released"]
"""compact: W1, W2, W3, b1, b2, b3 (DoDNet; 162 numbers where H is 8). released: as VerSemi's code generates them, with
a second output layer that nothing uses after W3 and after b3 (180 numbers). Matrices are row by row, (out, in)."""


class Kernels(NamedTuple):
    """Three 1³ convolutions: weights (..., outputs, inputs), biases (..., outputs)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def contrast(self) -> "Kernels":
        """The same with one output, foreground less background, instead of the two."""
        (*first, weight), (*further, bias) = self.weights, self.biases
        return Kernels((*first, weight[..., 1:, :] - weight[..., :1, :]), (*further, bias[..., 1:] - bias[..., :1]))


def kernel_sizes(width: int = WIDTH, layout: Layout = "compact") -> list[int]:
    """How many numbers W1, W2, W3, the unused W, b1, b2, b3 and the unused b have."""
    unused = CLASSES if layout == "released" else 0
    return [width**2, width**2, CLASSES * width, unused * width, width, width, CLASSES, unused]


def split_kernels(numbers: Tensor, width: int = WIDTH, layout: Layout = "compact") -> Kernels:
    """The kernels that N generated numbers (..., N) stand for."""
    first, second, last, _, *biases, _ = numbers.split(kernel_sizes(width, layout), dim=-1)
    weights = [weight.unflatten(-1, (-1, width)) for weight in (first, second, last)]
    return Kernels(tuple(weights), tuple(biases))


def dynamic_convolutions(x: Tensor, kernels: Kernels) -> Tensor:
    """x (B, H, *space) through kernels of (B, P), with ReLU between them: (B, P, outputs, *space), float32 or float64.

    Hidden maps are never whole: space is gone through in pieces, and the backward pass computes them anew. They would
    be many times what the network keeps, while computing them again costs what reading them would.
    """
    count, prompts, outputs, width = kernels.weights[2].shape
    precise = torch.promote_types(x.dtype, torch.float32)
    shapes = [(count, prompts * width, width), (count * prompts, width, width), (count * prompts, outputs, width)]
    weights = [w.to(precise).reshape(shape) for w, shape in zip(kernels.weights, shapes, strict=True)]
    biases = [b.to(precise).reshape(*shape[:2], 1) for b, shape in zip(kernels.biases, shapes, strict=True)]
    with torch.autocast(x.device.type, enabled=False):
        maps = _Convolutions.apply(x.flatten(2), *weights, *biases)
    return maps.view(count, prompts, outputs, *x.shape[2:])


class _Convolutions(torch.autograd.Function):
    """x (B, H, V); weights (B, P H, H), (B P, H, H), (B P, O, H) and biases of one column → (B P, O, V)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *kernels: Tensor) -> Tensor:
        ctx.save_for_backward(x, *kernels)
        _, _, weight, *_, bias = kernels
        maps = weight.new_empty(*weight.shape[:2], x.shape[2])
        length = chunk_length(kernels)
        for piece, out in zip(x.split(length, 2), maps.split(length, 2), strict=True):
            _, _, second = _hidden(piece, kernels)
            out.copy_(torch.baddbmm(bias, weight, second))
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        x, *kernels = ctx.saved_tensors  # type: ignore[attr-defined]
        w1, w2, w3, *_ = kernels
        sums = [torch.zeros_like(kernel) for kernel in kernels]
        to_x = torch.empty_like(x)
        length = chunk_length(kernels)
        pieces = (x.split(length, 2), gradient.split(length, 2), to_x.split(length, 2))
        with torch.autocast(x.device.type, enabled=False):
            for piece, slope, out in zip(*pieces, strict=True):
                precise, first, second = _hidden(piece, kernels)
                slope = _add(sums, 2, slope, second)
                slope = _before_relu(torch.bmm(w3.mT, slope), second)
                slope = _add(sums, 1, slope, first)
                slope = _before_relu(torch.bmm(w2.mT, slope), first).view(*w1.shape[:2], -1)
                slope = _add(sums, 0, slope, precise)
                out.copy_(torch.bmm(w1.mT, slope))
        return to_x, *sums


def _hidden(x: Tensor, kernels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A piece of x in the kernels' precision, and the two hidden maps (B P, H, V) of it."""
    w1, w2, _, b1, b2, _ = kernels
    x = x.to(w1.dtype)
    first = torch.baddbmm(b1, w1, x).relu_().view(*b2.shape[:2], -1)
    return x, first, torch.baddbmm(b2, w2, first).relu_()


def _before_relu(slope: Tensor, after: Tensor) -> Tensor:
    """The gradient before a ReLU that gave `after`; autograd's own kernel, eight times as fast as a mask."""
    return torch.ops.aten.threshold_backward(slope, after, 0)


def _add(sums: Sequence[Tensor], layer: int, slope: Tensor, inputs: Tensor) -> Tensor:
    """Adds a piece's part of the gradients of a layer's weight and bias; gives `slope` back."""
    sums[layer].baddbmm_(slope, inputs.mT)
    sums[layer + 3].add_(slope.sum(2, keepdim=True))
    return slope


def chunk_length(kernels: Sequence[Tensor]) -> int:
    """How many voxels are worked on at a time."""
    elements = CHUNK_ELEMENTS.get(kernels[0].device.type, CHUNK_ELEMENTS["cuda"])
    return max(elements // max(kernels[0].shape[:2].numel(), 1), 1)


class Encoded(NamedTuple):
    """What a pass of the network gives, before any prompt: g (B, C), and what the head reads (B, H, *space)."""

    summary: Tensor
    features: Tensor


class PromptedNetwork(nn.Module):
    """A network of the project with a generated head in the place of its own: image, prompts → a score of each.

    The coarsest feature gives g: norm, ReLU, mean over space. One linear layer, the controller, makes of [g, one-hot
    prompt] the numbers of the head's three convolutions H-H-H-2. They read the penultimate map after norm, ReLU and a
    1³ convolution to H channels, which stands where `network` had its classifier.

    A score is the foreground's logit less the background's: all that a softmax of the two depends on.

    prompts: their names; a prompt's number is its place. norm: of both norms in the head, by batch as VerSemi or over
    16 groups as DoDNet. With the published V-Net, four targets and one more prompt: 9,479,428 parameters, 9,484,144
    in the released layout.
    """

    def __init__(
        self,
        network: Network,
        prompts: Sequence[str],
        norm: HeadNorm = "batch",
        layout: Layout = "compact",
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        self.prompts = tuple(prompts)
        self.layout: Layout = layout
        self.width = width
        coarsest, finest = network.feature_channels[-1], network.map_channels[-1]
        network.classifier = nn.Sequential(
            normalisation(norm, network.dimensions, finest),
            nn.ReLU(inplace=True),
            convolution(network.dimensions, finest, width, kernel=1),
        )
        self.network = network
        self.summary = nn.Sequential(normalisation(norm, network.dimensions, coarsest), nn.ReLU(inplace=True))
        self.controller = nn.Linear(coarsest + len(self.prompts), sum(kernel_sizes(width, layout)))

    def encode(self, image: Tensor) -> Encoded:
        """The one pass that all prompts share; image (B, C, *space)."""
        features = self.network.encode(image)
        summary = self.summary(features[-1]).flatten(2).float().mean(2)
        return Encoded(summary, self.network.head(self.network.decode(features)[-1]))

    def kernels(self, summary: Tensor, prompts: Tensor) -> Kernels:
        """The head's kernels, (B, P) of each, for g (B, C) and prompts (P,) or, of each sample its own, (B, P)."""
        with torch.autocast(summary.device.type, enabled=False):
            for_image, for_prompt = self._parts()
            numbers = F.linear(summary, for_image, self.controller.bias).unsqueeze(1) + for_prompt.mT[prompts]
        return split_kernels(numbers, self.width, self.layout)

    def scores(self, encoded: Encoded, prompts: Tensor) -> Tensor:
        """Scores (B, P, *space), float32, of prompts (P,), or of each sample's own (B, P)."""
        kernels = self.kernels(encoded.summary, prompts).contrast()
        return dynamic_convolutions(encoded.features, kernels).squeeze(2)

    def forward(self, image: Tensor, prompts: Tensor | None = None) -> Tensor:
        """image (B, C, *space) → scores (B, P, *space); None: of all prompts in their order."""
        if prompts is None:
            prompts = torch.arange(len(self.prompts), device=image.device)
        return self.scores(self.encode(image), prompts)

    def take_weights(self, donor: "PromptedNetwork") -> None:
        """Takes the weights of a network like this one that may know other prompts. Prompts join by name; those that
        the donor does not know stay as they are. Raises ValueError where anything else differs.
        """
        given = donor.state_dict()
        (_, own), (for_image, theirs) = (network._parts() for network in (self, donor))
        try:
            columns = [
                theirs[:, donor.prompts.index(name)] if name in donor.prompts else own[:, place]
                for place, name in enumerate(self.prompts)
            ]
            given["controller.weight"] = torch.cat([for_image, torch.stack(columns, 1)], 1)
            self.load_state_dict(given)
        except RuntimeError as error:
            raise ValueError(f"the donor is another network: {error}") from None

    def _parts(self) -> tuple[Tensor, Tensor]:
        """The controller's weights for g (N, C), and one column for each prompt (N, prompts)."""
        weight, prompts = self.controller.weight, len(self.prompts)
        return weight[:, :-prompts], weight[:, -prompts:]
