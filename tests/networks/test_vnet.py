import pytest
import torch

from semivox.errors import SettingError
from semivox.networks import make_network
from semivox.networks.vnet import VNet, VNetSettings


def count(*modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_has_the_literatures_number_of_parameters():
    assert count(make_network("vnet", 3, 1, 2)) == 9_448_866
    assert count(make_network("vnet", 3, 1, 2, {"norm": "instance"})) == 9_443_266


VERSEMI = {"norm": "instance", "dropout": 0.0, "finest_skip": False}


def test_has_versemis_parameters_stage_by_stage_without_the_finest_skip():
    network = make_network("vnet", 3, 1, 2, VERSEMI)
    encoder, decoder = network.encoder, network.decoder
    assert [count(block) for block in encoder.blocks] == [448, 55_360, 331_968, 1_327_488, 5_309_184]
    assert [count(down) for down in encoder.downs] == [4_128, 16_448, 65_664, 262_400]
    assert [count(up) for up in decoder.ups] == [262_272, 65_600, 16_416, 4_112]
    assert [count(block) for block in decoder.blocks] == [1_327_488, 331_968, 55_360]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_the_finest_skip_the_last_map_comes_from_the_coarser_ones_alone(dimensions):
    network = make_network("vnet", dimensions, 1, 2, {**VERSEMI, "width": 2, "levels": 3})
    x = torch.randn(1, 1, *(13, 10, 11)[:dimensions])
    finest, *coarser = network.encode(x)
    maps = network.decode([finest, *coarser])
    changed = network.decode([finest + torch.randn_like(finest), *coarser])
    assert all(torch.equal(one, other) for one, other in zip(maps, changed, strict=True))
    assert maps[-1].shape == (1, 2, *x.shape[2:])
    assert not torch.equal(maps[-1], network.decode([finest, *(feature + 1 for feature in coarser)])[-1])


def test_mc_nets_further_decoders_have_the_literatures_number_of_parameters():
    network = make_network("vnet", 3, 1, 2)
    further = [count(network.new_decoder(upsampling=kind), network.new_head(2)) for kind in ("linear", "nearest")]
    assert count(network) + further[0] == 12_347_716
    assert count(network) + sum(further) == 15_246_566


@pytest.mark.parametrize(
    ("patch", "levels"),
    [((112, 112, 80), 5), ((96, 96, 96), 5), ((56, 56, 40), 4), ((40, 56, 48), 4), ((16, 64, 64), 3), ((6, 64, 64), 2)],
)
def test_depth_follows_the_patch(patch, levels):
    network = make_network("vnet", 3, 1, 2, {"width": 1}, patch=patch)
    assert network.settings.levels == levels
    assert network.divisor == (2 ** (levels - 1),) * 3


def test_given_levels_win_over_the_patch():
    assert make_network("vnet", 3, 1, 2, {"width": 1, "levels": 3}, patch=(112, 112, 80)).settings.levels == 3


def test_convolutions_per_level_go_on_with_the_last_number():
    network = make_network("vnet", 2, 1, 2, {"width": 1, "levels": 4, "convolutions": [1, 2]})
    kernels = [sum(isinstance(layer, torch.nn.Conv2d) for layer in block.modules()) for block in network.encoder.blocks]
    assert kernels == [1, 2, 2, 2]


def test_dropout_drops_whole_channels_of_bottleneck_and_last_map_in_training_only():
    torch.manual_seed(0)
    network = VNet(3, 1, 2, VNetSettings(width=8, levels=3, norm="none"))
    x = torch.randn(1, 1, 8, 8, 8)
    silent = [(feature == 0).flatten(2).all(2).float().mean().item() for feature in network.encode(x)]
    assert silent[-1] > 0.25 > silent[0]
    assert network.classifier[0].p == 0.5
    assert torch.equal(network.eval()(x), network(x))


def test_residual_adds_no_parameters_and_changes_the_output():
    plain, residual = (
        make_network("vnet", 2, 1, 2, {"width": 2, "levels": 3, "residual": residual}).eval()
        for residual in (False, True)
    )
    residual.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 16, 16)
    assert not torch.allclose(plain(x), residual(x))


@pytest.mark.parametrize("upsampling", ["transposed", "linear", "nearest"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_upsampling_fits_odd_sizes(upsampling, dimensions):
    network = make_network("vnet", dimensions, 1, 2, {"width": 2, "levels": 3, "upsampling": upsampling})
    assert network(torch.randn(2, 1, *(13, 10, 11)[:dimensions])).shape == (2, 2, *(13, 10, 11)[:dimensions])


def test_a_changed_decoder_is_checked_too():
    with pytest.raises(ValueError, match="upsampling"):
        make_network("vnet", 2, 1, 2, {"width": 2}).new_decoder(upsampling="bilinear")


def test_a_wrong_value_is_one_line():
    with pytest.raises(SettingError) as fault:
        make_network("vnet", 3, 1, 2, {"levels": 1})
    assert str(fault.value) == "network 'vnet': levels: input should be greater than or equal to 2"
