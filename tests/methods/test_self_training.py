"""Self-training: what is labelled by what, what is learnt from it, and which scans come first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.experiments.train import keep_model
from semivox.methods.clock import Clock
from semivox.methods.model import load_model
from semivox.methods.self_training import SelfTraining, SelfTrainingPlus
from semivox.training.checkpoint import load_checkpoint
from semivox.training.fit import build, fit, initialise, make_engine, open_store, read_data, training_data
from semivox.training.log import read_log
from semivox.training.run import RunFolder

CLOCK = Clock(step=3, iterations=6, stage="all", stage_step=1, stage_iterations=4)


@pytest.fixture
def made(make_config, tmp_path):
    """A function (name, **config) → the method, and a batch of its last stage with random pseudo-labels."""

    def make(name="self_training", dimensions=2, **config):
        config = make_config(name, dimensions=dimensions, **config)
        dataset = training_data(read_data(config.data), None)
        method, _ = build(config, dataset)
        store = open_store(config, dataset)
        engine = make_engine(config, dataset, store, method, folder=tmp_path)
        random = np.random.default_rng(0)
        for case in dataset.unlabelled():
            label = random.integers(0, 4, store.image(case.id).shape[1:]).astype(np.uint8)
            engine.labelling.labels_of("all").write(case.id, label)
        engine.step = engine.spans[-1].start
        return method, engine.on_after_batch_transfer(engine.loader(engine.spans[-1].stage)[0], 0)

    return make


class Desk:
    """Stage tools on a few images in memory, one slice (C, X, Y) per case, with a note of who was predicted."""

    def __init__(self, images, earlier=None):
        self.images = images
        self.cases = tuple(SimpleNamespace(id=name, task="default") for name in images)
        self.earlier = earlier
        self.predicted = []
        self.stored, self.kept, self.labels = {}, list(images), self

    def predict(self, case, function):
        self.predicted.append(case.id)
        with torch.no_grad():
            return function(self.images[case.id][None])[0]

    def label(self, cases, function):
        self.stored |= {case.id: function(case) for case in cases}

    def read(self, case_id):
        return self.stored[case_id][0]

    def reliability(self, case_id):
        return self.stored[case_id][1]

    def keep(self, case_ids):
        self.kept = list(case_ids)

    def labels_of(self, stage):
        assert stage == "reliable"
        return self.earlier


def images(count=5):
    random = torch.Generator().manual_seed(0)
    return {f"case{i}": torch.randn(1, 16, 16, generator=random) for i in range(count)}


def shake(module, seed):
    """Other weights, so that a prediction tells which network made it."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=random))


def hard(network, image):
    with torch.no_grad():
        return network(image[None])[0].argmax(0).numpy()


def slow_supervised(logits, label):
    """½ (CE + mean of DiceSq over classes), voxel by voxel."""
    p = torch.softmax(logits.detach().double(), 1).numpy()
    classes = p.shape[1]
    ce, count = 0.0, 0
    overlap, squares, sizes = np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for place in np.ndindex(label.shape):
        y = int(label[place])
        if y == IGNORE:
            continue
        voxel = p[(place[0], slice(None), *place[1:])]
        ce -= np.log(voxel[y])
        count += 1
        overlap[y] += voxel[y]
        squares += voxel**2
        sizes[y] += 1
    dice = 1 - (2 * overlap + 1e-5) / (squares + sizes + 1e-5)
    return 0.5 * (ce / count + dice.mean())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_both_terms_equal_a_slow_version(made, dimensions):
    method, batch = made(dimensions=dimensions)
    method.eval()
    terms = method.losses(batch, CLOCK)
    image, pseudo = method.cut_out(batch.unlabelled.image, batch.unlabelled.pseudo, batch.unlabelled.seeds)
    assert set(terms) == {"supervised", "pseudo"}
    with torch.no_grad():
        supervised = slow_supervised(method.network(batch.labelled.image), batch.labelled.label)
        unlabelled = slow_supervised(method.network(image), pseudo)
    assert terms["supervised"].item() == pytest.approx(0.5 * supervised, rel=1e-4)
    assert terms["pseudo"].item() == pytest.approx(0.5 * unlabelled, rel=1e-4)


