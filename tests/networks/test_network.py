"""One tester for the whole family: what every network must do, in two and three dimensions."""

import copy
import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semivox.networks import find_network, make_network
from semivox.networks.network import Network

SETTINGS: dict[str, dict] = {
    "vnet": {"width": 4, "levels": 3},
    "unet": {"width": 4, "levels": 3},
    "residual_encoder_unet": {"width": 4, "blocks": (1, 2)},
    "diffusion_vnet": {"width": 4, "levels": 3},
    "sam2": {"size": "miniature"},
    "monai:UNet": {"channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 1},
    "monai:SegResNet": {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)},
}
OPEN = [name for name in SETTINGS if not name.startswith("monai:")]


def in_each_dimensionality(names):
    """Marks a test to run with each network in all dimensions that it reads."""
    pairs = [(name, dimensions) for dimensions in (2, 3) for name in names]
    return pytest.mark.parametrize(
        ("name", "dimensions"), [pair for pair in pairs if pair[1] in find_network(pair[0]).dimensionalities]
    )


every_network = in_each_dimensionality(SETTINGS)
open_networks = in_each_dimensionality(OPEN)


def build(
    name: str, dimensions: int, channels: int = 1, classes: int = 3, seed: int = 0, **settings: object
) -> Network:
    torch.manual_seed(seed)
    return make_network(name, dimensions, channels, classes, SETTINGS[name] | settings, patch=(16, 24, 16)[:dimensions])


def picture(dimensions: int, channels: int = 1, size: tuple[int, ...] = (16, 24, 16), batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *size[:dimensions], generator=torch.Generator().manual_seed(1))


def voxelwise(x: Tensor) -> Tensor:
    """A scalar that depends on every logit differently, so that no gradient cancels."""
    return (x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum()


@every_network
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 5)])
def test_logits_have_one_channel_per_class_and_the_inputs_size(name, dimensions, channels, classes):
    x = picture(dimensions, channels)
    assert build(name, dimensions, channels, classes)(x).shape == (2, classes, *x.shape[2:])


@every_network
@pytest.mark.parametrize("size", [(17, 21, 19), (23, 16, 31), (9, 40, 13)])
def test_any_input_size_is_accepted(name, dimensions, size):
    x = picture(dimensions, size=size)
    assert build(name, dimensions)(x).shape[2:] == x.shape[2:]


@open_networks
def test_a_single_voxel_is_accepted(name, dimensions):
    network = build(name, dimensions).eval()
    assert network(picture(dimensions, size=(1, 1, 1))).shape[2:] == (1,) * dimensions


@open_networks
def test_every_voxel_of_an_odd_image_reaches_the_coarsest_feature(name, dimensions):
    has_norm = "norm" in find_network(name).Settings.model_fields
    network = build(name, dimensions, **({"norm": "none"} if has_norm else {})).eval()
    x = picture(dimensions, size=(13, 13, 13), batch=1).requires_grad_()
    network.encode(x)[-1].square().sum().backward()
    assert (x.grad[(..., *(-1,) * dimensions)] != 0).all()


@every_network
def test_calling_is_encode_then_decode_then_head(name, dimensions):
    network = build(name, dimensions).eval()
    x = picture(dimensions)
    assert torch.equal(network(x), network.head(network.decode(network.encode(x))[-1]))


@open_networks
def test_features_run_fine_to_coarse_and_maps_back(name, dimensions):
    network = build(name, dimensions)
    x = picture(dimensions)
    features = network.encode(x)
    maps = network.decode(features)
    assert [feature.shape[1] for feature in features] == list(network.feature_channels)
    assert [level.shape[1] for level in maps] == list(network.map_channels)
    assert features[0].shape[2:] == maps[-1].shape[2:] == x.shape[2:]
    assert all(fine.numel() > coarse.numel() for fine, coarse in itertools.pairwise(f[0, 0] for f in features))
    assert all(coarse.numel() < fine.numel() for coarse, fine in itertools.pairwise(m[0, 0] for m in maps))


@in_each_dimensionality([name for name in OPEN if name != "sam2"])  # whose coarsest level joins the one above
def test_the_coarsest_feature_is_smaller_by_the_divisor(name, dimensions):
    network = build(name, dimensions)
    x = picture(dimensions)
    coarsest = tuple(size // factor for size, factor in zip(x.shape[2:], network.divisor, strict=True))
    assert tuple(network.encode(x)[-1].shape[2:]) == coarsest


@open_networks
def test_features_may_be_changed_between_encode_and_decode(name, dimensions):
    network = build(name, dimensions).eval()
    x = picture(dimensions)
    features = network.encode(x)
    kept = [feature.clone() for feature in features]
    network.decode(features)
    assert all(torch.equal(feature, before) for feature, before in zip(features, kept, strict=True))
    perturbed = network.head(network.decode([feature + 1 for feature in features])[-1])
    assert not torch.allclose(perturbed, network(x))


@open_networks
def test_a_new_decoder_and_a_new_head_fit_and_are_new(name, dimensions):
    network = build(name, dimensions)
    features = network.encode(picture(dimensions))
    second = network.new_decoder()
    maps = network.decode(features)
    others = second(features)
    assert [level.shape for level in others] == [level.shape for level in maps]
    assert not torch.equal(others[-1], maps[-1])
    assert network.new_head(7)(maps[-1]).shape == (2, 7, *maps[-1].shape[2:])
    assert network.new_head(2, level=0)(maps[0]).shape == (2, 2, *maps[0].shape[2:])


@every_network
def test_the_gradient_reaches_every_weight(name, dimensions):
    network = build(name, dimensions)
    voxelwise(network(picture(dimensions))).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        # A bias before a normalisation is taken away again: its gradient is zero but for rounding.
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, parameter_name


@every_network
def test_weights_survive_safetensors(name, dimensions, tmp_path):
    network = build(name, dimensions, seed=0)
    network(picture(dimensions))  # moves the running statistics
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    other = build(name, dimensions, seed=1)
    x = picture(dimensions)
    assert not torch.equal(network.eval()(x), other.eval()(x))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(network(x), other(x))


@every_network
def test_the_seed_decides_the_weights(name, dimensions):
    one, same, other = (build(name, dimensions, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@every_network
def test_a_copy_is_independent(name, dimensions):
    network = build(name, dimensions).eval()
    x = picture(dimensions)
    before = network(x)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(x), before)
    assert not torch.equal(twin(x), before)


@every_network
def test_bfloat16_autocast_is_finite_and_close(name, dimensions):
    compare_with_bfloat16(build(name, dimensions), dimensions)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_bfloat16_autocast_is_finite_and_close_with_every_normalisation(norm, dimensions):
    compare_with_bfloat16(build("vnet", dimensions, norm=norm), dimensions)


def compare_with_bfloat16(network: nn.Module, dimensions: int) -> None:
    """Training and evaluation, on an image with a constant region, where a variance is nearly zero."""
    for layer in network.modules():  # random masks would differ between the two precisions
        if hasattr(layer, "p") and isinstance(layer.p, float):
            layer.p = 0.0
    x = picture(dimensions)
    x[..., :8] = 0.0
    for mode in (True, False):
        network.train(mode)
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
        assert half.isfinite().all()
        assert (half.float() - exact).abs().mean() < 0.05 * exact.std()
        network.zero_grad()
        voxelwise(half.float()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@every_network
def test_channels_last_changes_no_logit(name, dimensions):
    network = build(name, dimensions).eval()
    x = picture(dimensions)
    expected = network(x)
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    actual = network.to(memory_format=layout)(x.to(memory_format=layout))
    assert torch.allclose(actual, expected, atol=1e-4)
