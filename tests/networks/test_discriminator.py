import pytest
import torch
from torch.nn import functional as F

from semivox.networks.discriminator import Discriminator


@pytest.mark.parametrize(
    ("dimensions", "maps", "expected"),
    [(3, 1, 11_020_290), (3, 2, 11_024_386), (2, 4, 2_762_754)],
    ids=["LA", "BraTS", "ACDC"],
)
def test_the_published_number_of_parameters(dimensions, maps, expected):
    with torch.device("meta"):
        discriminator = Discriminator(dimensions, maps, channels=1)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == expected


@pytest.mark.parametrize("size", [(1, 1), (24, 24), (33, 50), (5, 7, 3), (16, 16, 12)])
def test_patches_of_any_size_are_told_apart(size):
    discriminator = Discriminator(len(size), maps=2, channels=3)
    logits = discriminator(torch.randn(2, 2, *size), torch.randn(2, 3, *size))
    assert logits.shape == (2, 2)
    assert (logits[0] != logits[1]).all()


def test_the_published_patch_keeps_its_published_features():
    """In 3-D the mean is over all of space, as that of a window of 7x7x5 on a patch of 112x112x80."""
    discriminator = Discriminator(3, maps=1, channels=1).eval()
    maps, image = torch.randn(2, 1, 1, 32, 32, 16)
    x = F.conv3d(maps, discriminator.maps.weight, discriminator.maps.bias, 2, 1)
    x = F.leaky_relu(x + F.conv3d(image, discriminator.image.weight, discriminator.image.bias, 2, 1), 0.2)
    for level in discriminator.levels:
        x = F.leaky_relu(F.conv3d(x, level.weight, level.bias, 2, 1), 0.2)
    assert x.shape == (1, 512, 2, 2, 1)
    expected = discriminator.classifier(x.mean((2, 3, 4)))
    torch.testing.assert_close(discriminator(maps, image), expected, rtol=1e-4, atol=1e-6)


def test_in_2d_each_quarter_of_the_patch_has_a_mean_of_its_own():
    discriminator = Discriminator(2, maps=1, channels=1)
    maps, image = torch.randn(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    seen = []
    discriminator.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    discriminator(maps, image)
    changed = maps.clone()
    changed[..., :4, :4] += 10
    discriminator(changed, image)
    moved = (seen[0] != seen[1]).view(512, 2, 2)
    assert moved[:, 0, 0].any()
    assert not moved[:, 1, 1].any()


def test_features_are_disturbed_after_every_level_but_the_last():
    discriminator = Discriminator(2, maps=1, channels=1)
    seen = []

    def disturb(features, level):
        seen.append((level, features.shape[1]))
        return 0 * features

    maps, image = torch.randn(2, 2, 1, 32, 32)
    assert torch.equal(*discriminator(maps, image, disturb)), "what is lost on the way tells nothing"
    assert seen == [(0, 64), (1, 128), (2, 256)]
