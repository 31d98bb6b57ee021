"""VerSemi: both losses as slow versions on batches of two tasks, who learns from which, prediction, prompts by name."""

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE, LabelMap
from semivox.errors import RunError, SettingError
from semivox.losses.foreground import foreground_dice
from semivox.losses.schedules import average_decay, sigmoid_ramp
from semivox.methods import find_method
from semivox.methods.average import Average
from semivox.methods.versemi import SYNTHETIC, other_organs, own_prompts, targets
from semivox.sampling.draws import generator
from semivox.sampling.mixing import similar_boxes
from semivox.testing import Workbench

NAME = "versemi"
PRETRAIN, TRAIN = 0, 1
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])
TASKS = {
    "binary": ((1,), (2,), (2,), (2,)),
    "several organs": ((1, 2), (2, 3), (1, 2, 3), (3,)),
    "one task": ((1, 2, 3),) * 4,
}
"""The classes that each of four labelled samples knows."""
tasks = pytest.mark.parametrize("known", TASKS.values(), ids=TASKS)


def make_bench(dimensions=2, stage=TRAIN, **changes):
    """Heads that are sure of some voxels and not of others."""
    bench = Workbench(NAME, dimensions, stage=stage, **{"batch": 4, "dropout": False, **changes})
    with torch.no_grad():
        for network in (bench.method.student, bench.method.average.module):
            network.network.classifier[-1].weight.mul_(6)
    return bench


def make_batch(bench, known):
    """A batch of the phantom whose labelled samples are of tasks that know these classes, with some padding."""
    batch = bench.batch()
    stream = batch.labelled
    stream.known = torch.zeros(4, 4, dtype=torch.bool)
    for sample, classes in enumerate(known):
        stream.known[sample, list(classes)] = True
        for k in range(1, 4):
            if k not in classes:
                stream.label[sample][stream.label[sample] == k] = 0
    stream.valid[1, :3] = False
    stream.label[1, :3] = IGNORE
    if batch.unlabelled is not None:
        batch.unlabelled.valid[0, -4:] = False
    return batch


def foreground(bench, image, prompt):
    """p(x|prompt) of one image (C, *space) by a pass of its own; prompts are 0 to 2 for classes 1 to 3, and any, 3."""
    with torch.no_grad():
        return bench.method.student(image.unsqueeze(0), torch.tensor([prompt]))[0, 0].double().sigmoid().numpy()


def slow_dice(rows):
    """D over (p, t, counted) maps together."""
    overlap = sum((p * t)[c].sum() for p, t, c in rows)
    squares = sum((p**2)[c].sum() + (t**2)[c].sum() for p, t, c in rows)
    return 1 - (2 * overlap + 1e-5) / (squares + 1e-5)


def slow_cross_entropy(rows):
    losses = [-np.log(np.where(t > 0, p, 1 - p))[c] for p, t, c in rows]
    return np.concatenate(losses).mean()


def slow_box(seed, space, side):
    """A box as the document draws it: origins from 0 to S - k - 1."""
    sizes = [int(size * side) for size in space]
    random = generator(seed, "box", 0)
    starts = random.integers(0, [size - own for size, own in zip(space, sizes, strict=True)])
    box = np.zeros(space, bool)
    box[tuple(slice(start, start + own) for start, own in zip(starts, sizes, strict=True))] = True
    return box


def slow_mixes(batch, sides):
    """(image, label, the classes that each of the two knows, box) of each pair of labelled neighbours."""
    stream = batch.labelled
    for a in (0, 2):
        box = slow_box(stream.seeds[a], stream.image.shape[2:], sides)
        image = torch.where(torch.from_numpy(box), stream.image[a + 1], stream.image[a])
        label = np.where(box, stream.label[a + 1].numpy(), stream.label[a].numpy())
        known = [set(np.flatnonzero(stream.known[sample].numpy())) for sample in (a, a + 1)]
        yield image, label, known, box


