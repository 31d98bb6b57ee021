import pytest
import torch

from semivox.errors import SettingError
from semivox.networks import make_network
from semivox.networks.residual_encoder_unet import plan_stages


def test_isotropic_voxels_are_halved_alike():
    strides, kernels = plan_stages((128, 128, 128), (1.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert kernels == ((3, 3, 3),) * 6


def test_thick_slices_are_kept_apart_until_voxels_are_cubes():
    strides, kernels = plan_stages((256, 224, 16), (1.4, 1.4, 10.0))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert kernels == ((3, 3, 1), (3, 3, 1), *[(3, 3, 3)] * 4)


@pytest.mark.parametrize("patch", [(5, 4, 4), (1, 1, 1), (32, 32, 4)])
def test_a_small_patch_still_gives_two_stages(patch):
    strides, kernels = plan_stages(patch, (1.0, 1.0, 1.0))
    assert len(strides) == len(kernels) >= 2


def test_no_axis_falls_below_four_voxels():
    for patch in [(40, 56, 48), (20, 320, 256), (64, 9, 64)]:
        strides, _ = plan_stages(patch, (1.0, 1.0, 1.0))
        for size, steps in zip(patch, zip(*strides, strict=True), strict=True):
            for step in steps:
                size = -(-size // step)
            assert size >= 4


def test_divisor_and_shapes_follow_the_plan():
    network = make_network(
        "residual_encoder_unet", 3, 1, 2, {"width": 2, "blocks": [1]}, patch=(64, 64, 8), spacing_mm=(1, 1, 5)
    )
    assert network.divisor == (16, 16, 2)
    x = torch.randn(1, 1, 64, 64, 8)
    features = network.encode(x)
    assert tuple(features[-1].shape[2:]) == (4, 4, 4)
    assert network.decode(features)[-1].shape[2:] == x.shape[2:]


def test_width_doubles_up_to_its_limit():
    network = make_network("residual_encoder_unet", 2, 1, 2, {"width": 4, "max_width": 12, "blocks": [1]})
    assert network.feature_channels == (4, 8, 12, 12, 12, 12)


def test_blocks_per_stage():
    network = make_network("residual_encoder_unet", 2, 1, 2, {"width": 2, "blocks": [1, 3, 2]})
    assert [len(stage) for stage in network.encoder.stages] == [1, 3, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"strides": [[1, 1], [2, 2]], "kernels": [[3, 3]]}, "2 strides but 1 kernels; give one of each per stage"),
        ({"strides": [[1, 1], *[[3, 3]] * 5]}, "strides must be 1 or 2 along each axis"),
        ({"kernels": [[3, 2]] * 6}, "kernels must be 1 or 3 along each axis"),
        ({"strides": [[1, 1, 1], *[[2, 2, 2]] * 5]}, "strides and kernels need 2 numbers per stage"),
        ({"kernels": [[3, 3]] * 4}, "6 strides but 4 kernels; give one of each per stage"),
    ],
)
def test_settings_that_disagree_are_one_line(settings, fault):
    with pytest.raises(SettingError) as caught:
        make_network("residual_encoder_unet", 2, 1, 2, settings)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stages_begin_with_activations_of_one_size():
    torch.manual_seed(0)
    network = make_network("residual_encoder_unet", 2, 1, 2, {"width": 16, "norm": "none", "blocks": [1]}).eval()
    deviations = [feature.std() for feature in network.encode(torch.randn(2, 1, 64, 64))]
    assert all(0.3 < deviation < 30 for deviation in deviations)


@pytest.mark.parametrize("upsampling", ["linear", "nearest"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_decoder_may_interpolate_instead_of_transposing(dimensions, upsampling):
    patch, spacing_mm = (24, 16, 8)[:dimensions], (1.0, 1.0, 3.0)[:dimensions]
    network = make_network("residual_encoder_unet", dimensions, 1, 2, {"width": 2}, patch=patch, spacing_mm=spacing_mm)
    features = network.encode(torch.randn(1, 1, *(size - 1 for size in patch)))
    maps = network.new_decoder(upsampling=upsampling)(features)
    assert [m.shape for m in maps] == [m.shape for m in network.decode(features)]
    kinds = {type(layer).__name__ for layer in network.new_decoder(upsampling=upsampling).modules()}
    assert not any("Transpose" in kind for kind in kinds)
