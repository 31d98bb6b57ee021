import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semivox.data.labels import IGNORE, LabelMap
from semivox.methods.problem import Problem
from semivox.methods.smoothness_class_separation import SmoothnessClassSeparation
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.testing import Workbench

NAME = "smoothness_class_separation"
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make(dimensions=2, **settings):
    settings = {"ramp_share": 0.0, "consistency_weight": 1.0} | settings
    return Workbench(NAME, dimensions, settings=settings, dropout=False).decide()


def both(batch):
    """Images and valid voxels of both streams."""
    streams = batch.labelled, batch.unlabelled
    return torch.cat([each.image for each in streams]), torch.cat([each.valid for each in streams])


@pytest.mark.parametrize(
    ("network", "dimensions", "classes", "expected"), [("vnet", 3, 2, 9_457_318), ("unet", 2, 4, 1_826_828)]
)
def test_the_published_number_of_parameters(network, dimensions, classes, expected):
    names = ("background", *(f"organ{index}" for index in range(1, classes)))
    plan = Plan(
        preparation=Preparation(normalisation=(Normalisation(),)),
        patch=(32,) * dimensions,
        batch=BatchSize(),
        network=NetworkChoice(name=network, settings={"levels": 5}),
    )
    with torch.device("meta"):
        method = SmoothnessClassSeparation()
        method.build(Problem(plan, channels=1, labels=LabelMap(names, tuple(range(classes)))))
    assert sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad) == expected


@in_2d_and_3d
def test_what_is_not_given_is_the_published_run_of_that_dimensionality(dimensions):
    method = Workbench(NAME, dimensions).method
    expected = {2: (0.1, 6, 1), 3: (1, 10, 0.4)}[dimensions]
    assert (method.consistency_weight, method.radius, method.ramp_share) == expected
    method = Workbench(NAME, dimensions, settings={"consistency_weight": 0.0, "radius": 3.0, "ramp_share": 0.0}).method
    assert (method.consistency_weight, method.radius, method.ramp_share) == (0, 3, 0)


@in_2d_and_3d
def test_smoothness_compares_the_prediction_with_that_of_the_image_changed_by_a_norm_of_epsilon(dimensions):
    bench = make(dimensions, radius=2.5, xi=1.5)
    batch, seen = bench.batch(), []
    batch.unlabelled.valid[0, :6] = False
    bench.method.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    term = bench.losses(batch)["smoothness"]
    images, valid = both(batch)
    for norm, passed in zip((1.5, 2.5), seen, strict=True):
        change = passed - images
        assert change.flatten(1).norm(dim=1).tolist() == pytest.approx([norm] * 4, rel=1e-4)
        assert (change * ~valid.unsqueeze(1)).abs().max() == 0, "outside the scan nothing is changed"
    with torch.no_grad():
        p, q = (bench.method.network(each).double().softmax(1).numpy() for each in (seen[1], images))
    losses = []
    for k in range(p.shape[1]):
        ours, theirs = p[:, k][valid.numpy()], q[:, k][valid.numpy()]
        losses.append(1 - (2 * (ours * theirs).sum() + 1e-5) / ((ours**2).sum() + (theirs**2).sum() + 1e-5))
    assert term.item() == pytest.approx(np.mean(losses), rel=1e-3)


@in_2d_and_3d
def test_the_change_misleads_more_than_chance_does(dimensions):
    bench = make(dimensions, radius=1.0, xi=1.0)
    batch = bench.batch()
    found = bench.losses(batch)["smoothness"].item()
    images, _ = both(batch)
    by_chance = []
    with torch.no_grad():
        target = bench.method.network(images).softmax(1)
        for seed in range(5):
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
            noise /= noise.flatten(1).norm(dim=1).view(-1, *[1] * (images.ndim - 1))
            p = bench.method.network(images + noise).softmax(1)
            sums = [(part.transpose(0, 1).flatten(1)).sum(1) for part in (p * target, p * p, target * target)]
            by_chance.append((1 - 2 * sums[0] / (sums[1] + sums[2])).mean().item())
    assert found > 3 * max(by_chance)


