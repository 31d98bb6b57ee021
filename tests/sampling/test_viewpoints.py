import numpy as np
import pytest
import torch

from semivox.sampling.viewpoints import VIEWPOINTS, seen_back, seen_from

SPACES = [(3, 4), (2, 3, 4)]


@pytest.mark.parametrize("space", SPACES)
def test_every_viewpoint_is_another_and_leads_back(space):
    x = torch.randn(2, 3, *space)
    views = range(VIEWPOINTS[len(space)])
    assert torch.equal(seen_from(x, 0), x)
    for view in views:
        assert torch.equal(seen_back(seen_from(x, view), view), x)
    seen = [seen_from(x, view) for view in views]
    assert len({(tuple(one.shape), one.contiguous().numpy().tobytes()) for one in seen}) == len(seen)


def test_a_picture_is_turned_by_quarters_and_a_volume_has_its_axes_exchanged():
    picture, volume = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 2, 3, 4)
    for view in range(4):
        np.testing.assert_array_equal(seen_from(picture, view)[0, 0], np.rot90(picture[0, 0], view))
    np.testing.assert_array_equal(seen_from(volume, 1)[0, 0], np.transpose(volume[0, 0], (1, 2, 0)))


def test_the_first_three_views_of_a_volume_put_each_axis_in_each_place():
    volume = torch.zeros(1, 1, 2, 3, 4)
    shapes = np.array([seen_from(volume, view).shape[2:] for view in range(3)])
    assert all(sorted(place) == [2, 3, 4] for place in shapes.T)
