import numpy as np
import pytest
import torch

from semivox.inference.clicks import NONE, OFF, ON, centre, next_clicks


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


def test_a_click_is_in_the_middle_of_what_is_missing_most():
    wanted = mask(".....##", ".###...", ".###...", ".###...", ".......")
    place, kind = next_clicks(wanted, torch.zeros_like(wanted))
    assert place.tolist() == [2, 2]  # x, y
    assert kind == ON


def test_what_is_too_much_is_clicked_off():
    wanted = mask("......", "......", "......")
    found = mask("......", "...#..", "......")
    place, kind = next_clicks(wanted, found)
    assert place.tolist() == [3, 1]
    assert kind == OFF


def test_where_nothing_is_wrong_there_is_no_click():
    wanted = mask("..##", "..##")
    assert next_clicks(wanted, wanted)[1] == NONE


def test_a_region_that_touches_the_border_is_not_clicked_there():
    assert centre(np.ones((5, 7), bool)) == (2, 2)


@pytest.mark.parametrize("seed", range(4))
def test_clicks_of_many_masks_are_those_of_each(seed):
    generator = torch.Generator().manual_seed(seed)
    wanted, found = (torch.rand(3, 2, 9, 8, generator=generator) > 0.6 for _ in range(2))
    found[1, 1] = wanted[1, 1]
    places, kinds = next_clicks(wanted, found)
    for index in np.ndindex(3, 2):
        place, kind = next_clicks(wanted[index], found[index])
        assert torch.equal(places[index], place)
        assert kinds[index] == kind
        if kind != NONE:
            x, y = place.int().tolist()
            assert wanted[index][y, x] == (kind == ON)
            assert wanted[index][y, x] != found[index][y, x]
    assert kinds[1, 1] == NONE