def test_the_first_stage_is_labelled_only_training(made):
    method, batch = made()
    batch.unlabelled = None
    method.eval()
    terms = method.losses(batch, CLOCK)
    assert list(terms) == ["supervised"]
    expected = slow_supervised(method.network(batch.labelled.image), batch.labelled.label)
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_cut_out_box_shows_nothing_and_teaches_nothing(made, dimensions):
    method, _ = made(dimensions=dimensions, settings={"cut_out_probability": 1.0})
    image = torch.randn(6, 2, *(20, 18, 12)[:dimensions])
    label = torch.randint(0, 3, (6, *image.shape[2:]))
    cut, ignored = method.cut_out(image, label, tuple(range(6)))
    box = ignored == IGNORE
    assert torch.equal(ignored[~box], label[~box])
    for sample, inside, before in zip(cut, box, image, strict=True):
        assert 0.015 < inside.float().mean() < 0.45
        for channel in range(2):
            assert torch.equal(sample[channel][~inside], before[channel][~inside])
            torch.testing.assert_close(sample[channel][inside], before[channel].mean().expand(int(inside.sum())))


def test_boxes_are_cut_as_often_as_asked_by_each_samples_own_seed(made):
    method, _ = made()
    image, label = torch.randn(400, 1, 8, 8), torch.zeros(400, 8, 8, dtype=torch.long)
    cut, ignored = method.cut_out(image, label, tuple(range(400)))
    has_box = (ignored == IGNORE).flatten(1).any(1)
    assert 0.42 < has_box.float().mean() < 0.58
    alone = method.cut_out(image[7:9], label[7:9], (7, 8))
    assert torch.equal(alone[0], cut[7:9])
    assert torch.equal(alone[1], ignored[7:9])


def test_padding_and_boxes_do_not_count_as_kept(made):
    method, batch = made(settings={"cut_out_probability": 1.0})
    batch.unlabelled.pseudo[:, :4] = IGNORE
    method.losses(batch, CLOCK)
    _, pseudo = method.cut_out(batch.unlabelled.image, batch.unlabelled.pseudo, batch.unlabelled.seeds)
    kept = method.notes["kept"]
    assert torch.equal(kept, pseudo != IGNORE)
    assert not kept[:, :4].any()
    assert torch.equal(method.notes["teacher"].argmax(1)[kept], pseudo[kept])


def test_a_pseudo_label_names_all_classes_whatever_the_cases_task_annotates(made):
    method, batch = made()
    method.eval()
    before = method.losses(batch, CLOCK)["pseudo"]
    batch.unlabelled.known[:, 2:] = False
    assert torch.equal(method.losses(batch, CLOCK)["pseudo"], before)


def test_every_scan_is_labelled_by_the_evaluated_average(made):
    method, _ = made()
    method.eval()
    shake(method.network, 1)
    shake(method.average, 2)
    desk = Desk(images())
    first, last = method.stages()
    method.prepare_stage(first, desk)
    assert not desk.stored
    method.prepare_stage(last, desk)
    assert set(desk.stored) == set(desk.images)
    for name, image in desk.images.items():
        np.testing.assert_array_equal(desk.read(name), hard(method.average, image))
        assert (desk.read(name) != hard(method.network, image)).any()


@pytest.mark.parametrize("kind", [SelfTraining, SelfTrainingPlus])
def test_every_stage_starts_from_the_first_weights_and_its_average_anew(make_config, tmp_path, monkeypatch, kind):
    begun, averaged = [], []
    prepare, after = kind.prepare_stage, kind.after_step

    def prepare_stage(method, stage, tools):
        prepare(method, stage, tools)
        state = [m.state_dict() for m in (method.network, method.initial.module, method.average.module)]
        same = [all(torch.equal(state[0][name], other[name]) for name in other) for other in state[1:]]
        begun.append((stage.name, *same))

    def after_step(method, clock):
        after(method, clock)
        if clock.stage_step == 0:
            network, average = method.network.state_dict(), method.average.module.state_dict()
            averaged.append(all(torch.equal(network[name], average[name]) for name in network))

    monkeypatch.setattr(kind, "prepare_stage", prepare_stage)
    monkeypatch.setattr(kind, "after_step", after_step)
    name = "self_training" if kind is SelfTraining else "self_training_plus"
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(make_config(name, dimensions=2, iterations=8), run)
    later = [(stage.name, True, False) for stage in kind().stages()[1:]]  # (stage, is as at first, is as labelled)
    assert begun == [("labelled", True, True), *later]
    assert averaged == [True] * len(begun)
    (optimiser,) = load_checkpoint(run.last)["optimisers"]
    steps_of_last = sum(row["stage"] == "all" for row in read_log(run.log))
    assert {int(state["step"]) for state in optimiser["state"].values()} == {steps_of_last}


