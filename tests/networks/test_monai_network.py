import pytest
import torch

from semivox.errors import SettingError
from semivox.networks import make_network


def fault(name: str, dimensions: int = 3, settings: dict | None = None, patch: tuple | None = None) -> str:
    with pytest.raises(SettingError) as caught:
        make_network(name, dimensions, 1, 2, settings, patch=patch)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "settings", "divisor"),
    [
        ("UNet", {"channels": (4, 8, 16), "strides": (2, 2)}, 4),
        ("UNet", {"channels": (4, 8), "strides": (2,)}, 2),
        ("SegResNet", {"init_filters": 8}, 8),
        ("HighResNet", {}, 1),
    ],
)
def test_the_divisor_is_found_by_trial(name, settings, divisor):
    assert make_network(f"monai:{name}", 2, 1, 2, settings).divisor == (divisor, divisor)


def test_networks_that_need_settings_have_defaults():
    assert make_network("monai:UNet", 2, 1, 2).divisor == (16, 16)
    assert make_network("monai:DynUNet", 2, 1, 2, {"filters": (2, 2, 2, 2, 2)}).divisor == (16, 16)


def test_deep_supervision_gives_the_finest_logits():
    network = make_network("monai:SegResNetDS", 2, 1, 2, {"init_filters": 8, "dsdepth": 3})
    assert network(torch.randn(1, 1, 40, 40)).shape == (1, 2, 40, 40)


def test_offers_no_capabilities():
    assert make_network("monai:UNet", 2, 1, 2).capabilities == frozenset()


def test_swin_unetr_pads_to_its_multiple():
    pytest.importorskip("einops")
    network = make_network("monai:SwinUNETR", 2, 1, 2, {"feature_size": 12}, patch=(64, 64))
    assert network.divisor == (32, 32)
    assert network.eval()(torch.randn(1, 1, 40, 70)).shape == (1, 2, 40, 70)


def test_a_network_of_one_image_size_takes_the_patch_and_nothing_larger():
    pytest.importorskip("einops")
    small = {"hidden_size": 12, "mlp_dim": 12, "num_heads": 2, "feature_size": 2}
    network = make_network("monai:UNETR", 2, 1, 2, small, patch=(32, 48)).eval()
    assert network(torch.randn(1, 1, 30, 48)).shape == (1, 2, 30, 48)
    with pytest.raises(SettingError, match=r"takes images of \(32, 48\) voxels, not \(33, 48\)"):
        network(torch.randn(1, 1, 33, 48))
    assert "give the patch" in fault("monai:UNETR", 2, small)


def test_an_unknown_name_names_the_nearest():
    assert fault("monai:SwinUNTER") == "unknown network 'monai:SwinUNTER'; did you mean 'monai:SwinUNETR'?"


def test_an_unknown_setting_names_the_nearest():
    assert fault("monai:UNet", settings={"stride": (2, 2)}) == (
        "unknown setting of network 'monai:UNet' 'stride'; did you mean 'strides'?"
    )


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("monai:UNet", {"channels": (4,), "strides": ()}, "cannot be built so"),
        ("monai:UNet", {"in_channels": 3}, "unknown setting"),
        ("monai:RegUNet", {}, "needs the settings num_channel_initial, depth"),
        ("monai:DenseNet", {}, "gives no segmentation of its input"),
    ],
)
def test_what_cannot_be_is_one_line(name, settings, expected):
    assert expected in fault(name, 3, settings)


def test_a_patch_that_is_too_small_is_one_line():
    assert "cannot take the patch (16, 16)" in fault("monai:BasicUNet", 2, patch=(16, 16))


def test_a_3d_only_network_refuses_two_dimensions():
    assert "3-D images only" in fault("monai:DAF3D", 2)