def slow_supervised(bench, batch):
    rows = []
    for sample in range(4):
        label = batch.labelled.label[sample].numpy()
        for k in np.flatnonzero(batch.labelled.known[sample].numpy()):
            rows.append((foreground(bench, batch.labelled.image[sample], k - 1), 1.0 * (label == k), label != IGNORE))
    return slow_dice(rows) + slow_cross_entropy(rows)


@tasks
@in_2d_and_3d
def test_the_first_stage_equals_a_slow_version(dimensions, known):
    bench = make_bench(dimensions, PRETRAIN)
    batch = make_batch(bench, known)
    assert batch.unlabelled is None
    terms = bench.losses(batch)
    synthetic, of_a, of_b = [], [], []
    for image, label, (a, b), _ in slow_mixes(batch, 2 / 3):
        counted = label != IGNORE
        synthetic.append((foreground(bench, image, 3), 1.0 * (counted & (label > 0)), counted))
        for rows, classes in ((of_a, a), (of_b, b)):
            rows += [(foreground(bench, image, k - 1), 1.0 * (label == k), counted) for k in classes]
    expected = {
        "supervised": slow_supervised(bench, batch),
        "synthetic": slow_dice(synthetic),
        "task_specific": (slow_dice(of_a) + slow_dice(of_b)) / 2,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)


@tasks
@in_2d_and_3d
def test_each_organ_may_have_a_dice_of_its_own(dimensions, known):
    bench = make_bench(dimensions, PRETRAIN, settings={"dice_over": "organ"})
    batch = make_batch(bench, known)
    terms = bench.losses(batch)
    supervised, of_a, of_b = (defaultdict(list) for _ in range(3))
    for sample in range(4):
        label, image = batch.labelled.label[sample].numpy(), batch.labelled.image[sample]
        for k in np.flatnonzero(batch.labelled.known[sample].numpy()):
            supervised[k].append((foreground(bench, image, k - 1), 1.0 * (label == k), label != IGNORE))
    for image, label, classes, _ in slow_mixes(batch, 2 / 3):
        for rows, own in zip((of_a, of_b), classes, strict=True):
            for k in own:
                rows[k].append((foreground(bench, image, k - 1), 1.0 * (label == k), label != IGNORE))
    dice = {id(rows): np.mean([slow_dice(own) for own in rows.values()]) for rows in (supervised, of_a, of_b)}
    entropy = slow_cross_entropy([row for rows in supervised.values() for row in rows])
    assert terms["supervised"].item() == pytest.approx(dice[id(supervised)] + entropy, rel=1e-4)
    assert terms["task_specific"].item() == pytest.approx((dice[id(of_a)] + dice[id(of_b)]) / 2, rel=1e-4)


