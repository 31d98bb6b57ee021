import pytest
import torch
from torch import nn

from semivox.methods import class_memory
from semivox.methods.class_memory import ClassMemory, VoxelMLP


def torchs(own: VoxelMLP, group: int) -> nn.Sequential:
    """One of the networks, made of torch's layers with the same weights."""
    (_, inputs, hidden), outputs = own.weight_in.shape, own.weight_out.shape[2]
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    with torch.no_grad():
        layers[0].weight.copy_(own.weight_in[group].T)
        layers[0].bias.copy_(own.bias_in[group, 0])
        layers[1].weight.copy_(own.scale[group, 0])
        layers[1].bias.copy_(own.shift[group, 0])
        layers[3].weight.copy_(own.weight_out[group].T)
        layers[3].bias.copy_(own.bias_out[group, 0])
    return layers


def make(groups=3):
    torch.manual_seed(0)
    own = VoxelMLP(groups, 5, 7, 2)
    with torch.no_grad():
        own.scale.uniform_(0.5, 2)
        own.shift.normal_()
    return own, torch.randn(groups, 11, 5), torch.rand(groups, 11) < 0.7


def test_each_group_is_a_network_of_its_own_on_what_counts():
    own, x, counted = make()
    found = own(x, counted)
    for group in range(3):
        layers, rows = torchs(own, group), counted[group]
        torch.testing.assert_close(found[group][rows], layers(x[group][rows]))
        torch.testing.assert_close(own.running_mean[group, 0], layers[1].running_mean)
    loss = found[counted].square().sum()
    (gradient,) = torch.autograd.grad(loss, own.weight_in)
    layers = torchs(own, 1)
    layers(x[1][counted[1]]).square().sum().backward()
    torch.testing.assert_close(gradient[1], layers[0].weight.grad.T, rtol=1e-4, atol=1e-5)


def test_in_evaluation_mode_the_averaged_statistics_count():
    own, x, counted = make()
    for _ in range(200):
        own(x, counted)
    learnt = own(x, counted)
    own.eval()
    torch.testing.assert_close(own(x, counted)[counted], learnt[counted], rtol=1e-3, atol=1e-3)
    few = counted & (torch.arange(11) < 3)
    torch.testing.assert_close(own(x, few)[counted], learnt[counted], rtol=1e-3, atol=1e-3)


def test_where_nothing_counts_the_statistics_stay_and_all_is_finite():
    own, x, counted = make()
    counted[1] = False
    before = own.running_mean.clone(), own.running_variance.clone()
    assert own(x, counted).isfinite().all()
    for old, new in zip(before, own.running, strict=True):
        assert torch.equal(old[1], new[1])
        assert not torch.equal(old[0], new[0])


def test_half_precision_is_computed_in_float32():
    own, x, counted = make()
    with torch.autocast("cpu", torch.bfloat16):
        found = own(x.bfloat16(), counted)
    assert torch.equal(found, own(x.bfloat16().float(), counted))


@pytest.mark.parametrize("count", [2, 9], ids=["fewer than places", "more than places"])
def test_the_memory_keeps_the_candidates_of_the_highest_scores(count):
    memory = ClassMemory(2, 4, 3)
    features, scores = torch.randn(2, count, 3), torch.randn(2, count)
    candidates = torch.ones(2, count, dtype=torch.bool)
    candidates[0, scores[0].argmax()] = False
    memory.refill(features, scores, candidates)
    for k in range(2):
        order = sorted((i for i in range(count) if candidates[k, i]), key=lambda i: -scores[k, i].item())[:4]
        assert torch.equal(memory.features[k][memory.stored[k]], features[k, order])


def test_a_class_without_candidates_keeps_what_it_had_and_others_forget():
    memory = ClassMemory(2, 4, 3)
    memory.refill(torch.ones(2, 4, 3), torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool))
    candidates = torch.tensor([[True, False], [False, False]])
    memory.refill(torch.full((2, 2, 3), 2.0), torch.zeros(2, 2), candidates)
    assert memory.stored.tolist() == [[True, False, False, False], [True] * 4]
    assert memory.features[0, 0].tolist() == [2, 2, 2]
    assert (memory.features[1] == 1).all()


def test_processes_share_one_memory(monkeypatch):
    """Of two processes with half of the voxels each; this one is the first, the other's best come by `batch_gather`."""
    features, scores = torch.randn(2, 10, 3), torch.randn(2, 10)
    candidates = torch.rand(2, 10) < 0.8
    alone, shared = ClassMemory(2, 4, 3), ClassMemory(2, 4, 3)
    alone.refill(features, scores, candidates)
    other = shared.highest(scores[:, 5:].masked_fill(~candidates[:, 5:], -torch.inf), features[:, 5:])
    theirs = iter(other)
    monkeypatch.setattr(class_memory, "batch_gather", lambda x: torch.stack([x, next(theirs)]))
    shared.refill(features[:, :5], scores[:, :5], candidates[:, :5])
    assert torch.equal(shared.stored, alone.stored)
    assert torch.equal(shared.features[shared.stored], alone.features[alone.stored])
