import pytest
import torch

from semivox.networks import make_network


def count(*modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_has_the_literatures_number_of_parameters():
    network = make_network("unet", 2, 1, 4)
    assert count(network) == 1_813_764
    assert count(network.encoder) == 1_180_464
    assert count(network.decoder, network.classifier) == 633_300


def test_further_decoders_have_the_literatures_number_of_parameters():
    network = make_network("unet", 2, 1, 4)
    auxiliary = count(network.new_decoder(), network.new_head(4))
    transposed = count(network.new_decoder(upsampling="transposed"), network.new_head(4))
    nearest = count(network.new_decoder(upsampling="nearest"), network.new_head(4))
    assert count(network) + 3 * auxiliary == 3_713_664  # CCT
    assert count(network) + transposed == 2_577_624  # MC-Net with 2, 3 and 4 decoders
    assert count(network) + transposed + auxiliary == 3_210_924
    assert count(network) + transposed + auxiliary + nearest == 3_844_224


def test_the_3d_network_has_the_literatures_number_of_parameters():
    assert count(make_network("unet", 3, 1, 2)) == 5_884_050


def test_dropout_grows_with_depth_and_is_in_the_encoder_only():
    network = make_network("unet", 2, 1, 4)
    rates = [layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout) and layer.p]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]


@pytest.mark.parametrize(("patch", "levels"), [((256, 256), 5), ((64, 64), 5), ((48, 64), 4), ((12, 256), 2)])
def test_depth_follows_the_patch(patch, levels):
    assert make_network("unet", 2, 1, 4, {"width": 1}, patch=patch).settings.levels == levels


@pytest.mark.parametrize("upsampling", ["transposed", "linear", "nearest"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_upsampling_fits_odd_sizes(upsampling, dimensions):
    network = make_network("unet", dimensions, 1, 2, {"width": 2, "levels": 3, "upsampling": upsampling})
    assert network(torch.randn(2, 1, *(13, 10, 11)[:dimensions])).shape == (2, 2, *(13, 10, 11)[:dimensions])


def test_interpolates_with_aligned_corners_in_2d():
    up = make_network("unet", 2, 1, 2, {"width": 1, "levels": 2}).decoder.ups[0]
    torch.nn.init.ones_(up.convolution.weight)
    torch.nn.init.zeros_(up.convolution.bias)
    line = torch.tensor([0.0, 3.0]).view(1, 1, 2, 1).expand(1, 2, 2, 2) / 2
    assert torch.allclose(up(line, (4, 4))[0, 0, :, 0], torch.tensor([0.0, 1.0, 2.0, 3.0]))
