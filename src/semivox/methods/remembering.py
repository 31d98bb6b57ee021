"""Memories of SAM-2 that are shared by the processes of a run, or left by the slices of a volume one after another."""

import torch
from torch import Tensor

from semivox.losses.reduction import batch_gather
from semivox.networks.memory_bank import Memories
from semivox.networks.sam2_architecture import MEMORY_WIDTH
from semivox.networks.sam2_memory import answer
from semivox.networks.sam2_prompts import Prompter, Prompts
from semivox.sampling.draws import generator


def of_all_processes(found: Memories, present: Tensor) -> Memories:
    """The elements where `present` (N,) is True, of all processes in their order; N is the same on all of them."""
    chosen = batch_gather(present).flatten()
    return Memories(*(batch_gather(part).flatten(0, 1)[chosen] for part in vars(found).values()))


class Recollection:
    """Answers prompts of slices that come in order: each reads what those before it left. Begins with nothing.

    reads: memories that each slice draws. Draws go by the number of the slice, so that a volume is always answered
    alike.
    """

    def __init__(self, prompter: Prompter, reads: int) -> None:
        self.prompter = prompter
        self.reads = reads
        self.memories: Memories | None = None
        self.seen = 0

    def __call__(self, features: list[Tensor], prompts: Prompts) -> Tensor:
        """Mask logits (B, P, H, W), as of `Prompter`; prompts are boxes."""
        assert prompts.boxes is not None
        return torch.cat(
            [
                self._slice([level[row : row + 1] for level in features], Prompts(valid[None], boxes=boxes[None]))
                for row, (valid, boxes) in enumerate(zip(prompts.valid, prompts.boxes, strict=True))
            ]
        )

    def _slice(self, features: list[Tensor], prompts: Prompts) -> Tensor:
        image, coarse = features[0], features[-1]
        if self.memories is None:
            nothing = coarse.new_zeros(0, *coarse.shape[1:], dtype=torch.float32)
            none = nothing.new_zeros(0, MEMORY_WIDTH, *coarse.shape[2:])
            self.memories = Memories(none, nothing, nothing.new_zeros(0))
        numbers = generator("memories", self.seen).random((1, self.reads))
        everywhere = torch.ones_like(image[:, 0], dtype=torch.bool)
        masks, _, found, present = answer(
            self.prompter, features, prompts, everywhere, self.memories, torch.from_numpy(numbers).to(coarse.device)
        )
        self.memories = self.memories.after(found[present])
        self.seen += 1
        return masks
