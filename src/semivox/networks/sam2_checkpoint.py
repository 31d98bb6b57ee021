"""Reading the weights of SAM-2, from a folder or the hub's cache, never from the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from semivox.errors import SettingError, first_line
from semivox.networks.sam2_architecture import Size, library, size_of
from semivox.progress import say

FILES = ("config.json", "model.safetensors")

MEDICAL = "medsam"
"""In the name of a checkpoint that was trained on medical images."""

PROBE = "patch_embed.projection.weight"
"""A weight of the first layer, compared with the file after loading."""

POSITIONS = "positional_embedding"
"""Stored twice, or once: the image's and the prompts' code are one matrix."""


MEMORY_PARTS = ("memory_attention.", "memory_encoder.")
"""What a checkpoint of videos has beside that of images, and we use."""


def read_checkpoint(weights: str, size: Size) -> Any:
    """The image model with the weights of a checkpoint: SAM-2.0 or 2.1, of images or video, in evaluation mode.

    weights: a folder that holds config.json and model.safetensors, or an id of the hub that was fetched before.
    Raises SettingError, in one line, where it is missing, partial, another size, or not a checkpoint of SAM-2.
    """
    transformers = library()
    folder = find(weights)
    with quiet():
        try:
            config = transformers.Sam2Config.from_pretrained(folder, local_files_only=True)
            held = size_of(config)
        except Exception as error:  # whatever transformers raises for a file that it cannot read
            raise SettingError(f"sam2: {folder / FILES[0]}: is not of SAM-2 ({first_line(error)})") from None
        if held != size:
            mend = f"set size={held}" if held else "none of the sizes there are"
            raise SettingError(f"sam2: {folder} holds SAM-2 {held or 'of an unknown size'}, size is '{size}'; {mend}")
        config.mask_decoder_config.dynamic_multimask_via_stability = False
        try:
            model, report = transformers.Sam2Model.from_pretrained(
                folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # as above
            raise SettingError(f"sam2: {folder / FILES[1]}: cannot be read ({first_line(error)})") from None
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(POSITIONS))
    missing += sorted(str(key) for key in report["mismatched_keys"])
    if missing or not really_loaded(model, folder):
        told = f"lacks {len(missing)} weights, {missing[0]} first" if missing else "gave none of its weights"
        raise SettingError(f"sam2: {folder / FILES[1]}: {told}; give a whole checkpoint of SAM-2")
    unify_positions(model, [key for key in report["missing_keys"] if key.endswith(POSITIONS)])
    if MEDICAL in str(folder.resolve()).lower() or MEDICAL in weights.lower():
        warn_of_leakage(weights)
    return model.eval()


def read_memory(weights: str, size: Size) -> Any:
    """The video model of which memory attention and memory encoder have the weights of a checkpoint; it must be of
    `size`, as `read_checkpoint` sees. SettingError, in one line, where the checkpoint is of images only."""
    transformers = library()
    folder = find(weights)
    with quiet():
        try:
            config = transformers.Sam2VideoConfig.from_pretrained(folder, local_files_only=True)
            model, report = transformers.Sam2VideoModel.from_pretrained(
                folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # whatever transformers raises for a file that it cannot read
            raise SettingError(f"sam2: {folder}: has no memory of videos ({first_line(error)})") from None
    wrong = [str(key) for key in (*report["missing_keys"], *report["mismatched_keys"])]
    lacking = sorted(key for key in wrong if key.startswith(MEMORY_PARTS))
    if lacking:
        raise SettingError(
            f"sam2: {folder / FILES[1]}: has no memory attention or memory encoder ({lacking[0]} is missing); give a"
            f" checkpoint of videos, which facebook/sam2-hiera-{size.replace('_', '-')} is, or set memory=false"
        )
    return model


@lru_cache(maxsize=8)  # once a run, though a method may have several networks
def warn_of_leakage(weights: str) -> None:
    """Says that test cases may be known to a network that medical scans taught."""
    say(
        f"weights '{weights}' were trained on medical scans (MedSAM2: DeepLesion, LLD-MMRI, RVENET and many other"
        " public sets, perhaps ACDC or BHSD, see medsam-datasetlist.github.io): scores on public sets may be of scans"
        " that it knows"
    )


def find(weights: str) -> Path:
    """The folder of a checkpoint; SettingError, with what to put where, if there is none."""
    library()
    folder = Path(weights).expanduser()
    wanted = f"{FILES[0]} and {FILES[1]} of a SAM-2 checkpoint in the layout of transformers"
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(weights, local_files_only=True))
        except Exception:  # not a name, or not in the cache: the hub has an error of its own for each
            raise SettingError(
                f"sam2: weights '{weights}' are not on this machine; put {wanted} into a folder and give that, or fetch"
                f" an id once with `hf download {weights}`"
            ) from None
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking:
        raise SettingError(f"sam2: {folder} lacks {' and '.join(lacking)}; put {wanted} there")
    return folder


def really_loaded(model: Any, folder: Path) -> bool:
    """Whether the first layer is the file's: names that match nothing would leave all weights random, silently."""
    from safetensors import safe_open

    with safe_open(folder / FILES[1], "pt") as file:
        names = [name for name in file.keys() if name.endswith(PROBE)]  # noqa: SIM118
        if len(names) != 1:
            return False
        probe = file.get_tensor(names[0]).float()
    return torch.equal(model.vision_encoder.backbone.patch_embed.projection.weight.detach(), probe)


def unify_positions(model: Any, missing: list[str]) -> None:
    """Makes the two copies of the positional matrix one; the one that was not missing is right."""
    image, prompts = model.shared_image_embedding, model.prompt_encoder.shared_embedding
    if any(key.startswith("shared_image") for key in missing):
        image.positional_embedding.copy_(prompts.positional_embedding)
    else:
        prompts.positional_embedding.copy_(image.positional_embedding)


@contextmanager
def quiet() -> Iterator[None]:
    """In this block transformers says nothing: what is wrong is said in one line by us."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
