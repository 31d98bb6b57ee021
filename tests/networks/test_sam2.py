import math
import sys

import pytest
import torch
from torch import nn

from semivox.errors import SettingError
from semivox.methods.method import Optimiser
from semivox.networks import make_network
from semivox.networks.layers import cut_to, pad_to_multiple
from semivox.networks.sam2 import IMAGENET_DEVIATION, IMAGENET_MEAN
from semivox.training.config import TrainingSettings
from semivox.training.optimisation import make_optimiser

ENCODER = {"tiny": 26_849_472 + 369_664, "small": 33_947_328 + 369_664}
LORA = {"tiny": 72_576, "small": 97_152}


def build(channels: int = 1, seed: int = 0, **settings: object):
    torch.manual_seed(seed)
    return make_network("sam2", 2, channels, 3, {"size": "miniature", **settings})


def picture(height: int = 64, width: int = 96, channels: int = 1) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_encoder_has_the_published_number_of_weights(size):
    with torch.device("meta"):
        encoder = make_network("sam2", 2, 1, 2, {"size": size}).encoder
        adapted = make_network("sam2", 2, 1, 2, {"size": size, "tuning": "lora"}).encoder
    assert sum(p.numel() for p in encoder.parameters()) == trainable(encoder) == ENCODER[size]
    assert trainable(adapted) == LORA[size]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (1, 33)])
def test_features_are_the_image_and_maps_of_strides_4_8_16_of_the_padded_image(height, width):
    network, x = build(), picture(height, width)
    padded = [math.ceil(size / 32) * 32 for size in (height, width)]
    image, *levels = network.encode(x)
    assert torch.equal(image, x.expand(-1, 3, -1, -1))
    assert [tuple(level.shape[2:]) for level in levels] == [(padded[0] // s, padded[1] // s) for s in (4, 8, 16)]
    assert network(x).shape == (2, 3, height, width)


def test_padding_is_zeros_at_the_end_of_each_axis():
    network, x = build(), picture(50, 70)
    whole = network(pad_to_multiple(x, (32, 32)))
    assert torch.allclose(network(x), cut_to(whole, (50, 70)))


def test_the_head_on_the_stride_4_map_gives_the_same_logits_for_less():
    network, x = build(), picture()
    maps = network.decode(network.encode(x))
    small = network.head(maps[-2])
    assert tuple(small.shape[2:]) == (16, 24)
    assert torch.allclose(nn.functional.interpolate(small, scale_factor=4, mode="bilinear"), network(x), atol=1e-5)


@pytest.mark.parametrize("upsampling", ["linear", "nearest", "transposed"])
def test_further_decoders_differ_in_how_they_go_up(upsampling):
    network, x = build(), picture(50, 70)
    decoder = network.new_decoder(upsampling=upsampling)
    maps = decoder(network.encode(x))
    assert [level.shape[1] for level in maps] == list(network.map_channels)
    assert tuple(maps[-1].shape[2:]) == (50, 70)
    assert any(isinstance(layer, nn.ConvTranspose2d) for layer in decoder.modules()) == (upsampling == "transposed")


def test_intensities_from_0_to_1_are_brought_to_imagenets_statistics():
    x = picture(32, 32, channels=3).sigmoid()
    network = build(channels=3, intensities="unit")
    image = network.encode(x)[0]
    for colour in range(3):
        expected = (x[:, colour] - IMAGENET_MEAN[colour]) / IMAGENET_DEVIATION[colour]
        assert torch.allclose(image[:, colour], expected, atol=1e-6)
    assert torch.equal(build(channels=3).encode(x)[0], x), "standardised intensities go in as they are"
    assert network.state_dict().keys() == build(channels=3).state_dict().keys()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_numbers_of_channels_begin_as_averages_and_are_learnt(channels):
    network, x = build(channels=channels), picture(32, 32, channels)
    image = network.encode(x)[0]
    own = [x[:, colour::3] if colour < channels else x for colour in range(3)]
    assert torch.allclose(image, torch.stack([part.mean(1) for part in own], 1), atol=1e-6)
    network(x).square().sum().backward()
    assert network.encoder.colours.weight.grad.abs().max() > 0


def test_a_frozen_encoder_learns_nothing_and_a_low_rank_one_begins_as_it_was():
    x = picture()
    frozen, adapted = build(tuning="frozen"), build(tuning="lora", lora_rank=2)
    assert trainable(frozen.encoder) == 0
    assert trainable(frozen.decoder) > 0
    adapted.encoder.load_state_dict(frozen.encoder.state_dict(), strict=False)
    for one, other in zip(frozen.encode(x), adapted.encode(x), strict=True):
        assert torch.equal(one, other)
    learning = {name for name, p in adapted.encoder.named_parameters() if p.requires_grad}
    assert all(name.endswith(("qkv.lora_down", "qkv.lora_up")) for name in learning)
    assert len(learning) == 2 * 5
    adapted(x).square().sum().backward()
    # B = 0 lets no gradient through to A at the first step.
    assert all(adapted.get_parameter(f"encoder.{name}").grad.abs().max() > 0 for name in learning if "up" in name)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1.0),
        ({"encoder_rate": 0.025}, 0.025),
        ({"weights": "folder"}, 0.05),
        ({"weights": "folder", "tuning": "lora"}, 1.0),
    ],
)
def test_the_encoders_learning_rate_is_the_runs_times_a_factor(settings, factor):
    network = build(**settings)
    made = make_optimiser(Optimiser("main", (network,)), TrainingSettings(iterations=1, learning_rate=0.1))
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in network.encoder.parameters() if p.requires_grad} == {0.1 * factor}
    assert {rates[id(p)] for p in network.decoder.parameters()} == {0.1}
    assert len(rates) == sum(p.requires_grad for p in network.parameters())


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingError, match=r"'transformers'; install it with: pip install 'semivox\[sam\]'$"):
        build()


def test_volumes_are_refused():
    with pytest.raises(SettingError, match=r"^network 'sam2' does not read 3-D patches; .*plan.patch"):
        make_network("sam2", 3, 1, 2, {"size": "miniature"})
