"""Commands that torchrun or SLURM gives to several processes at once: the first does them, the others share steps."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import torch.distributed

from semivox.training.fit import take_part
from semivox.training.launch import joined, launched, losing_nobody, tell

Given = ParamSpec("Given")


def led(command: Callable[Given, Path]) -> Callable[Given, Path]:
    """`command`, which returns a run folder, so that among several processes only the first does it. The others return
    the same folder once it has."""

    @functools.wraps(command)
    def one_of_several(*args: Given.args, **kwargs: Given.kwargs) -> Path:
        place = launched()
        if place is None or torch.distributed.is_initialized():  # a command within another
            return command(*args, **kwargs)
        with joined(place), losing_nobody(place.global_rank()):
            if place.global_rank() > 0:
                return take_part(place.global_rank())
            run = command(*args, **kwargs)
            tell(run)
            return run

    return one_of_several