def test_running_statistics_follow_only_the_pass_of_the_images_as_they_are():
    network = {"network": NetworkChoice(name="unet", settings={"width": 4, "levels": 3, "norm": "batch"})}
    bench = make()
    plan = bench.config.plan.model_copy(update=network)
    bench.problem = Problem(plan, bench.problem.channels, bench.problem.labels)
    method = type(bench.method)()
    method.build(bench.problem)
    bench.method = method
    batch = bench.batch()
    twin = bench.problem.network()
    twin.load_state_dict(method.network.state_dict())
    bench.losses(batch)
    bench._seed()
    twin(both(batch)[0])
    buffers = dict(method.network.named_buffers())
    assert any("running_mean" in key for key in buffers)
    for key, value in twin.named_buffers():
        torch.testing.assert_close(buffers[key], value)


@in_2d_and_3d
def test_class_separation_draws_features_to_the_memory_of_their_class(dimensions):
    """With more queries than voxels, so that all are compared; selectors and means in NumPy."""
    bench = make(dimensions, queries=5000, separation_weight=0.3)
    method, batch = bench.method, bench.batch()
    batch.unlabelled.valid[0, :6] = False
    terms = bench.losses(batch)
    memory, stored = method.memory.features, method.memory.stored
    assert stored[1:].any()
    network = method.network
    for stream, term in (
        (batch.labelled, terms["separation_labelled"]),
        (batch.unlabelled, terms["separation_unlabelled"]),
    ):
        with torch.no_grad():
            maps = network.decode(network.encode(stream.image))[-1]
            label = stream.label
            if label is None:
                label = network.head(maps).argmax(1).masked_fill(~stream.valid, IGNORE)
            rows = maps.movedim(1, -1)[label != IGNORE]
            classes = label[label != IGNORE]
            everything = torch.ones(1, len(rows), dtype=torch.bool)
            queries = method.prediction(method.projection(rows[None], everything), everything)[0]
            total = 0.0
            for c in range(bench.problem.classes):
                own, kept = queries[classes == c], memory[c][stored[c]]
                if len(own) == 0 or len(kept) == 0:
                    continue
                per_class = queries.new_zeros(bench.problem.classes, len(own), queries.shape[1])
                per_class[c] = own
                counted = torch.ones(per_class.shape[:2], dtype=torch.bool)
                w = method.query_selector(per_class, counted)[c, :, 0].sigmoid()
                v = method.memory_selector(memory, stored)[c][stored[c]][:, 0].sigmoid()
                distances = 1 - F.normalize(own, dim=1) @ F.normalize(kept, dim=1).T
                total += (len(w) * w / w.sum())[:, None].mul(len(v) * v / v.sum()).mul(distances).mean().item()
        assert term.item() == pytest.approx(0.3 * total / bench.problem.classes, rel=2e-3)


@pytest.mark.parametrize("kept", ["highest", "lowest"])
def test_the_memory_keeps_projections_of_rightly_predicted_voxels_by_their_rank(kept):
    bench = make(queries=5000, memory_size=3, kept=kept)
    method, batch = bench.method, bench.batch()
    method.eval()  # so that statistics are those by which the memory ranks
    method.separation(batch, 1.0)
    with torch.no_grad():
        maps = method.network.decode(method.network.encode(batch.labelled.image))[-1]
        right = (method.network.head(maps).argmax(1) == batch.labelled.label) & (batch.labelled.label != IGNORE)
    for c in range(bench.problem.classes):
        rows = maps.movedim(1, -1)[right & (batch.labelled.label == c)]
        assert method.memory.stored[c].sum() == min(len(rows), 3)
        if len(rows) < 4:
            continue
        counted = torch.ones(1, len(rows), dtype=torch.bool)
        with torch.no_grad():
            projected = method.projection(rows[None], counted)[0]
            spread = projected.expand(bench.problem.classes, -1, -1)
            scores = method.query_selector(spread, counted.expand(bench.problem.classes, -1))[c, :, 0]
        order = scores.argsort(descending=kept == "highest")[:3]
        torch.testing.assert_close(method.memory.features[c], projected[order])
    assert method.memory.stored[0].all()


def test_what_ranks_for_the_memory_goes_by_averaged_statistics_and_leaves_no_trace_in_them():
    bench = make()
    method, stream = bench.method, bench.batch().labelled
    with torch.no_grad():
        maps = method.network.decode(method.network.encode(stream.image))[-1]
    features, candidates = method.drawn(maps, stream.label, stream)
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers() if not name.startswith("memory")}
    method.remember(features, candidates.clone())
    of_all = method.memory.features[1].clone()
    for name, buffer in buffers.items():
        assert torch.equal(dict(method.named_buffers())[name], buffer), name
    assert method.projection.training
    assert method.query_selector.training
    candidates[2:] = False
    method.remember(features, candidates)
    torch.testing.assert_close(method.memory.features[1], of_all)


