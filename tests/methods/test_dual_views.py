"""Co-BioNet as it is meant: terms with gradients, masks voxel by voxel, critics that learn."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.methods.dual_views import CRITIC_PASS, CRITICS
from semivox.methods.method import in_parts
from semivox.testing import Workbench

NAME = "dual_views"


def make_bench(dimensions=2, **settings) -> Workbench:
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False).decide()
    with torch.no_grad():  # critics that have learnt: what they say differs from voxel to voxel
        for critic in bench.method.critics:
            critic.layers[-1].scale.mul_(20)
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


def test_a_critic_sees_what_is_made_as_the_demand_says_and_of_labels_one_voxel_per_class():
    bench = make_bench()
    method, batch = bench.method, bench.batch()
    seen = []
    for critic in method.critics:
        critic.register_forward_hook(lambda module, inputs, output: seen.append((len(output), output.requires_grad)))
    parts = [[*in_parts(function())] for _, function in method.steps(batch, bench.clock)]
    assert [len(own) for own in parts] == [1, 2], "one critic after the other"
    labelled, unlabelled = len(batch.labelled), len(batch.unlabelled)
    of_labels = (bench.problem.classes, True)
    assert seen == [*[(unlabelled, False)] * 2, *[of_labels, (labelled + unlabelled, True)] * 2]
    demand = method.demand(method.settings)
    counts = demand.labelled_forwards - 2, demand.unlabelled_forwards - 2, demand.teacher_forwards
    assert counts == pytest.approx([2 * CRITIC_PASS] * 3)


def test_as_in_the_public_code_one_number_is_weighed_by_the_share_vouched_for_and_no_critic_learns():
    settings = {"threshold": 0.45, "doubt": 0.05}
    usual, bench = make_bench(**settings), make_bench(loss="public", **settings)
    batches = [one.batch() for one in (usual, bench)]
    for batch in batches:
        batch.unlabelled.valid[0, :3] = False
    meant, terms = usual.losses(batches[0]), bench.losses(batches[1])
    valid, (kept, other) = batches[0].unlabelled.valid, (usual.method.notes["kept"], bench.method.notes["kept"])
    assert torch.equal(kept, other)
    share = (kept.sum() / valid.sum()).item()
    assert 0 < share < 1
    assert set(terms) == {"supervised_1", "supervised_2", "vouched_1", "vouched_2"}
    assert terms["vouched_1"].item() == pytest.approx(share * meant["cross_1"].item(), rel=1e-5)
    before = [p.clone() for p in bench.method.critics.parameters()]
    bench.train_step(batches[1])
    assert all(torch.equal(a, b) for a, b in zip(before, bench.method.critics.parameters(), strict=True))
    demand = bench.method.demand(bench.method.settings)
    assert (demand.labelled_forwards, demand.unlabelled_forwards) == (2, 2)


def test_what_a_task_does_not_annotate_is_no_true_mask():
    bench = make_bench()
    stream = bench.batch().labelled
    stream.known[0] = torch.tensor([False, True, *[False] * (bench.problem.classes - 2)])
    stream.label[1, :3] = IGNORE
    masks, voxels = bench.method.true_masks(stream)
    classes = range(bench.problem.classes)
    assert [mask.flatten().tolist() for mask in masks] == [[float(k == own) for k in classes[1:]] for own in classes]
    expected = [(stream.label[1] == k).sum() + (k == 1) * (stream.label[0] == 1).sum() for k in classes]
    assert voxels.flatten().tolist() == expected


def test_where_no_label_is_known_critics_learn_what_is_made_alone():
    bench = make_bench()
    batch = bench.batch()
    batch.labelled.label.fill_(IGNORE)
    terms = bench.losses(batch)
    with torch.no_grad():
        images = torch.cat([batch.labelled.image, batch.unlabelled.image])
        said = bench.method.critics[0](bench.method.first(images).softmax(1)[:, 1:])
    assert terms["critic_1"].item() == pytest.approx(torch.nn.functional.softplus(said).mean().item(), rel=1e-4)


def test_the_setting_says_who_predicts():
    assert len(Workbench(NAME, settings={"evaluate": "first"}).method.inference_modules()) == 1
    assert len(Workbench(NAME).method.inference_modules()) == 2