@tasks
@in_2d_and_3d
@pytest.mark.parametrize(
    "settings",
    [{}, {"aggregate": "noisy_or", "released_box": True, "consistency_weight": 0.5, "ramp_share": 1.0}],
    ids=["released", "changed"],
)
def test_the_second_stage_equals_a_slow_version(dimensions, known, settings):
    bench = make_bench(dimensions, settings=settings)
    batch = make_batch(bench, known)
    terms = bench.losses(batch)
    labelled, unlabelled, clock = batch.labelled, batch.unlabelled, bench.clock
    space = labelled.image.shape[2:]
    first, second = (generator(clock.seed, "side", use).uniform(0.3, 0.6) for use in ("labelled", "unlabelled"))
    assert first != second
    synthetic = []
    for image, label, _, _ in slow_mixes(batch, first):
        synthetic.append((foreground(bench, image, 3), 1.0 * ((label != IGNORE) & (label > 0)), label != IGNORE))
    boxes = [slow_box(seed, space, second) for seed in unlabelled.seeds]
    consistency, inside = [], []
    for sample, box in enumerate(boxes):
        image = torch.where(torch.from_numpy(box), labelled.image[sample], unlabelled.image[sample])
        valid = np.where(box, labelled.valid[sample].numpy(), unlabelled.valid[sample].numpy())
        s, *organs = (foreground(bench, image, prompt) for prompt in (3, 0, 1, 2))
        whole = 1 - np.prod([1 - p for p in organs], 0) if settings else np.max(organs, 0)
        consistency.append((s, whole, valid))
        label = labelled.label[sample].numpy()
        for box_of in boxes if settings else [box]:
            inside.append((s, 1.0 * ((label != IGNORE) & (label > 0)), box_of & (label != IGNORE)))
    weight = 0.5 * sigmoid_ramp(clock.stage_progress) if settings else 1.0
    expected = {
        "supervised": slow_supervised(bench, batch),
        "synthetic": slow_dice(synthetic),
        "consistency": weight * slow_dice(consistency),
        "box": slow_dice(inside),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("stage", [PRETRAIN, TRAIN])
@in_2d_and_3d
def test_background_that_another_tasks_organ_may_fill_is_left_out_if_asked_for(dimensions, stage):
    known, sure = TASKS["several organs"], 0.5
    bench = make_bench(dimensions, stage, settings={"exclude_other_tasks": sure})
    batch = make_batch(bench, known)
    terms = bench.losses(batch)
    side = generator(bench.clock.seed, "side", "labelled").uniform(0.3, 0.6) if stage == TRAIN else 2 / 3
    rows, left_out = [], 0
    for image, label, (a, b), box in slow_mixes(batch, side):
        counted = label != IGNORE
        for k in (1, 2, 3):
            of_others = (~box & (k not in a)) | (box & (k not in b))
            excluded = of_others & (foreground(bench, image, k - 1) >= sure) & (label == 0)
            left_out += (counted & excluded).sum()
            counted &= ~excluded
        rows.append((foreground(bench, image, 3), 1.0 * ((label != IGNORE) & (label > 0)), counted))
    assert left_out > 0
    assert terms["synthetic"].item() == pytest.approx(slow_dice(rows), rel=1e-4)
    plain = make_bench(dimensions, stage).losses(batch)
    changed = {name for name in terms if not torch.allclose(terms[name], plain[name], rtol=1e-5)}
    assert changed == ({"synthetic", "box"} if stage == TRAIN else {"synthetic"})


def test_where_another_tasks_organ_is_sure():
    probabilities = torch.tensor([[[0.9, 0.1, 0.7], [0.2, 0.8, 0.7]]])
    known = ([True, False], [False, True], [True, True])
    found = [other_organs(probabilities, torch.tensor([row]), 0.7).flatten().tolist() for row in known]
    assert found == [[False, True, True], [True, False, True], [False, False, False]]


GRID = np.arange(64).reshape(4, 4, 4)
BOX = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
BOX[0, 1:3, 0:2, 2:4] = True


@pytest.mark.parametrize(
    ("task_b", "sums", "dices"),
    [(2, (28, 2), (0.431790, 0.921646)), (1, (30, 30), (0.418521, 0.418521))],
    ids=["tasks differ", "tasks agree"],
)
def test_worked_values_of_mixed_targets(task_b, sums, dices):
    a, b = torch.from_numpy(1 * (GRID % 2 == 0)), torch.from_numpy(task_b * (GRID % 3 == 0))
    label = torch.where(BOX, b, a)
    assert int((label > 0).sum()) == 30
    p = torch.from_numpy((GRID + 1) / 65).view(1, 1, 4, 4, 4)
    assert foreground_dice(p, (label > 0).unsqueeze(1)).item() == pytest.approx(0.418521, abs=1e-6)
    numbers, _ = own_prompts(torch.tensor([[True, task_b == 2]]))
    target, counted = targets(label, numbers)
    own = torch.tensor([[[True, False]], [[task_b == 1, task_b == 2]]])[..., : numbers.shape[1]]
    found = foreground_dice(p.expand_as(target), target, counted, own)
    of_b = min(task_b, numbers.shape[1]) - 1
    assert (int(target[:, 0].sum()), int(target[:, of_b].sum())) == sums
    assert found.tolist() == pytest.approx(dices, abs=1e-6)
    assert found.mean().item() == pytest.approx(sum(dices) / 2, abs=1e-6)


@pytest.mark.parametrize(("share", "side"), [(2 / 3, 64), (0.3, 28), (0.45, 43), (0.5, 48), (0.6, 57)])
def test_boxes_have_the_documents_sides_and_origins(share, side):
    seeds = range(40)
    mask = similar_boxes((96, 10), seeds, share, far_border=False)
    lengths = mask.any(2).sum(1)
    assert (lengths == side).all()
    starts = mask.any(2).int().argmax(1)
    assert starts.max() <= 96 - side - 1
    small = similar_boxes((4,), range(200), 0.5, far_border=False).int().argmax(1)
    assert set(small.tolist()) == {0, 1}
    assert set(similar_boxes((4,), range(200), 0.5).int().argmax(1).tolist()) == {0, 1, 2}


def test_samples_know_their_own_prompts():
    numbers, own = own_prompts(torch.tensor([[False, True, False], [True, False, True], [False, False, False]]))
    assert numbers.shape == (3, 2)
    chosen = [set(row[mask].tolist()) for row, mask in zip(numbers, own, strict=True)]
    assert chosen == [{1}, {0, 2}, set()]


def gradient_of_prompts(bench, term):
    """Which prompts' columns of the controller a term reaches."""
    bench.method.zero_grad()
    term.backward(retain_graph=True)
    return (bench.method.student.controller.weight.grad[:, -4:].abs().sum(0) > 0).tolist()


def test_scans_teach_the_prompts_of_their_tasks_alone():
    bench = make_bench(stage=PRETRAIN)
    batch = make_batch(bench, ((1,), (3,), (3,), (1,)))
    terms = bench.losses(batch)
    assert gradient_of_prompts(bench, terms["supervised"]) == [True, False, True, False]
    assert gradient_of_prompts(bench, terms["synthetic"]) == [False, False, False, True]
    assert gradient_of_prompts(bench, terms["task_specific"]) == [True, False, True, False]


@pytest.mark.parametrize("detached", [False, True])
def test_the_consistency_reaches_the_organs_prompts_unless_they_are_detached(detached):
    bench = make_bench(settings={"detach_aggregate": detached})
    terms = bench.losses(make_batch(bench, TASKS["binary"]))
    assert gradient_of_prompts(bench, terms["consistency"]) == [*[not detached] * 3, True]
    assert gradient_of_prompts(bench, terms["box"]) == [False, False, False, True]


def test_stages_and_what_they_read():
    method = find_method(NAME)(find_method(NAME).Settings(pretraining_share=0.3))
    first, second = method.stages()
    assert (first.share, first.unlabelled) == (0.3, False)
    assert (second.share, second.unlabelled) == (0.7, True)
    assert second.keep_optimisers
    (alone,) = find_method(NAME)(find_method(NAME).Settings(pretraining_share=1)).stages()
    assert not alone.unlabelled


def test_only_the_last_prompt_is_no_organ():
    bench = Workbench(NAME)
    assert bench.method.student.prompts == (*bench.problem.labels.foreground, SYNTHETIC)
    assert find_method("ver_semi") is find_method(NAME)


def test_a_batch_that_cannot_be_paired_is_refused():
    with pytest.raises(SettingError, match="one even number"):
        Workbench(NAME, batch=3)


def test_the_most_probable_organ_wins_where_it_is_more_probable_than_not():
    bench = make_bench()
    method = bench.method.eval()
    image = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        p = method.average.module(image)[:, :3].sigmoid().numpy()
        found = method.predict(image, "default")
    assert torch.allclose(found.sum(1), torch.ones(2, 24, 24))
    for b, x, y in itertools.product(range(2), range(24), range(24)):
        own = p[b, :, x, y]
        expected = 1 + own.argmax() if own.max() > 0.5 else 0
        assert found[b, :, x, y].argmax() == expected
    assert set(found.argmax(1).unique().tolist()) > {0}


def test_a_task_limits_prediction_to_its_organs():
    bench = make_bench()
    method = bench.method.eval()
    names = bench.problem.labels.foreground
    method.problem = replace(bench.problem, tasks={"one": names[1:2], "two": (names[2], names[0])})
    image = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        p = method.average.module(image)[:, :3].sigmoid()
        one, two = (method.predict(image, task) for task in ("one", "two"))
    assert torch.allclose(one[:, 2], p[:, 1], atol=1e-6)  # of one organ: the two-class softmax
    assert torch.allclose(one[:, 0], 1 - p[:, 1], atol=1e-6)
    assert (one[:, [1, 3]] == 0).all()
    assert (two[:, 2] == 0).all()
    odds = (p / (1 - p))[:, [0, 2]]
    assert torch.allclose(two[:, [1, 3]], odds / (1 + odds.sum(1, keepdim=True)), atol=1e-5)


def named(bench, names):
    """A fresh method for other organs."""
    labels = LabelMap(("background", *names), tuple(range(len(names) + 1)))
    torch.manual_seed(7)
    method = find_method(NAME)()
    method.build(replace(bench.problem, labels=labels))
    return method.eval()


def test_a_run_for_more_organs_begins_with_the_organs_that_another_knows():
    bench = make_bench()
    old, new = named(bench, ("liver", "spleen")), named(bench, ("aorta", "spleen", "liver"))
    with torch.no_grad():
        for parameter in old.average.module.parameters():
            parameter.add_(0.05)
    image = torch.randn(2, 1, 24, 24)
    fresh = new.student.controller.weight[:, -4].clone()
    new.initialise_from(old)
    expected = old.average.module(image)
    for network in (new.student, new.average.module):
        assert torch.equal(network(image, torch.tensor([2, 1, 3])), expected)
        assert torch.equal(network.controller.weight[:, -4], fresh)


def test_a_run_without_prompts_or_with_another_network_cannot_be_begun_with():
    bench = make_bench()
    with pytest.raises(RunError, match="give a run of versemi"):
        bench.method.initialise_from(Workbench("supervised").method)
    with pytest.raises(RunError, match="its network differs"):
        bench.method.initialise_from(Workbench(NAME, width=8).method)


def test_what_is_logged_of_prompts():
    bench = make_bench()
    bench.losses(make_batch(bench, TASKS["several organs"]))
    figures = bench.method.diagnostics(bench.problem.labels.names)
    assert len(figures) == 3 + 4
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures[f"prompt/share/{SYNTHETIC}"] > 0


def test_worked_values_of_ramp_and_average():
    expected = {0: 0.006738, 1: 0.008625, 10: 0.060055, 20: 0.286505, 30: 0.731616, 40: 1.0, 100: 1.0}
    assert {epoch: sigmoid_ramp(epoch / 40) for epoch in expected} == pytest.approx(expected, abs=1e-6)
    steps = {0: 0.0, 1: 0.5, 9: 0.9, 26: 0.962963, 99: 0.99, 500: 0.99}
    assert {step: average_decay(step, 0.99) for step in steps} == pytest.approx(steps, abs=1e-6)
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(student.weight, 5.0)
    average = Average(student, 0.99)
    for step, expected_weight in enumerate((1, 1.5, 2, 2.5)):
        torch.nn.init.constant_(student.weight, step + 1.0)
        average.update(step)
        assert average.module.weight.item() == pytest.approx(expected_weight)