def test_weights_to_begin_from_serve_every_stage(make_config, made, tmp_path):
    donor = RunFolder(tmp_path / "donor")
    donor.create()
    config = make_config("supervised", dimensions=2, iterations=1)
    fit(config, donor)
    keep_model(donor, config, training_data(read_data(config.data), None))
    given = load_model(donor.path).method.average.module.state_dict()
    method, _ = made("self_training_plus")
    initialise(method, donor.path)
    for network in (method.network, method.average.module, method.initial.module):
        assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())


def test_snapshots_hold_the_average_after_each_third_of_the_first_stage(made):
    method, _ = made("self_training_plus")
    averages = []
    for step in range(9):
        shake(method.network, step)
        method.after_step(Clock(step, 30, "labelled", step, 9))
        averages.append({name: tensor.clone() for name, tensor in method.average.module.state_dict().items()})
    for step in range(9):
        shake(method.network, 100 + step)
        method.after_step(Clock(9 + step, 30, "reliable", step, 9))
    for snapshot, step in zip(method.snapshots, (2, 5), strict=True):
        assert all(torch.equal(tensor, averages[step][name]) for name, tensor in snapshot.module.state_dict().items())


class Told:
    """Stands in for a network: class maps (X, Y) of known images."""

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, image):
        label = self.maps[int(image.flatten()[0])]
        return torch.nn.functional.one_hot(label, 4).permute(2, 0, 1)[None] * 50.0


def a_map(*runs):
    """A map (1, 10) from (class, voxels) runs."""
    return torch.tensor([[index for index, voxels in runs for _ in range(voxels)]])


def test_reliability_is_the_mean_dice_of_early_predictions_with_the_last(made, monkeypatch):
    method, _ = made("self_training_plus")
    last = {0: a_map((0, 4), (1, 4), (2, 2)), 1: a_map((0, 10)), 2: a_map((0, 5), (3, 5)), 3: a_map((0, 6), (1, 4))}
    early = {0: a_map((0, 6), (1, 2), (2, 2)), 1: a_map((0, 10)), 2: a_map((0, 5), (3, 5)), 3: a_map((0, 10))}
    middle = {0: last[0], 1: a_map((0, 10)), 2: a_map((0, 5), (3, 5)), 3: last[3]}
    monkeypatch.setattr(method, "_modules", {})
    method.snapshots = [Told(early), Told(middle)]
    method.average = Told(last)
    desk = Desk({f"case{i}": torch.full((1, 1, 10), float(i)) for i in last})
    _, reliable, _ = method.stages()
    method.prepare_stage(reliable, desk)
    found = [desk.reliability(f"case{i}") for i in last]
    # case 0: (2·2/6 + 1) / 2 and 1; case 1: nothing found; case 2: all alike; case 3: 0 and 1.
    assert found == pytest.approx([((2 / 3 + 1) / 2 + 1) / 2, 0.0, 1.0, 0.5])
    assert desk.kept == ["case2", "case0"]
    for i, label in last.items():
        np.testing.assert_array_equal(desk.read(f"case{i}"), label)


def test_the_reliable_half_keeps_its_labels_and_the_rest_gets_new_ones(made):
    method, _ = made("self_training_plus")
    method.eval()
    for number, module in enumerate([*method.snapshots, method.average]):
        shake(module, number)
    _, reliable, last = method.stages()
    first = Desk(images())
    method.prepare_stage(reliable, first)
    assert len(first.kept) == 2
    assert sorted(map(first.reliability, first.images), reverse=True)[:2] == [first.reliability(i) for i in first.kept]
    shake(method.average, 9)
    second = Desk(first.images, earlier=first)
    method.prepare_stage(last, second)
    assert sorted(second.predicted) == sorted(set(first.images) - set(first.kept))
    for name, image in first.images.items():
        expected = first.read(name) if name in first.kept else hard(method.average, image)
        np.testing.assert_array_equal(second.read(name), expected)
        assert (first.read(name) != hard(method.average, image)).any()


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.1, 1), (1.0, 5)])
def test_at_least_one_scan_is_reliable(made, share, count):
    method, _ = made("self_training_plus", settings={"reliable_share": share})
    desk = Desk(images())
    method.prepare_stage(method.stages()[1], desk)
    assert len(desk.kept) == count
