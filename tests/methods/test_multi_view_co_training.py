"""UMCT: each view learns what the others say, never what it says itself."""

import numpy as np
import pytest
import torch
from torch import nn

from semivox.errors import SettingError
from semivox.methods.multi_view_co_training import TOGETHER
from semivox.sampling.viewpoints import seen_back, seen_from
from semivox.testing import Workbench

NAME = "multi_view_co_training"


def make_bench(dimensions=2, stage=1, **settings) -> Workbench:
    return Workbench(NAME, dimensions, stage=stage, settings={"passes": 2, **settings}, dropout=False).decide()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_terms_equal_a_slow_version(dimensions):
    bench = make_bench(dimensions, networks=3, co_training_weight=0.7)
    batch = bench.batch()
    batch.unlabelled.valid[0, :3] = False
    terms = bench.losses(batch)
    looks = []
    with torch.no_grad():
        for view, network in enumerate(bench.method.networks):
            logits = seen_back(network(seen_from(batch.unlabelled.image, view)), view)
            looks.append(logits.double().softmax(1).numpy())
    valid = batch.unlabelled.valid.numpy()[:, None]
    for view, own in enumerate(looks):
        # Without dropout no pass differs from another: all are equally sure.
        label = np.mean([other for number, other in enumerate(looks) if number != view], axis=0)
        axes = (0, *range(2, own.ndim))
        overlap, p2, q2 = ((a * b * valid).sum(axes) for a, b in ((own, label), (own, own), (label, label)))
        expected = 0.7 * np.mean(1 - (2 * overlap + 1e-5) / (p2 + q2 + 1e-5))
        assert terms[f"co_training_{view + 1}"].item() == pytest.approx(expected, rel=1e-4)


def test_a_surer_view_has_the_greater_say_and_none_has_one_in_its_own_label():
    bench = make_bench(networks=3, passes=4)
    method, stream = bench.method, bench.batch().unlabelled

    class Fixed(nn.Module):
        """Says class 1 with certainty `sure`, the same in every pass or not."""

        def __init__(self, sure: float, wavering: float) -> None:
            super().__init__()
            self.sure, self.wavering = sure, wavering

        def forward(self, x):
            passes = torch.arange(len(x), device=x.device) // len(stream) % 2
            p = self.sure + self.wavering * (2 * passes - 1).view(-1, 1, 1).expand(-1, *x.shape[2:])
            rest = (1 - p) / (bench.problem.classes - 1)
            return torch.stack([p if k == 1 else rest for k in range(bench.problem.classes)], 1).log()

    method.networks = nn.ModuleList([Fixed(0.9, 0.0), Fixed(0.5, 0.3), Fixed(0.3, 0.2)])
    label = method.fused_labels(stream)[:, 0, 1, 0, 0]
    classes = bench.problem.classes
    share = (1 + 1 / (classes - 1)) / classes  # of the variance of class 1: the other classes lose what it gains
    c = [1 / (share * wavering**2 + 1e-4) for wavering in (0.0, 0.3, 0.2)]
    p = (0.9, 0.5, 0.3)
    for i in range(3):
        others = [j for j in range(3) if j != i]
        assert label[i].item() == pytest.approx(sum(c[j] * p[j] for j in others) / sum(c[j] for j in others), rel=1e-3)


def test_labels_carry_no_gradient_to_the_views_that_made_them():
    bench = make_bench()
    for view, terms in enumerate(bench.method.parts(bench.batch(), bench.clock)):
        bench.method.zero_grad(set_to_none=True)
        terms[f"co_training_{view + 1}"].backward()
        touched = [any(p.grad is not None for p in network.parameters()) for network in bench.method.networks]
        assert touched == [number == view for number in range(3)]


def test_alone_each_network_learns_from_labels_only():
    bench = make_bench(stage=0)
    batch = bench.batch()
    assert batch.unlabelled is None
    assert sorted(bench.losses(batch)) == ["supervised_1", "supervised_2", "supervised_3"]


def test_together_the_learning_rate_is_small_and_constant():
    method = make_bench().method
    alone, together = method.optimisers()
    assert (together.learning_rate, together.schedule) == (1e-3, "constant")
    assert (alone.learning_rate, alone.schedule) == (None, None)
    assert together.name == method.stages()[1].name == TOGETHER
    other = make_bench(co_training_rate=None).method.optimisers()[1]
    assert (other.learning_rate, other.schedule) == (None, None)


def test_dropout_passes_leave_no_trace_in_batch_norm():
    bench = Workbench(NAME, 2, stage=1, settings={"passes": 3})
    network = bench.method.networks[0]
    norm = nn.BatchNorm2d(1)

    def normalise(module, inputs):
        norm(inputs[0])

    network.encoder.register_forward_pre_hook(normalise)
    network.probe = norm
    bench.method.fused_labels(bench.batch().unlabelled)
    assert norm.training
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_predicts_is_the_mean_of_all_views_turned_back(dimensions):
    method = make_bench(dimensions).method.eval()
    image = torch.randn(1, 1, *(16, 12, 8)[:dimensions])
    with torch.no_grad():
        looks = [
            seen_back(average.module(seen_from(image, view)).softmax(1), view)
            for view, average in enumerate(method.averages)
        ]
    torch.testing.assert_close(method.predict(image, "default"), sum(looks) / 3)


def test_a_picture_has_four_views():
    with pytest.raises(SettingError, match="at most"):
        make_bench(networks=5)
    assert len(make_bench(3, networks=6).method.networks) == 6
