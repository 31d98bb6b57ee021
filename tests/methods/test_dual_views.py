"""Co-BioNet as it is meant: terms with gradients, masks voxel by voxel, critics that learn."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.methods.dual_views import CRITICS
from semivox.testing import Workbench

NAME = "dual_views"


def make_bench(dimensions=2, **settings) -> Workbench:
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False).decide()
    with torch.no_grad():  # critics that have learnt: what they say differs from voxel to voxel
        for critic in bench.method.critics:
            critic.affines[-1].weight.mul_(20)
    return bench


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_terms_equal_a_slow_version(dimensions):
    settings = {"threshold": 0.45, "doubt": 0.05, "unlabelled_weight": 0.7, "supervised_weight": 0.6}
    bench = make_bench(dimensions, **settings)
    method, batch = bench.method, bench.batch()
    batch.unlabelled.valid[0, :3] = False
    terms = {name: term.item() for name, term in bench.losses(batch).items()}
    with torch.no_grad():
        p = [net(batch.unlabelled.image).double().softmax(1) for net in (method.first, method.second)]
        said = [critic.double()(own[:, 1:]).numpy() for critic, own in zip(method.critics, p, strict=True)]
        labelled = [net(batch.labelled.image) for net in (method.first, method.second)]
        supervised = [method.problem.supervised_loss(own, batch.labelled).item() for own in labelled]
        of_labelled = [
            critic(own.double().softmax(1)[:, 1:]).numpy() for critic, own in zip(method.critics, labelled, strict=True)
        ]
    p = [own.numpy() for own in p]
    valid = batch.unlabelled.valid.numpy()
    weight = 0.7 * np.exp(-5 * (1 - min(0.5 / 0.4, 1)) ** 2)
    told = 0
    for own, other in ((0, 1), (1, 0)):
        divergence = (p[other] * np.log(p[other] / p[own])).sum(1)
        asked = 0.45 + 0.05 * np.log1p(np.exp(-said[own][valid])).mean()
        kept = valid & (sigmoid(said[other]) > asked)
        told += kept.any() and not kept[valid].all()
        assert terms[f"supervised_{own + 1}"] == pytest.approx(2 * 0.6 * supervised[own], rel=1e-4)
        assert terms[f"cross_{own + 1}"] == pytest.approx(weight * divergence[valid].mean(), rel=1e-3)
        expected = weight * divergence[kept].mean() if kept.any() else 0.0
        assert terms[f"vouched_{own + 1}"] == pytest.approx(expected, rel=1e-3)
        made = np.concatenate(
            [np.log1p(np.exp(of_labelled[own]))[batch.labelled.valid.numpy()], np.log1p(np.exp(said[own]))[valid]]
        )
        label = batch.labelled.label
        certain = (label != IGNORE).numpy()
        one_hot = torch.stack([label == k for k in range(1, bench.problem.classes)], 1).double()
        true = np.log1p(np.exp(-method.critics[own](one_hot).detach().numpy()))[certain]
        assert terms[f"critic_{own + 1}"] == pytest.approx(true.mean() + made.mean(), rel=1e-3)
    assert told, "no critic told voxels apart: the loop proves little"


def test_both_unlabelled_terms_teach_and_the_teacher_gets_no_gradient():
    bench = make_bench(threshold=0.0, doubt=0.0)
    for term in ("cross_1", "vouched_1"):
        bench.method.zero_grad(set_to_none=True)
        bench.losses(bench.batch())[term].backward()
        assert max(p.grad.abs().max() for p in bench.method.first.parameters() if p.grad is not None) > 0
        for module in (bench.method.second, bench.method.critics):
            assert all(p.grad is None for p in module.parameters())


def test_critics_learn_and_leave_the_networks_alone():
    bench = make_bench(critic_learning_rate=1e-2)
    batch = bench.batch()
    bench.method.zero_grad(set_to_none=True)
    terms = bench.losses(batch)
    (terms["critic_1"] + terms["critic_2"]).backward()
    assert all(p.grad is None for p in (*bench.method.first.parameters(), *bench.method.second.parameters()))
    before = terms["critic_1"].item()
    critics = bench.optimisers[CRITICS]
    for _ in range(20):
        critics.zero_grad()
        terms = bench.losses(batch)
        (terms["critic_1"] + terms["critic_2"]).backward()
        critics.step()
    assert terms["critic_1"].item() < before


def test_each_network_passes_once_a_step():
    bench = make_bench()
    calls = []
    for network in (bench.method.first, bench.method.second):
        network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert calls == [4, 4]


def test_what_a_task_does_not_annotate_is_no_true_mask():
    bench = make_bench()
    stream = bench.batch().labelled
    stream.known[0] = torch.tensor([False, True, *[False] * (bench.problem.classes - 2)])
    masks, certain = bench.method.true_masks(stream)
    label = stream.label[0]
    assert torch.equal(certain[0], label == 1)
    assert torch.equal(masks[0, 0] > 0, label == 1)
    assert torch.equal(certain[1], stream.label[1] != IGNORE)


def test_the_setting_says_who_predicts():
    assert len(Workbench(NAME, settings={"evaluate": "first"}).method.inference_modules()) == 1
    assert len(Workbench(NAME).method.inference_modules()) == 2
