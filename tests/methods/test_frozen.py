"""What is frozen stays as it is, whatever surrounds it does."""

import torch
from torch import nn

from semivox.methods.frozen import Frozen


def test_a_frozen_network_stays_in_evaluation_mode_while_what_surrounds_it_trains():
    whole = nn.ModuleList([Frozen(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)))]).train()
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    assert torch.equal(whole[0](image), whole[0](image))
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())


def test_no_weight_of_it_is_trained_but_gradients_pass_through_it():
    frozen = Frozen(nn.Conv2d(1, 2, 3))
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    frozen(image).sum().backward()
    assert image.grad is not None
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
