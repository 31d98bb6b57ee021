import torch
from torch import nn

from semivox.networks.lora import LoraLinear, add_lora, without_lora


def test_it_begins_as_its_source_and_only_the_correction_learns():
    torch.manual_seed(0)
    source = nn.Linear(5, 7)
    layer, x = LoraLinear(source, rank=2), torch.randn(3, 5)
    assert torch.equal(layer(x), source(x))
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_down", "lora_up"}


def test_the_correction_is_a_product_of_low_rank():
    torch.manual_seed(0)
    layer, x = LoraLinear(nn.Linear(5, 7), rank=2), torch.randn(3, 5)
    nn.init.normal_(layer.lora_up)
    expected = x @ (layer.weight + layer.lora_up @ layer.lora_down).mT + layer.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_named_layers_are_replaced_and_all_else_is_frozen():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

    plain = nn.Sequential(Block(), Block())
    names = set(plain.state_dict())
    add_lora(plain, "qkv", rank=1)
    learning = {name for name, p in plain.named_parameters() if p.requires_grad}
    assert learning == {f"{block}.qkv.lora_{part}" for block in "01" for part in ("down", "up")}
    assert without_lora(plain.state_dict()) == names, "a checkpoint without it fits"
