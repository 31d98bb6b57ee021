"""The sliding window that the inference settings ask for."""

import pytest

from semivox.errors import SettingError
from semivox.training.config import InferenceSettings
from semivox.training.windowing import make_windows


def test_published_strides_count_the_axes_of_the_patch(make_config):
    settings = InferenceSettings(stride=(8, 8, 4), weighting="uniform")
    windows = make_windows(make_config().plan, settings, "32")
    assert (windows.stride, windows.weighting) == ((8, 8, 4), "uniform")
    slices = make_windows(make_config(dimensions=2).plan, InferenceSettings(stride=(4, 8)), "32")
    assert (slices.window, slices.stride) == ((16, 16, 1), (4, 8, 1))


@pytest.mark.parametrize("settings", [{"stride": (8, 8)}, {"stride": (17, 8, 8)}, {"flips": (3,)}])
def test_what_does_not_fit_the_patch_is_one_line(make_config, settings):
    with pytest.raises(SettingError) as caught:
        make_windows(make_config().plan, InferenceSettings(**settings), "32")
    assert "\n" not in str(caught.value)
