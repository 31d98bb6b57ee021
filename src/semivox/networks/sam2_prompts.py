"""SAM-2's prompt encoder and mask decoder, for images of any size and gradients that flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.networks.layers import cut_to, pad_to_multiple
from semivox.networks.sam2_architecture import ARCHITECTURES, STRIDE, Size, prompting
from semivox.networks.sam2_memory import Memory

NO_PROMPT_LOGIT = -10.0
"""The logit of a mask that nothing asks for: constant, without gradient."""

TOKEN_DEVIATION = 0.02
"""Of the class tokens' first values, as of all else in SAM-2."""

NOT_A_POINT, BOX_CORNERS = -1, (2, 3)
"""Kinds of point that SAM-2 knows beside 0, not on the object, and 1, on it."""


@dataclass(frozen=True)
class Prompts:
    """P prompts for each of B images, in pixels of the image as the network is given it.

    Coordinates are (x, y), x along the last axis of the image tensor and y along the one before it; a pixel is at its
    index. Several kinds together describe one object.
    """

    valid: Tensor
    """(B, P) bool; what is False is never encoded, and its mask is `NO_PROMPT_LOGIT` everywhere."""
    boxes: Tensor | None = None
    """(B, P, 4): x0, y0, x1, y1."""
    points: Tensor | None = None
    """(B, P, N, 2)."""
    point_kinds: Tensor | None = None
    """(B, P, N) int: 1 on the object, 0 not on it, -1 no point."""
    masks: Tensor | None = None
    """(B, P, H, W): logits of a first guess."""


