"""The diffusion V-Net: published sizes, the passes as they are published, and what its two halves share."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semivox.networks import make_network
from semivox.networks.diffusion_vnet import time_embedding
from semivox.networks.layers import without_dropout

in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])
TIME_LAYER = 513
"""Parameters of a time layer, for each of its channels."""


def count(*modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def pair(dimensions=3, channels=1, classes=3, **settings):
    torch.manual_seed(0)
    network = make_network("diffusion_vnet", dimensions, channels, classes, {"width": 4, "levels": 3} | settings)
    return network, network.new_denoiser()


def inputs(dimensions, channels=1, classes=3, size=(9, 12, 10)):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, channels, *size[:dimensions], generator=generator)
    noisy = torch.randn(2, classes, *size[:dimensions], generator=generator)
    return image, noisy, torch.tensor([3, 700])


def test_has_the_published_numbers_of_parameters():
    with torch.device("meta"):
        network = make_network("diffusion_vnet", 3, 1, 2)
        denoiser, psi = network.new_denoiser(), (network.new_decoder(), network.new_head(2))
    theta = (network.decoder, network.classifier)
    assert count(network) == 37_777_730
    assert count(*theta) == count(*psi) == 8_282_434
    assert sum(len(list(part.parameters())) for part in theta) == 54
    assert count(network, denoiser, *psi) == 56_791_654

    # The published totals count time layers that no pass goes through: one after each block's last convolution, those
    # of both stems among them, and the image stem's embedding.
    encoder_unused, decoder_unused = (TIME_LAYER * 32 * sum(widths) for widths in ((2, 4, 8, 16), (8, 4, 2, 1)))
    assert count(network.encoder.body, denoiser.encoder_times) + encoder_unused == 31_431_424
    assert count(denoiser.encoder_times) + encoder_unused == 1_937_088
    assert count(denoiser.decoder, denoiser.head, denoiser.decoder_times) + decoder_unused == 9_201_730
    unused = encoder_unused + decoder_unused + 2 * TIME_LAYER * 32 + count(denoiser.embedding)
    assert count(network, denoiser, *psi) + unused == 57_891_910


def test_every_weight_of_a_decoder_has_one_of_the_same_shape_in_the_denoiser():
    network, denoiser = pair()
    theta = [p.shape for part in (network.decoder, network.classifier) for p in part.parameters()]
    assert theta == [p.shape for part in (denoiser.decoder, denoiser.head) for p in part.parameters()]


def test_the_embedding_of_a_step_has_the_published_values():
    found = time_embedding(torch.tensor([500.0], dtype=torch.float64))[0]
    places = [0, 1, 31, 63, 64, 65, 95, 127]
    expected = [-0.467772, -0.999682, -0.785811, 0.049979, -0.883849, 0.025232, 0.618467, 0.998750]
    assert found[places].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_embedding_agrees_with_a_loop_and_takes_whole_numbers():
    times = (0, 1, 555, 999)
    found = time_embedding(torch.tensor(times))
    assert found.dtype == torch.float32
    for row, time in zip(found.tolist(), times, strict=True):
        for i in range(64):
            angle = time * math.exp(-math.log(10000) * i / 63)
            assert (row[i], row[64 + i]) == pytest.approx((math.sin(angle), math.cos(angle)), abs=1e-4)


class Published:
    """The passes as the document tells them, written out once more: one function a stage, on the weights by name."""

    def __init__(self, network, denoiser, dimensions, training):
        self.state = network.state_dict() | {f"xi.{name}": value for name, value in denoiser.state_dict().items()}
        self.conv = {2: F.conv2d, 3: F.conv3d}[dimensions]
        self.up = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[dimensions]
        self.training = training
        self.used = set()

    def take(self, name):
        self.used.add(name)
        return self.state[name]

    def finished(self, x, name):
        statistics = (
            (None, None) if self.training else (self.take(f"{name}.running_mean"), self.take(f"{name}.running_var"))
        )
        return F.batch_norm(
            F.relu(x), *statistics, self.take(f"{name}.weight"), self.take(f"{name}.bias"), self.training
        )

    def block(self, x, name, count, times=None):
        for index in range(count):
            layer = f"{name}.layers.{index}"
            x = self.conv(x, self.take(f"{layer}.0.weight"), self.take(f"{layer}.0.bias"), padding=1)
            x = self.finished(x, f"{layer}.2")
            if times and index < count - 1:
                x = times(x)
        return x

    def times(self, time, name):
        """A function that adds the next time layer's bias."""
        numbers = iter(range(99))

        def add(x):
            layer = f"xi.{name}.{next(numbers)}"
            bias = F.linear(F.silu(time), self.take(f"{layer}.weight"), self.take(f"{layer}.bias"))
            return x + bias.reshape(*bias.shape, *[1] * (x.ndim - 2))

        return add

    def body(self, x, times=None):
        features = [x]
        for level, count in ((0, 2), (1, 3)):
            down = f"encoder.body.downs.{level}"
            odd = [part for size in reversed(x.shape[2:]) for part in (0, size % 2)]
            x = self.conv(F.pad(x, odd), self.take(f"{down}.0.weight"), self.take(f"{down}.0.bias"), stride=2)
            x = self.finished(x, f"{down}.2")
            x = self.block(times(x) if times else x, f"encoder.body.blocks.{level}", count, times)
            features.append(x)
        return features

    def decoder(self, features, name, head, times=None):
        x = features[-1]
        for number, count in ((0, 2), (1, 1)):
            up, skip = f"{name}.ups.{number}", features[-2 - number]
            x = self.up(x, self.take(f"{up}.convolution.weight"), self.take(f"{up}.convolution.bias"), stride=2)
            x = self.finished(x, f"{up}.finish.1")[(..., *(slice(size) for size in skip.shape[2:]))]
            x = self.block((times(x) if times else x) + skip, f"{name}.blocks.{number}", count, times)
        return self.conv(x, self.take(f"{head}.1.weight"), self.take(f"{head}.1.bias"))

    def image_pass(self, image):
        return self.decoder(self.body(self.block(image, "encoder.stem", 1)), "decoder", "classifier")

    def diffusion_pass(self, image, noisy, t):
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(64) / 63)
        time = torch.cat([angles.sin(), angles.cos()], 1)
        for number in (0, 2):
            time = F.linear(time, self.take(f"xi.embedding.{number}.weight"), self.take(f"xi.embedding.{number}.bias"))
            time = F.silu(time) if number == 0 else time
        x = self.block(torch.cat([image, noisy], 1), "xi.stem", 1)
        features = self.body(x, self.times(time, "encoder_times"))
        return self.decoder(features, "xi.decoder", "xi.head", self.times(time, "decoder_times"))


