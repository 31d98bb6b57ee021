import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from semivox.errors import SettingError
from semivox.networks import make_network
from semivox.networks.sam2_architecture import configuration, remembering
from semivox.networks.sam2_checkpoint import POSITIONS, read_checkpoint, warn_of_leakage

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A whole checkpoint of the miniature size, as the library writes it."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("sam2-hiera-miniature")
    model = transformers.Sam2Model(configuration("miniature"))
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copied"))


def build(weights: Path, **settings):
    torch.manual_seed(0)
    network = make_network("sam2", 2, 1, 2, {"size": "miniature", "weights": str(weights), **settings})
    network.load_pretrained()
    return network


@pytest.mark.parametrize("tuning", ["full", "frozen", "lora"])
def test_encoder_and_prompter_have_the_weights_of_the_file(checkpoint, tuning):
    state = load_file(checkpoint / WEIGHTS)
    network = build(checkpoint, tuning=tuning)
    taken = network.encoder.vision.state_dict()
    prefix = "vision_encoder."
    names = [name for name in state if name.startswith(prefix)]
    assert len(names) > 50
    assert all(torch.equal(taken[name.removeprefix(prefix)], state[name]) for name in names)
    prompter = network.new_prompter(2).state_dict()
    names = [name for name in state if name.startswith(("mask_decoder.", "prompt_encoder."))]
    assert all(torch.equal(prompter[name], state[name]) for name in names)
    assert torch.equal(prompter["no_memory_embedding"], state["no_memory_embedding"])


def test_a_network_takes_weights_only_when_it_is_asked_to(checkpoint, tmp_path):
    """Planning, and loading a trained model, need no checkpoint."""
    network = make_network("sam2", 2, 1, 2, {"size": "miniature", "weights": str(tmp_path / "nowhere")})
    network.new_prompter(2)
    first = load_file(checkpoint / WEIGHTS)["vision_encoder.backbone.patch_embed.projection.weight"]
    assert not torch.equal(network.encoder.vision.backbone.patch_embed.projection.weight, first)


def test_the_librarys_silent_trap_is_not_ours(checkpoint):
    """Its vision model alone matches no name of a whole checkpoint and stays random, without an error."""
    vision = transformers.Sam2VisionModel.from_pretrained(checkpoint, local_files_only=True)
    stored = load_file(checkpoint / WEIGHTS)["vision_encoder.backbone.patch_embed.projection.weight"]
    assert not torch.equal(vision.backbone.patch_embed.projection.weight, stored), "the trap"
    assert torch.equal(build(checkpoint).encoder.vision.backbone.patch_embed.projection.weight, stored)


def test_a_checkpoint_of_which_no_name_fits_is_refused(copied):
    state = load_file(copied / WEIGHTS)
    save_file({f"other.{name}": tensor for name, tensor in state.items()}, copied / WEIGHTS, {"format": "pt"})
    with pytest.raises(SettingError, match=r"lacks \d+ weights") as error:
        build(copied)
    assert "\n" not in str(error.value)


def test_a_partial_checkpoint_is_refused_and_names_what_is_missing(copied):
    state = load_file(copied / WEIGHTS)
    del state["mask_decoder.conv_s0.weight"]
    save_file(state, copied / WEIGHTS, {"format": "pt"})
    with pytest.raises(SettingError, match=r"lacks 1 weights, mask_decoder.conv_s0.weight first"):
        build(copied)


@pytest.mark.parametrize("kept", ["shared_image_embedding", "prompt_encoder.shared_embedding"])
def test_one_copy_of_the_positional_code_is_enough(copied, checkpoint, kept):
    state = load_file(copied / WEIGHTS)
    code = state[f"{kept}.{POSITIONS}"]
    state = {name: tensor for name, tensor in state.items() if not name.endswith(POSITIONS) or name.startswith(kept)}
    save_file(state, copied / WEIGHTS, {"format": "pt"})
    model = read_checkpoint(str(copied), "miniature")
    assert torch.equal(model.shared_image_embedding.positional_embedding, code)
    assert torch.equal(model.prompt_encoder.shared_embedding.positional_embedding, code)


