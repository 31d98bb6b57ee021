import pytest
import torch

from semivox.errors import SettingError
from semivox.networks import NETWORKS, find_network, make_network, network_settings
from semivox.networks.network import Network

SMALL = {"sam2": {"size": "miniature"}}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_registered_name_is_a_network(name):
    assert issubclass(find_network(name), Network)


@pytest.mark.parametrize(
    ("name", "dimensions"), [(name, number) for name in NETWORKS for number in find_network(name).dimensionalities]
)
def test_resolved_settings_build_the_same_network_again(name, dimensions):
    patch, spacing_mm = (48, 40, 24)[:dimensions], (1.0, 1.0, 3.0)[:dimensions]
    network = make_network(name, dimensions, 1, 2, SMALL.get(name, {"width": 2}), patch=patch, spacing_mm=spacing_mm)
    again = make_network(name, dimensions, 1, 2, network.settings.model_dump(mode="json"))
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, *patch)
    assert torch.equal(network.eval()(x), again.eval()(x))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(SettingError, match=r"unknown network 'v-net'; did you mean 'vnet'\?"):
        make_network("v-net", 3, 1, 2)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(SettingError, match=r"unknown setting of network 'unet' 'widht'; did you mean 'width'\?"):
        network_settings("unet", 2, {"widht": 8})


def test_a_patch_of_other_dimensions_is_refused():
    with pytest.raises(SettingError, match=r"patch \(64, 64\) does not have 3 dimensions"):
        make_network("vnet", 3, 1, 2, patch=(64, 64))


def test_a_monai_name_is_found_too():
    assert issubclass(find_network("monai:UNet"), Network)
    with pytest.raises(SettingError, match=r"did you mean 'monai:UNet'\?"):
        find_network("monai:UNEt")