def test_the_ramp_and_its_weight_are_of_smoothness_and_separation_alone():
    whole, part = (make(consistency_weight=weight, ramp_share=1.0) for weight in (1.0, 0.3))
    one, other = (bench.losses(bench.batch()) for bench in (whole, part))
    assert other.pop("supervised") == one["supervised"]
    assert len(other) == 3
    for name, term in other.items():
        assert term.item() == pytest.approx(0.3 * one[name].item(), rel=1e-4)
        assert term > 0


@pytest.mark.parametrize("background", [True, False])
def test_the_background_has_a_memory_unless_it_is_refused_one(background):
    bench = make(background=background)
    bench.losses(bench.batch())
    assert bench.method.memory.stored[0].any() == background
    assert bench.method.memory.stored[1:].any()


def test_the_memory_is_saved_and_goes_on_where_it_was():
    bench = make()
    bench.losses(bench.batch())
    other = make().method
    other.load_state_dict(bench.method.state_dict())
    assert torch.equal(other.memory.features, bench.method.memory.features)
    assert other.memory.stored.any()


def test_the_selectors_choose_and_do_not_move_the_features():
    bench = make()
    method, batch = bench.method, bench.batch()
    labels = batch.labelled.label
    with torch.no_grad():
        maps = method.network.decode(method.network.encode(batch.labelled.image))[-1]
    features, counted = method.drawn(maps, labels, batch.labelled)
    method.remember(features, counted.clone())
    features.requires_grad_()
    queries = []
    method.query_selector.register_forward_hook(lambda module, inputs, output: queries.append(inputs[0].requires_grad))
    method.distance_to_memory(features, counted).backward()
    assert queries == [False]
    assert features.grad.abs().max() > 0
    for selector in (method.query_selector, method.memory_selector):
        assert any(parameter.grad.abs().max() > 0 for parameter in selector.parameters())


@in_2d_and_3d
def test_one_query_and_one_place_are_enough(dimensions):
    bench = make(dimensions, queries=1, memory_size=1)
    terms = bench.losses(bench.batch())
    assert bench.method.memory.stored.any()
    assert terms["separation_labelled"] > 0


def test_a_sample_whose_task_leaves_a_class_out_teaches_neither_it_nor_the_background_it_hides_in(monkeypatch):
    bench = make()
    method, batch = bench.method, bench.batch()
    labelled = batch.labelled
    labelled.known[0, 1] = False
    labelled.label[0, :6], labelled.label[0, 6:9] = 1, 2
    seen, drawn = [], method.drawn
    monkeypatch.setattr(method, "drawn", lambda maps, label, *rest: seen.append(label) or drawn(maps, label, *rest))
    bench.losses(batch)
    remembered, known, _ = seen
    for label in (remembered, known):
        assert not torch.isin(label[0], torch.tensor([0, 1])).any()
    sure = labelled.label[0] > 1
    assert torch.equal(known[0][sure], labelled.label[0][sure])
    assert torch.equal(known[1], labelled.label[1])


def test_the_demand_is_two_kept_passes_one_at_a_time_and_a_power_step():
    bench = make()
    passes = []
    bench.method.network.register_forward_hook(lambda module, inputs, output: passes.append(output.requires_grad))
    bench.method.network.encoder.register_forward_hook(lambda module, inputs, output: passes.append("encoded"))
    parts = bench.method.parts(bench.batch(), bench.clock)
    next(parts)
    assert passes == ["encoded"]
    next(parts)
    assert passes == ["encoded"] + 2 * ["encoded", True]
    demand = SmoothnessClassSeparation.demand(bench.method.settings)
    assert demand.labelled_forwards == demand.unlabelled_forwards == demand.parts == 2
    assert demand.relative_cost == pytest.approx((3 + 2 + 3) / 3 * 2)


def test_what_one_part_kept_is_gone_when_the_next_begins():
    bench = make()
    terms = [set(part) for part in bench.method.parts(bench.batch(), bench.clock)]
    assert terms == [{"supervised", "separation_labelled", "separation_unlabelled"}, {"smoothness"}]
