"""SAM-2's memory attention and memory encoder, and prompts that are answered with a memory of earlier slices."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semivox.networks.layers import pad_to_multiple
from semivox.networks.memory_bank import Memories
from semivox.networks.sam2_architecture import ARCHITECTURES, MEMORY_WIDTH, STRIDE, Size, remembering

if TYPE_CHECKING:
    from semivox.networks.sam2_prompts import Prompter, Prompts

MASK_SCALE, MASK_SHIFT = 20.0, -10.0
"""The memory encoder is shown a mask's probabilities times the one plus the other."""

POSITION_SHARE = 0.1
"""Of the positional code that is added to the map before it attends."""

PERIOD = 10_000.0
"""Longest wavelength of positional codes, in units of the shortest."""


class Memory(nn.Module):
    """Memories are maps (64, h, w) at stride 16 of an image and of the mask that was found in it.

    The encoder is frozen: as memories are stored without gradient, nothing could teach it (nor does it, in the public
    code of Medical SAM 2). Where it has no pretrained weights its convolutions begin as torch's usually do, for SAM-2's
    small first values would leave memories of a hundredth of their positional code.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        model = remembering(size)
        self.attention = model.memory_attention
        self.encoder = model.memory_encoder.requires_grad_(False)
        self.width = ARCHITECTURES[size].width
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()

    def take(self, model: Any) -> None:
        """Copies the weights of a whole video model."""
        self.attention.load_state_dict(model.memory_attention.state_dict())
        self.encoder.load_state_dict(model.memory_encoder.state_dict())

    def attend(self, coarse: Tensor, memories: Tensor) -> Tensor:
        """The stride-16 map (B, C, h, w) after it attended to M memories (B, M, 64, h, w) of its own."""
        batch, _, *grid = coarse.shape
        queries = coarse + POSITION_SHARE * sine_code(grid, self.width).to(coarse)
        queries = queries.flatten(2).mT.unsqueeze(1)
        keys = memories.flatten(3).mT.flatten(1, 2).unsqueeze(1)
        code = sine_code(grid, MEMORY_WIDTH).flatten(1).mT.repeat(memories.shape[1], 1).to(keys)
        turn = rotations(grid, self.width)
        for layer in self.attention.layers:
            queries = layer(
                queries=queries,
                keys=keys,
                key_point_embedding=code.expand_as(keys),
                rope_position_embeddings=tuple(part.to(keys.device) for part in turn),
            )
        return self.attention.layer_norm(queries).squeeze(1).mT.unflatten(2, grid).view(batch, self.width, *grid)

    def encode(self, coarse: Tensor, foreground: Tensor) -> Tensor:
        """Memories (B, 64, h, w) of maps (B, C, h, w) and foreground probabilities (B, H, W) of the images."""
        shown = pad_to_multiple(foreground.unsqueeze(1), (STRIDE, STRIDE)) * MASK_SCALE + MASK_SHIFT
        return self.encoder(coarse, shown.to(coarse.dtype))[0]


def sine_code(grid: list[int], channels: int) -> Tensor:
    """SAM-2's positional code (C, h, w) of a grid (h, w): sines and cosines of y, then of x, both scaled to 2π."""
    per_axis = channels // 2
    wavelengths = PERIOD ** (2 * torch.div(torch.arange(per_axis), 2, rounding_mode="floor") / per_axis)
    codes = []
    for length in grid:
        angle = torch.arange(1, length + 1)[:, None] / (length + 1e-6) * 2 * torch.pi / wavelengths
        codes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1).mT)
    y, x = codes
    height, width = grid
    return torch.cat([y[:, :, None].expand(-1, -1, width), x[:, None, :].expand(-1, height, -1)])


def rotations(grid: list[int], channels: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (1, h · w, C) of the rotary code of a grid: angles of x in the first half, of y in the other.

    Ours, since the library's own are of a size that is fixed when the model is made.
    """
    half = channels // 2
    frequencies = PERIOD ** -(torch.arange(0, half, 2) / half)
    y, x = torch.meshgrid(*(torch.arange(length) for length in grid), indexing="ij")
    angles = torch.cat([x.reshape(-1, 1) * frequencies, y.reshape(-1, 1) * frequencies], 1)
    angles = angles.repeat_interleave(2, 1).unsqueeze(0)
    return angles.cos(), angles.sin()


def answer(
    prompter: "Prompter",
    features: list[Tensor],
    prompts: "Prompts",
    valid: Tensor,
    memories: Memories,
    numbers: Tensor,
) -> tuple[Tensor, Tensor, Memories, Tensor]:
    """Masks and predicted IoU as of `prompter`, with memories; what there is to remember, of each image; and of which
    images there is, (B,) bool: those with a prompt.

    valid: (B, H, W) bool, inside the scan. numbers: (B, M) in [0, 1), which draw M memories for each image. Where there
    are no memories attention is skipped.
    """
    memory, coarse = prompter.memory, features[-1]
    assert memory is not None
    if len(memories):
        read = memory.attend(coarse, memories.drawn(coarse.detach().float(), numbers).to(coarse.dtype))
    else:
        read = prompter.without_memory(coarse)
    masks, scores = prompter(features, prompts, read)
    with torch.no_grad():
        # 1 - p_0 of softmax([0, z_1, ..., z_K]).
        foreground = torch.sigmoid(masks.logsumexp(1)) * valid
        asked = prompts.valid.sum(1)
        found = Memories(
            memory.encode(coarse.detach(), foreground).float(),
            read.detach().float(),
            scores.sum(1) / asked.clamp_min(1),
        )
    return masks, scores, found, asked > 0
