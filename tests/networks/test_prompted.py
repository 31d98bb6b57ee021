"""The prompted head: worked values, slow versions, one pass for all prompts, and prompts that are joined by name."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from semivox.networks import make_network, prompted
from semivox.networks.prompted import Kernels, PromptedNetwork, dynamic_convolutions, split_kernels

PUBLISHED = {"norm": "instance", "dropout": 0.0, "finest_skip": False}
TINY = {
    "vnet": {"width": 4, "levels": 3, "dropout": 0.0},
    "unet": {"width": 4, "levels": 3, "block_dropout": (0.0,)},
    "residual_encoder_unet": {"width": 4, "blocks": (1,)},
    "diffusion_vnet": {"width": 4, "levels": 3, "dropout": 0.0, "block_dropout": (0.0,)},
}
ORGANS = ("liver", "spleen", "any")
NUMBERS = torch.tensor([0.4 * math.sin(0.9 * n + 1) for n in range(180)], dtype=torch.float64)
VOXELS = torch.tensor([[(i + 1) / 8 for i in range(8)], [math.cos(i) for i in range(8)]], dtype=torch.float64).T
"""Two voxels of eight features, (8, 2)."""
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def tiny(dimensions=3, norm="group", prompts=ORGANS, name="vnet", seed=0, layout="compact", **settings):
    torch.manual_seed(seed)
    network = make_network(name, dimensions, 1, 3, {**TINY[name], **settings}, patch=(16,) * dimensions)
    return PromptedNetwork(network, prompts, norm, layout)


def image(dimensions, count=2):
    return torch.randn(count, 1, *(9, 8, 7)[:dimensions], generator=torch.Generator().manual_seed(1))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


WORKED = {
    "released": ([[0.657510, 1.549501], [-0.093696, -0.261409]], [0.320558, 0.140528]),
    "compact": ([[0.032611, 0.842522], [0.603374, 0.655857]], [0.638939, 0.453469]),
}


@pytest.mark.parametrize("layout", WORKED)
def test_worked_values(layout):
    numbers = NUMBERS[: {"released": 180, "compact": 162}[layout]].view(1, 1, -1)
    logits, foreground = WORKED[layout]
    kernels = split_kernels(numbers, layout=layout)
    found = dynamic_convolutions(VOXELS.unsqueeze(0), kernels)
    assert found[0, 0].numpy() == pytest.approx(np.array(logits), abs=1e-6)
    scores = dynamic_convolutions(VOXELS.unsqueeze(0), kernels.contrast())
    assert scores.sigmoid()[0, 0, 0].tolist() == pytest.approx(foreground, abs=1e-6)


def test_worked_values_of_the_first_hidden_map_and_of_the_unused_layer():
    kernels = split_kernels(NUMBERS, layout="released")
    first = (kernels.weights[0] @ VOXELS[:, 0] + kernels.biases[0]).relu()
    assert first.tolist() == pytest.approx([0.188965, 0.732753, 0.713005, 0.142765, 0, 0, 0, 0.252043], abs=1e-6)
    second = (
        (kernels.weights[1] @ (kernels.weights[0] @ VOXELS + kernels.biases[0][:, None]).relu())
        .add(kernels.biases[1][:, None])
        .relu()
    )
    unused = NUMBERS[144:160].view(2, 8) @ second + NUMBERS[178:180, None]
    assert unused.T.numpy() == pytest.approx(np.array([[-0.772345, -0.854820], [-1.868393, -2.020671]]), abs=1e-6)


@pytest.mark.parametrize(("layout", "total"), [("compact", 9_479_428), ("released", 9_484_144)])
def test_has_the_published_number_of_parameters(layout, total):
    for norm in ("batch", "group"):
        network = PromptedNetwork(make_network("vnet", 3, 1, 2, PUBLISHED), "abcds", norm, layout)
        assert count(network) == total
    assert count(network.controller) == {"compact": 162, "released": 180}[layout] * 262


@pytest.mark.parametrize("organs", [1, 2, 7])
def test_a_prompt_costs_as_many_parameters_as_the_head_has(organs):
    network = PromptedNetwork(make_network("vnet", 3, 1, 2, PUBLISHED), range(organs + 1))
    assert count(network.controller) == (256 + organs + 2) * 162


def slow_head(x, kernels, sample, prompt):
    """Voxel by voxel: (outputs, *space) of one prompt on one sample."""
    weights = [weight[sample, prompt].numpy() for weight in kernels.weights]
    biases = [bias[sample, prompt].numpy() for bias in kernels.biases]
    found = np.empty((len(biases[2]), *x.shape[2:]))
    for voxel in np.ndindex(*x.shape[2:]):
        h = x[(sample, slice(None), *voxel)].numpy()
        for layer in range(3):
            h = weights[layer] @ h + biases[layer]
            h = np.maximum(h, 0) if layer < 2 else h
        found[(slice(None), *voxel)] = h
    return found


def random_kernels(samples, prompts, width=8):
    numbers = torch.randn(
        samples, prompts, sum(prompted.kernel_sizes(width)), generator=torch.Generator().manual_seed(2)
    )
    return split_kernels(0.5 * numbers.double(), width)


@pytest.mark.parametrize("elements", [1, 200, 2**18])
@in_2d_and_3d
def test_convolutions_equal_a_slow_version_in_whatever_pieces(dimensions, elements, monkeypatch):
    monkeypatch.setitem(prompted.CHUNK_ELEMENTS, "cpu", elements)
    x = torch.randn(2, 8, *(4, 3, 2)[:dimensions], generator=torch.Generator().manual_seed(3)).double()
    kernels = random_kernels(2, 3)
    found = dynamic_convolutions(x, kernels)
    for sample, prompt in np.ndindex(2, 3):
        assert found[sample, prompt].numpy() == pytest.approx(slow_head(x, kernels, sample, prompt), abs=1e-10)


def test_all_samples_at_once_equal_grouped_convolutions_of_the_batch_folded_into_channels():
    x, kernels = torch.randn(3, 8, 5, 4, 3), random_kernels(3, 1)
    kernels = Kernels(*(tuple(part.float() for part in parts) for parts in kernels))
    h = x.view(1, 24, 5, 4, 3)
    for layer, (weight, bias) in enumerate(zip(*kernels, strict=True)):
        h = F.conv3d(
            h if layer == 0 else h.relu(), weight.flatten(0, 2)[..., None, None, None], bias.flatten(), groups=3
        )
    assert torch.allclose(dynamic_convolutions(x, kernels)[:, 0], h.view(3, 2, 5, 4, 3), atol=1e-6)


@pytest.mark.parametrize("elements", [40, 2**18])
def test_gradients_of_the_convolutions_are_right_in_whatever_pieces(elements, monkeypatch):
    monkeypatch.setitem(prompted.CHUNK_ELEMENTS, "cpu", elements)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    numbers = torch.randn(2, 2, sum(prompted.kernel_sizes(3)), generator=generator, dtype=torch.float64)
    assert gradcheck(lambda x, n: dynamic_convolutions(x, split_kernels(n, 3)), (x, numbers.requires_grad_()))
    assert gradcheck(lambda x, n: dynamic_convolutions(x, split_kernels(n, 3).contrast()), (x, numbers))


def test_the_backward_pass_keeps_no_hidden_map():
    x = torch.randn(1, 8, 30, 30, requires_grad=True)
    kernels = Kernels(*(tuple(part.float().requires_grad_() for part in parts) for parts in random_kernels(1, 6)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        dynamic_convolutions(x, kernels)
    assert max(tensor.numel() for tensor in kept) == x.numel()


@pytest.mark.parametrize("norm", ["batch", "group"])
@in_2d_and_3d
def test_one_pass_for_all_prompts_equals_a_pass_for_each_in_train_mode(dimensions, norm):
    network = tiny(dimensions, norm).train()
    x = image(dimensions, 3)
    together = network(x)
    apart = torch.cat([network(x, torch.tensor([prompt])) for prompt in range(3)], 1)
    assert torch.allclose(together, apart, atol=1e-6)
    assert together.shape == (3, 3, *x.shape[2:])
    assert together.std(1).min() > 0


@in_2d_and_3d
def test_each_sample_may_have_prompts_of_its_own(dimensions):
    network, x = tiny(dimensions), image(dimensions, 3)
    own = torch.tensor([[0, 2], [1, 0], [2, 2]])
    everything = network(x)
    found = network(x, own)
    for sample, prompts in enumerate(own):
        assert torch.allclose(found[sample], everything[sample, prompts], atol=1e-6)


@in_2d_and_3d
def test_a_score_is_the_head_of_the_document_on_the_networks_own_maps(dimensions):
    network, x = tiny(dimensions), image(dimensions)
    features = network.network.encode(x)
    coarsest = network.summary(features[-1])
    assert coarsest.min() >= 0
    map_of_head = network.network.classifier(network.network.decode(features)[-1]).double()
    for prompt in range(3):
        hot = F.one_hot(torch.tensor([prompt] * len(x)), 3).float()
        inputs = torch.cat([coarsest.flatten(2).mean(2), hot], 1)
        kernels = split_kernels(network.controller(inputs).detach().double().unsqueeze(1))
        for sample in range(len(x)):
            logits = slow_head(map_of_head.detach(), kernels, sample, 0)
            expected = torch.from_numpy(logits[1] - logits[0]).float()
            assert torch.allclose(network(x)[sample, prompt], expected, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
@in_2d_and_3d
def test_it_heads_every_network_and_leaves_no_weight_without_use(name, dimensions):
    network, x = tiny(dimensions, name=name), image(dimensions)
    scores = network(x)
    assert scores.shape == (2, 3, *x.shape[2:])
    scores.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_no_loss_reaches_the_unused_rows_of_the_released_layout():
    network = tiny(layout="released")
    network(image(3)).square().mean().backward()
    unused = torch.zeros(180, dtype=torch.bool)
    unused[144:160] = unused[178:180] = True
    rows = torch.cat([network.controller.weight.grad, network.controller.bias.grad[:, None]], 1).abs().sum(1)
    assert (rows[unused] == 0).all()
    assert (rows[~unused] > 0).float().mean() > 0.9  # a few hidden maps may be 0 everywhere


def test_scores_in_bfloat16_are_float32_and_near_those_in_full_precision():
    network, x = tiny(), image(3)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert half.dtype == torch.float32
    assert (half - network(x)).abs().mean() < 0.01


@pytest.mark.parametrize("layout", ["compact", "released"])
def test_prompts_take_the_weights_of_their_namesakes_and_new_ones_stay_fresh(layout):
    old = tiny(prompts=("liver", "spleen", "any"), seed=1, layout=layout).eval()
    new = tiny(prompts=("aorta", "spleen", "liver", "lung", "any"), seed=2, layout=layout).eval()
    fresh = new.controller.weight.detach().clone()
    new.take_weights(old)
    x = image(3)
    assert torch.equal(new(x, torch.tensor([2, 1, 4])), old(x))
    assert torch.equal(new.controller.weight[:, -5], fresh[:, -5])
    assert torch.equal(new.controller.weight[:, -2], fresh[:, -2])
    assert torch.equal(new.controller.weight[:, :-5], old.controller.weight[:, :-3])


@pytest.mark.parametrize(
    "other", [{"layout": "released"}, {"width": 8}, {"levels": 2}, {"prompts": ("aorta", "lung")}], ids=str
)
def test_weights_of_another_shape_are_refused(other):
    wanted = tiny(prompts=other.get("prompts", ORGANS), **{k: v for k, v in other.items() if k != "prompts"})
    donor = tiny(layout="released") if "prompts" in other else tiny()
    with pytest.raises(ValueError, match="another network"):
        wanted.take_weights(donor)
