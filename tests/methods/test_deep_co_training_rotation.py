"""Deep co-training as SSL4MIS has it: what a network says of a turned scan is what it says of the scan, turned."""

import numpy as np
import pytest
import torch
from slow_pseudo_labels import softmax

from semivox.sampling.geometry import Geometry
from semivox.testing import Workbench

NAME = "deep_co_training_rotation"
RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""


def make_bench(dimensions=2, **config):
    return Workbench(NAME, dimensions, settings={"consistency_weight": 0.7}, dropout=False, batch=4, **config).decide()


def quarter_turns(bench, stream):
    """How often each sample is turned, in the first two axes: the phantom's 3-D patch has no other square plane."""
    plan = bench.problem.plan
    marks = torch.arange(np.prod(plan.patch), dtype=torch.float32).view(plan.patch)
    moved = Geometry.draw_turns(stream.seeds, plan.patch, (1.0,) * len(plan.patch)).apply(
        marks.expand(len(stream), *plan.patch)
    )
    return [next(k for k in range(4) if torch.equal(torch.rot90(marks, k), one)) for one in moved]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_both_views_are_held_against_each_other_as_in_a_slow_version(dimensions):
    bench = make_bench(dimensions)
    batch = bench.batch()
    unlabelled = batch.unlabelled
    unlabelled.valid[0, :5] = False
    term = bench.losses(batch)["consistency"]
    turns = quarter_turns(bench, unlabelled)
    assert any(turns)
    squares = []
    for image, valid, k in zip(unlabelled.image.numpy(), unlabelled.valid.numpy(), turns, strict=True):
        turned = np.rot90(image, k, (1, 2)).copy()
        with torch.no_grad():
            straight, of_turned = (
                softmax(bench.method.network(torch.from_numpy(seen)[None]).numpy())[0] for seen in (image, turned)
            )
        back = np.rot90(of_turned, -k, (1, 2))
        squares.append(((back - straight) ** 2)[:, valid].ravel())
    assert term.item() == pytest.approx(0.7 / 2 * RAMP * np.concatenate(squares).mean(), rel=1e-3)


def test_the_gradient_is_that_of_the_two_detached_halves():
    bench = make_bench()
    batch = bench.batch()
    network, stream = bench.method.network, batch.unlabelled
    found = torch.autograd.grad(bench.losses(batch)["consistency"], list(network.parameters()))
    turns = Geometry.draw_turns(stream.seeds, bench.problem.plan.patch, (1.0, 1.0))
    expected = turns.apply(network(stream.image).softmax(1))
    turned = network(turns.apply(stream.image)).softmax(1)
    valid = turns.apply(stream.valid)[:, None].expand_as(turned)
    halves = [(turned - expected.detach()).square()[valid].mean(), (turned.detach() - expected).square()[valid].mean()]
    wanted = torch.autograd.grad(0.7 * RAMP / 2 * sum(halves), list(network.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_all_that_is_seen_passes_in_one_batch():
    bench = make_bench()
    passes = []
    bench.method.network.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    bench.losses(bench.batch())
    assert passes == [12]
    assert type(bench.method).demand(bench.method.settings).unlabelled_forwards == 2


def test_what_was_compared_is_noted_in_the_scans_own_place():
    bench = make_bench()
    batch = bench.batch()
    bench.losses(batch)
    turns = Geometry.draw_turns(batch.unlabelled.seeds, bench.problem.plan.patch, (1.0, 1.0))
    with torch.no_grad():
        straight = bench.method.network(batch.unlabelled.image)
        turned = turns.undo(bench.method.network(turns.apply(batch.unlabelled.image)))
    for name, expected in (("teacher", straight), ("student", turned)):
        torch.testing.assert_close(bench.method.notes[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("coarse", "planes"), [(None, {(0, 1), (0, 2), (1, 2)}), (2, {(0, 1)})])
def test_a_scan_is_not_turned_into_its_coarse_axis(coarse, planes):
    bench = make_bench(3)
    plan = bench.problem.plan
    plan = plan.model_copy(
        update={"patch": (16, 16, 16), "preparation": plan.preparation.model_copy(update={"coarse_axis": coarse})}
    )
    method = type(bench.method)()
    method.build(type(bench.problem)(plan=plan, channels=1, labels=bench.problem.labels))
    turns = Geometry.draw_turns(range(60), plan.patch, method.spacing_mm)
    moved = turns.apply(torch.arange(16.0**3).view(1, 16, 16, 16).expand(60, -1, -1, -1))
    still = torch.arange(16.0**3).view(16, 16, 16)
    found = {
        plane
        for one in moved
        for plane in ((0, 1), (0, 2), (1, 2))
        if any(torch.equal(torch.rot90(still, k, plane), one) for k in (1, 2, 3))
    }
    assert found == planes


def test_a_moving_average_predicts():
    method = Workbench(NAME).method
    assert method.inference_modules() == (method.average,)
