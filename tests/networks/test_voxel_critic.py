import numpy as np
import pytest
import torch

from semivox.networks.voxel_critic import VoxelCritic

SPACES = [(5, 6), (3, 4, 5)]


def test_it_has_the_parameters_of_the_published_one():
    assert sum(p.numel() for p in VoxelCritic(1).parameters()) == 2866


@pytest.mark.parametrize("space", SPACES)
def test_the_layers_equal_a_slow_version(space):
    critic = VoxelCritic(2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in critic.layers:
            layer.scale.copy_(1 + torch.randn(layer.scale.shape, generator=generator))
            layer.shift.copy_(torch.randn(layer.shift.shape, generator=generator))
    masks = torch.rand(2, 2, *space, generator=generator)
    x = masks.double().numpy()
    for number, layer in enumerate(critic.layers):
        weight, scale, shift = (p.detach().double().numpy() for p in (layer.weight, layer.scale, layer.shift))
        x = np.einsum("oi,bi...->bo...", weight, x)
        x = np.moveaxis(np.moveaxis(x, 1, -1) * scale + shift, -1, 1)
        if number < 3:
            x = np.where(x > 0, x, 0.2 * x)
    torch.testing.assert_close(critic(masks), torch.from_numpy(x[:, 0]).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("training", [True, False])
def test_a_voxel_is_judged_by_itself_alone(space, training):
    critic = VoxelCritic(2).train(training)
    masks = torch.rand(2, 2, *space)
    logits = critic(masks)
    assert logits.shape == (2, *space)
    changed = masks.clone()
    changed[0, 0, 0] += 1.0
    other = critic(changed)
    assert not torch.isclose(other[0, 0], logits[0, 0]).all()
    assert torch.equal(other[0, 1:], logits[0, 1:])
    assert torch.equal(other[1], logits[1])


def test_it_can_learn_what_is_hard_and_what_is_not():
    torch.manual_seed(0)
    critic = VoxelCritic(1)
    optimiser = torch.optim.AdamW(critic.parameters(), 1e-2)
    true, made = torch.randint(0, 2, (1, 1, 8, 8)).float(), 0.3 + 0.4 * torch.rand(1, 1, 8, 8)
    for _ in range(200):
        loss = torch.nn.functional.softplus(-critic(true)).mean() + torch.nn.functional.softplus(critic(made)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (critic(true) > 0).all()
    assert (critic(made) < 0).all()
