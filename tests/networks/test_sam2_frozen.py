import sys

import pytest
import torch

from semivox.errors import SettingError
from semivox.networks.sam2 import Sam2Settings
from semivox.networks.sam2_architecture import prompting
from semivox.networks.sam2_frozen import FrozenSam2, load
from semivox.networks.sam2_prompts import Prompts

TINY = Sam2Settings(size="miniature")


@pytest.fixture(autouse=True)
def nothing_loaded():
    load.cache_clear()


def say_something(sam: FrozenSam2) -> torch.Tensor:
    image = torch.linspace(-1, 1, 24 * 20).view(1, 1, 24, 20)
    points = torch.tensor([[[[5.0, 6.0]]]])
    prompts = Prompts(
        torch.ones(1, 1, dtype=torch.bool), points=points, point_kinds=torch.ones(1, 1, 1, dtype=torch.int)
    )
    return sam.masks(sam.encode(image), prompts)


def test_it_is_the_same_each_time_and_draws_nothing_from_torchs_generator():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = say_something(FrozenSam2(1, TINY))
    assert torch.equal(torch.get_rng_state(), before)
    load.cache_clear()
    torch.manual_seed(8)
    assert torch.equal(say_something(FrozenSam2(1, TINY)), first)
    assert first.shape == (1, 1, 24, 20)
    assert not first.requires_grad


def test_it_has_the_weights_of_a_checkpoint(tmp_path):
    torch.manual_seed(5)
    model = prompting("miniature")
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    model.save_pretrained(tmp_path / "sam2")
    network, prompter = load(1, TINY.changed({"weights": str(tmp_path / "sam2")}), torch.device("cpu"))
    patches = network.encoder.vision.backbone.patch_embed.projection.weight
    assert torch.equal(patches, model.vision_encoder.backbone.patch_embed.projection.weight)
    assert torch.equal(prompter.no_memory_embedding, model.no_memory_embedding)


def test_what_is_missing_is_told_before_it_is_asked(tmp_path, monkeypatch):
    sam = FrozenSam2(1, TINY.changed({"weights": str(tmp_path / "nowhere")}))
    with pytest.raises(SettingError, match="not on this machine"):
        sam.refuse_absent_files()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingError, match=r"semivox\[sam\]"):
        FrozenSam2(1, TINY).refuse_absent_files()