def test_another_size_is_refused_and_says_which_it_is(checkpoint):
    with pytest.raises(SettingError, match=r"holds SAM-2 miniature, size is 'tiny'; set size=miniature"):
        make_network("sam2", 2, 1, 2, {"size": "tiny", "weights": str(checkpoint)}).load_pretrained()


def test_a_checkpoint_that_is_not_there_says_what_to_put_where(tmp_path):
    with pytest.raises(SettingError, match=r"not on this machine; put config.json and .* `hf download facebook/sam2"):
        build(Path("facebook/sam2.1-hiera-nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"empty lacks config.json and model.safetensors; put"):
        build(tmp_path / "empty")


def test_an_id_is_found_in_the_hubs_cache(checkpoint, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--some--sam2" / "snapshots" / "0123"
    shutil.copytree(checkpoint, snapshot)
    (tmp_path / "models--some--sam2" / "refs").mkdir()
    (tmp_path / "models--some--sam2" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "HF_HUB_OFFLINE" not in os.environ
    network = build(Path("some/sam2"))
    assert network.pretrained


def test_files_that_are_something_else_are_refused(copied):
    (copied / "config.json").write_text(json.dumps({"model_type": "bert", "vision_config": 3}))
    with pytest.raises(SettingError, match=r"config.json: is not of SAM-2"):
        build(copied)


def test_a_damaged_file_is_refused(copied):
    (copied / WEIGHTS).write_bytes(b"nothing of use")
    with pytest.raises(SettingError, match=r"model.safetensors: cannot be read"):
        build(copied)


def test_a_video_checkpoint_is_taken_too(tmp_path):
    """As SAM-2.0 and 2.1 are published: with memory, which the image model leaves out."""
    torch.manual_seed(3)
    image = configuration("miniature")
    image.vision_config.fpn_hidden_size = 128
    config = transformers.Sam2VideoConfig(
        vision_config=image.vision_config,
        prompt_encoder_config={"hidden_size": 128},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 128},
        memory_attention_hidden_size=128,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_num_layers=1,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        memory_fuser_embed_dim=128,
        mask_downsampler_embed_dim=128,
    )
    transformers.Sam2VideoModel(config).save_pretrained(tmp_path)
    assert any(name.startswith("memory_attention") for name in load_file(tmp_path / WEIGHTS))
    model = read_checkpoint(str(tmp_path), "miniature")
    stored = load_file(tmp_path / WEIGHTS)
    state = model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in state if not name.endswith(POSITIONS))


def test_weights_from_medical_scans_come_with_a_warning_that_names_public_sets(checkpoint, tmp_path, capsys):
    build(checkpoint)
    assert "public sets" not in capsys.readouterr().err
    warn_of_leakage.cache_clear()
    medical = shutil.copytree(checkpoint, tmp_path / "MedSAM2-miniature")
    build(Path(medical))
    build(Path(medical))
    told = capsys.readouterr().err
    assert told.count("DeepLesion") == 1, "once a run"
    assert "ACDC" in told


def test_memory_has_the_weights_of_a_checkpoint_of_videos_and_one_of_images_is_refused(checkpoint, tmp_path):
    torch.manual_seed(8)
    model = remembering("miniature")
    model.vision_encoder = transformers.Sam2VideoModel(video_configuration()).vision_encoder
    model.config = video_configuration()
    model.save_pretrained(tmp_path / "video")
    memory = build(tmp_path / "video").new_prompter(2, memory=True).memory.state_dict()
    state = load_file(tmp_path / "video" / WEIGHTS)
    names = [name for name in state if name.startswith(("memory_attention.", "memory_encoder."))]
    assert len(names) > 50
    assert all(torch.equal(memory[name.removeprefix("memory_")], state[name]) for name in names)
    network = build(checkpoint)
    network.new_prompter(2)
    with pytest.raises(SettingError, match=r"has no memory attention or memory encoder.*set memory=false") as error:
        network.new_prompter(2, memory=True)
    assert "\n" not in str(error.value)


def video_configuration():
    """Of a whole video model of the miniature size."""
    config = remembering("miniature").config
    config.vision_config = configuration("miniature").vision_config
    return config