class Prompter(nn.Module):
    """Prompts and features of the `sam2` network → masks: one per prompt (SAM-2's single-mask mode).

    classes: K > 0 tells prompts apart by a learned token each, for nested structures have nearly equal boxes; prompt k
    is then of class k + 1, and there are K. masks: whether mask prompts are trained. score: whether the predicted IoU
    is trained; it then needs a loss. memory: whether there is a `Memory` of what was answered before, for `answer` of
    sam2_memory.py. What single masks never reach is frozen, so that every trainable weight learns.

    The image's and the prompts' positional code are one module, as they must be equal.
    """

    def __init__(
        self, size: Size, classes: int = 0, *, masks: bool = False, score: bool = False, memory: bool = False
    ) -> None:
        super().__init__()
        model = prompting(size)
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.no_memory_embedding = model.no_memory_embedding
        self.class_tokens = nn.Embedding(classes, ARCHITECTURES[size].width) if classes else None
        if self.class_tokens is not None:
            nn.init.normal_(self.class_tokens.weight, std=TOKEN_DEVIATION)
        self.memory = Memory(size) if memory else None
        decoder = self.mask_decoder
        unused = [decoder.pred_obj_score_head, *decoder.output_hypernetworks_mlps[1:]]
        unused += [] if score else [decoder.iou_prediction_head]
        unused += [] if masks else [self.prompt_encoder.mask_embed]
        for module in unused:
            module.requires_grad_(False)

    def take(self, model: Any) -> None:
        """Copies the weights of a whole model; the class tokens stay."""
        self.prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
        self.mask_decoder.load_state_dict(model.mask_decoder.state_dict())
        with torch.no_grad():
            self.no_memory_embedding.copy_(model.no_memory_embedding)

    def without_memory(self, coarse: Tensor) -> Tensor:
        """The stride-16 map (B, C, h, w) of images before which nothing was seen."""
        return coarse + self.no_memory_embedding.view(1, -1, 1, 1)

    def forward(
        self, features: Sequence[Tensor], prompts: Prompts, remembering: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, P, H, W) at the image's resolution, float32, and predicted IoU (B, P), 0 where not valid.

        features: of `Sam2.encode`, perhaps changed. remembering: the stride-16 map (B, C, h, w) with what memory adds
        to it; None: without memory. Only valid prompts are computed.
        """
        image, fine, middle, coarse = features
        embedding = self.without_memory(coarse) if remembering is None else remembering
        size = tuple(image.shape[2:])
        row, slot = prompts.valid.nonzero(as_tuple=True)
        masks = image.new_full((*prompts.valid.shape, *size), NO_PROMPT_LOGIT, dtype=torch.float32)
        scores = image.new_zeros(prompts.valid.shape, dtype=torch.float32)
        if len(row) == 0:
            return masks, scores
        grid = tuple(coarse.shape[2:])
        sparse = self._sparse(prompts, row, slot, grid)
        decoded, score, _, _ = self.mask_decoder(
            # A prompt is an image of its own here, so that each may have a mask to begin with.
            image_embeddings=embedding[row],
            image_positional_embeddings=self._positions(grid).expand(len(row), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=self._dense(prompts, row, slot, grid),
            multimask_output=False,
            high_resolution_features=[self.mask_decoder.conv_s0(fine)[row], self.mask_decoder.conv_s1(middle)[row]],
        )
        found = F.interpolate(decoded[:, 0].float(), scale_factor=4, mode="bilinear")
        masks = masks.index_put((row, slot), cut_to(found, size)[:, 0])
        return masks, scores.index_put((row, slot), score[:, 0, 0].float())

    def _sparse(self, prompts: Prompts, row: Tensor, slot: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Tokens (N, 1, T, C) of N prompts: points, corners of the box, a token for no point, the class."""
        places, kinds = [], []
        if prompts.points is not None:
            assert prompts.point_kinds is not None
            places.append(prompts.points[row, slot])
            kinds.append(prompts.point_kinds[row, slot])
        if prompts.boxes is not None:
            places.append(prompts.boxes[row, slot].unflatten(1, (2, 2)))
            kinds.append(torch.tensor(BOX_CORNERS, device=row.device).expand(len(row), 2))
        # SAM-2 ends a list of points by a token for none; a list without any has two.
        ends = 1 if places else 2
        places.append(self.no_memory_embedding.new_zeros(len(row), ends, 2))
        kinds.append(torch.full((len(row), ends), NOT_A_POINT, device=row.device))
        kind = torch.cat(kinds, 1).unsqueeze(1)
        place = torch.cat([part.to(self.no_memory_embedding.dtype) for part in places], 1).unsqueeze(1)
        encoder = self.prompt_encoder
        pixels = [16 * length for length in grid]
        with torch.autocast(place.device.type, enabled=False):  # half precision would move a box by pixels
            code = encoder.shared_embedding(place + 0.5, pixels) + encoder.point_embed(kind.clamp_min(0))
        tokens = torch.where((kind == NOT_A_POINT).unsqueeze(-1), encoder.not_a_point_embed.weight, code)
        if self.class_tokens is None:
            return tokens
        return torch.cat([tokens, self.class_tokens(slot)[:, None, None]], 2)

    def _dense(self, prompts: Prompts, row: Tensor, slot: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The masks' embedding (N, C, h, w), or the one of no mask."""
        encoder = self.prompt_encoder
        if prompts.masks is None:
            return encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(len(row), -1, *grid)
        mask = pad_to_multiple(prompts.masks[row, slot].unsqueeze(1).float(), (STRIDE, STRIDE))
        small = [4 * length for length in grid]
        return encoder.mask_embed(F.interpolate(mask, size=small, mode="bilinear", antialias=True))

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """The positional code (1, C, h, w) of the stride-16 map."""
        device = self.no_memory_embedding.device
        y, x = ((torch.arange(length, device=device) + 0.5) / length for length in grid)
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(self.no_memory_embedding.dtype)
        with torch.autocast(device.type, enabled=False):
            return self.prompt_encoder.shared_embedding(places).permute(2, 0, 1).unsqueeze(0)


def class_logits(masks: Tensor) -> Tensor:
    """[0, z_1, ..., z_K]: logits (B, K + 1, *space) of a prompted mask z_k (B, K, *space) for each class.

    Background is fixed at 0; softmax over the classes gives their probabilities. A class that nothing asks for has the
    mask `NO_PROMPT_LOGIT`.
    """
    return torch.cat([torch.zeros_like(masks[:, :1]), masks], 1)
