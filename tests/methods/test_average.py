"""Moving averages follow the closed form, batch-norm statistics as their mode says, and never die."""

import pytest
import torch
from torch import nn

from semivox.methods.average import Average


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))


def test_average_equals_the_closed_form_after_k_steps():
    source = nn.Linear(1, 1, bias=False)
    average = Average(source, decay=0.99)
    with torch.no_grad():
        average.module.weight.fill_(1.0)
    expected = []
    for step, value in enumerate((0.5, 0.2, 0.8)):  # the worked values of the field: 0.5, 0.35, 0.5
        with torch.no_grad():
            source.weight.fill_(value)
        average.update(step)
        expected.append(float(average.module.weight.detach()))
    assert expected == pytest.approx([0.5, 0.35, 0.5])


def test_decay_reaches_its_limit():
    source = nn.Linear(1, 1, bias=False)
    average = Average(source, decay=0.99)
    with torch.no_grad():
        average.module.weight.fill_(1.0)
        source.weight.fill_(0.0)
    for step in range(1000, 1010):
        average.update(step)
    assert float(average.module.weight.detach()) == pytest.approx(0.99**10)


def test_without_a_step_the_decay_is_constant():
    source = nn.Linear(1, 1, bias=False)
    average = Average(source, decay=0.9)
    with torch.no_grad():
        average.module.weight.fill_(1.0)
        source.weight.fill_(0.0)
    average.update()
    assert float(average.module.weight.detach()) == pytest.approx(0.9)


def test_average_is_never_all_zero_and_never_the_source_itself():
    source = network()
    average = Average(source, decay=0.9)
    average.update(0)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    average.update(5)
    for mine, theirs in zip(average.module.parameters(), source.parameters(), strict=True):
        assert mine.abs().max() > 0
        assert not torch.equal(mine, theirs)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm_statistics_follow_where_they_are_used(mode):
    source = network()
    average = Average(source, decay=0.5, mode=mode)
    source(torch.randn(4, 1, 8, 8))
    before = average.module[1].running_mean.clone()
    average.update(1)
    expected = 0.5 * before + 0.5 * source[1].running_mean if mode == "eval" else before
    torch.testing.assert_close(average.module[1].running_mean, expected)
    if mode == "eval":
        assert average.module[1].num_batches_tracked == source[1].num_batches_tracked


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True)])
def test_mode_is_kept_whatever_surrounds_it(mode, training):
    whole = nn.ModuleList([Average(network(), decay=0.9, mode=mode)])
    whole.train()
    assert whole[0].module[1].training is training
    whole.eval()
    assert not whole[0].module[1].training


def test_no_gradient_reaches_the_average_and_its_source_is_not_registered_twice():
    source = network()
    average = Average(source, decay=0.9)
    assert not average(torch.randn(1, 1, 8, 8)).requires_grad
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert len(list(average.parameters())) == len(list(source.parameters()))
