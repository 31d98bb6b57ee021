"""Checkpoints: all that must survive an interruption, written in one step, read without running code."""

import pickle
from pathlib import Path
from typing import Any

import torch

from semivox.atomic import atomic_path
from semivox.errors import ResourceError, RunError, first_line

FORMAT = 1

DOES_NOT_FIT = (
    "the run's checkpoint does not fit its config.yaml; undo what was changed there since, or start a new run with"
    " another --out"
)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers and strings (nested in dictionaries and lists) to `path` in one step.

    Raises ResourceError where the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise ResourceError(
                f"{path}: cannot be written ({first_line(error)}); free some space, then go on with"
                f" `semivox train --resume {path.parents[1]}`"
            ) from None


def load_method(method: torch.nn.Module, content: dict[str, Any]) -> None:
    """Gives `method` the state in a checkpoint. Raises RunError where it is not the state of such a method."""
    try:
        method.load_state_dict(content["method"])
    except (KeyError, TypeError, RuntimeError):
        raise RunError(DOES_NOT_FIT) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote. Nothing in the file is executed.

    Raises RunError in one line where the file is missing, damaged, of another format, or carries code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"{path}: there is no checkpoint to resume from; start the run anew with another --out"
        ) from None
    except pickle.UnpicklingError:
        raise RunError(
            f"{path}: carries more than weights and was not loaded; it is not a Semivox checkpoint"
        ) from None
    except Exception as error:
        raise RunError(f"{path}: is damaged or not a checkpoint ({first_line(error)})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path}: is not a checkpoint of this version of Semivox; train anew")
    return content
