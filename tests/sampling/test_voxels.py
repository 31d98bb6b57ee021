import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.sampling.voxels import voxels_of_classes

SPACES = [(7, 9), (5, 4, 6)]
SEEDS = (11, 12, 13)


def labels(space):
    label = torch.randint(0, 3, (3, *space), generator=torch.Generator().manual_seed(0))
    label[:, 0] = IGNORE
    label[1][label[1] == 2] = 0
    return label


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("count", [4, 30, 1000])
def test_voxels_are_different_ones_of_their_class_as_many_as_there_are(space, count):
    label = labels(space)
    places, drawn = voxels_of_classes(label, 3, count, SEEDS)
    assert places.shape == drawn.shape == (3, 3, min(count, int(np.prod(space))))
    for b in range(3):
        flat = label[b].flatten()
        for k in range(3):
            own = places[b, k][drawn[b, k]]
            assert (flat[own] == k).all()
            assert len(own.unique()) == len(own) == min(count, int((flat == k).sum()))


def test_a_draw_is_a_function_of_the_samples_seed():
    label = labels((7, 9))
    places, drawn = voxels_of_classes(label, 3, 5, SEEDS)
    alone, _ = voxels_of_classes(label[1:2], 3, 5, SEEDS[1:2])
    assert torch.equal(alone[0][drawn[1]], places[1][drawn[1]])
    others, _ = voxels_of_classes(label, 3, 5, (21, 22, 23))
    assert not torch.equal(others[drawn], places[drawn])


def test_every_voxel_of_a_class_has_the_same_chance():
    label = torch.zeros(2000, 10, dtype=torch.long)
    label[:, 5:] = IGNORE
    places, drawn = voxels_of_classes(label, 1, 2, range(2000))
    assert drawn.all()
    shares = np.bincount(places.flatten().numpy(), minlength=10) / places.numel()
    assert shares[:5] == pytest.approx(0.2, abs=0.03)
    assert shares[5:].sum() == 0