@in_2d_and_3d
@pytest.mark.parametrize("training", [True, False])
def test_both_passes_are_the_published_ones(dimensions, training):
    network, denoiser = pair(dimensions)
    image, noisy, times = inputs(dimensions)
    network(image), denoiser(image, noisy, times)  # moves the running statistics
    for module in (network, denoiser):
        without_dropout(module).train(training)
    published = Published(network, denoiser, dimensions, training)
    with torch.no_grad():
        expected = published.image_pass(image), published.diffusion_pass(image, noisy, times)
        found = network(image), denoiser(image, noisy, times)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    weights = {name for name, _ in network.named_parameters()} | {f"xi.{n}" for n, _ in denoiser.named_parameters()}
    assert weights <= published.used


@in_2d_and_3d
def test_the_encoder_beyond_its_stem_is_shared_and_the_rest_is_each_halfs_own(dimensions):
    network, denoiser = pair(dimensions, channels=2)
    assert not {id(p) for p in network.parameters()} & {id(p) for p in denoiser.parameters()}
    denoiser(*inputs(dimensions, channels=2)).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in network.named_parameters() if name.startswith("encoder.body.")}
    assert all(p.grad.abs().max() > 0 for name, p in denoiser.named_parameters() if not name.endswith("bias"))


@in_2d_and_3d
def test_the_denoiser_depends_on_image_map_and_step_and_takes_any_size(dimensions):
    network, denoiser = pair(dimensions)
    network.eval(), denoiser.eval()
    image, noisy, times = inputs(dimensions, size=(13, 7, 9))
    with torch.no_grad():
        found = denoiser(image, noisy, times)
        assert found.shape == noisy.shape
        assert not torch.allclose(denoiser(image + 1, noisy, times), found)
        assert not torch.allclose(denoiser(image, noisy + 1, times), found)
        assert not torch.allclose(denoiser(image, noisy, times.flip(0)), found)
        one = denoiser(image[:1], noisy[:1], times[:1])
    torch.testing.assert_close(found[:1], one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_every_normalisation_follows_the_relu(norm):
    network, denoiser = pair(2, norm=norm)
    image, noisy, times = inputs(2)
    assert denoiser(image, noisy, times).isfinite().all()
    last = network.decode(network.encode(image))[-1].detach().numpy()
    # After ReLU and then a norm, the smallest value of a channel is that of all voxels that the ReLU closed.
    lowest = last.reshape(*last.shape[:2], -1).min(2)
    share = np.mean(last.reshape(*last.shape[:2], -1) == lowest[..., None])
    assert share > 0.2


def test_depth_follows_the_patch_and_channels_drop_after_every_convolution():
    network = make_network("diffusion_vnet", 3, 1, 2, {"width": 1}, patch=(40, 56, 40))
    assert network.settings.levels == 4
    assert network.divisor == (8, 8, 8)
    network = make_network("diffusion_vnet", 2, 1, 2, {"width": 1, "levels": 3, "block_dropout": [0.2, 0.3]})
    dropped = [layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout2d)]
    assert dropped == [0.2, *[0.3] * 5, 0.5, *[0.3] * 2, 0.2, 0.5]
