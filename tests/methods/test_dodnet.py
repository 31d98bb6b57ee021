"""DoDNet: its loss as a slow version on a batch of several tasks, who learns from which, and what it has not."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import RunError
from semivox.methods import find_method
from semivox.networks.layers import GroupNorm
from semivox.testing import Workbench

NAME = "dodnet"
KNOWN = ((1,), (2, 3), (1, 2, 3), ())
"""The classes that each of four labelled samples knows."""
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(dimensions=2, **changes):
    """A head that is sure of some voxels and not of others."""
    bench = Workbench(NAME, dimensions, **{"batch": 4, "dropout": False, **changes})
    with torch.no_grad():
        bench.method.student.network.classifier[-1].weight.mul_(6)
    return bench


def make_batch(bench, known=KNOWN):
    """A batch of the phantom whose samples are of tasks that know these classes, with some padding."""
    batch = bench.batch()
    stream = batch.labelled
    stream.known = torch.zeros(4, 4, dtype=torch.bool)
    for sample, classes in enumerate(known):
        stream.known[sample, list(classes)] = True
        unknown = [k for k in range(1, 4) if k not in classes]
        stream.label[sample][torch.isin(stream.label[sample], torch.tensor(unknown))] = 0
    stream.valid[1, :3] = False
    stream.label[1, :3] = IGNORE
    return batch


@in_2d_and_3d
def test_the_loss_equals_a_slow_version(dimensions):
    bench = make_bench(dimensions)
    batch = make_batch(bench)
    overlap = squares = 0.0
    entropies = []
    for sample, classes in enumerate(KNOWN):
        label = batch.labelled.label[sample].numpy()
        counted = label != IGNORE
        for k in classes:
            with torch.no_grad():
                score = bench.method.student(batch.labelled.image[sample : sample + 1], torch.tensor([k - 1]))
            p = (1 / (1 + np.exp(-score[0, 0].double().numpy())))[counted]
            t = (label == k)[counted]
            overlap += (p * t).sum()
            squares += (p**2).sum() + t.sum()
            entropies.append(-np.log(np.where(t, p, 1 - p)))
    expected = 1 - (2 * overlap + 1e-5) / (squares + 1e-5) + np.concatenate(entropies).mean()
    terms = bench.losses(batch)
    assert set(terms) == {"supervised"}
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-4)


def test_a_scan_teaches_no_prompt_of_an_organ_that_its_task_does_not_annotate():
    bench = make_bench()
    terms = bench.losses(make_batch(bench, ((1,), (1,), (3,), (3,))))
    terms["supervised"].backward()
    taught = bench.method.student.controller.weight.grad[:, -3:].abs().sum(0) > 0
    assert taught.tolist() == [True, False, True]


def test_scans_that_know_nothing_cost_nothing():
    bench = make_bench()
    (term,) = bench.losses(make_batch(bench, ((),) * 4)).values()
    assert term.item() == 0
    term.backward()
    assert all(torch.isfinite(p.grad).all() for p in bench.method.student.parameters() if p.grad is not None)


def test_unlabelled_scans_are_not_asked_for_and_every_prompt_is_an_organ():
    bench = make_bench()
    assert bench.batch().unlabelled is None
    assert bench.method.student.prompts == bench.problem.labels.foreground


@pytest.mark.parametrize(("norm", "kind"), [("group", GroupNorm), ("batch", torch.nn.BatchNorm2d)])
def test_the_head_normalises_by_groups_unless_asked_otherwise(norm, kind):
    settings = {} if norm == "group" else {"head_norm": norm}
    student = Workbench(NAME, settings=settings).method.student
    assert isinstance(student.summary[0], kind)
    assert isinstance(student.network.classifier[0], kind)


def test_what_is_logged_is_the_dice_of_every_organ():
    bench = make_bench()
    batch = make_batch(bench, ((1,), (1,), (3,), (3,)))
    bench.losses(batch)
    with torch.no_grad():
        p = bench.method.student(batch.labelled.image)[:2, 0].sigmoid().double()
    counted = batch.labelled.label[:2] != IGNORE
    t = (batch.labelled.label[:2] == 1)[counted].double()
    dice = 2 * (p[counted] * t).sum() / (p[counted].square().sum() + t.sum())
    names = bench.problem.labels.names
    logged = bench.method.diagnostics(names)
    assert list(logged) == [f"prompt_dice/soft/{name}" for name in names[1:]]
    assert logged[f"prompt_dice/soft/{names[1]}"] == pytest.approx(dice.item(), rel=1e-3)
    assert logged[f"prompt_dice/soft/{names[2]}"] == 1.0


def test_versemi_can_begin_with_its_prompts_and_it_with_versemis():
    one, other, third = (Workbench(name, dropout=False).method for name in (NAME, "versemi", NAME))
    image = torch.randn(1, 1, 24, 24)
    with torch.no_grad():
        for parameter in one.average.module.parameters():
            parameter.add_(0.05)
        expected = one.average.module(image)
        other.initialise_from(one)
        assert torch.equal(other.student(image, torch.arange(3)), expected)
        third.initialise_from(other)
        assert torch.equal(third.student(image), expected)
    with pytest.raises(RunError, match="give a run of versemi or dodnet"):
        third.initialise_from(Workbench("supervised").method)


def test_it_is_registered():
    assert find_method(NAME).paper == "Zhang et al., CVPR 2021"
