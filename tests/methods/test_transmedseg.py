"""TransMedSeg: copy-paste, the augmentation and the graph terms in one step, against a slow version."""

import numpy as np
import pytest
import torch
from slow_augmentation import SlowAugmentation, corrected_cross_entropy, pseudo_labels, read_by_classifier, tap_sum

from semivox.data.labels import IGNORE
from semivox.methods import find_method
from semivox.methods.transmedseg import Aligned, StructureGraph
from semivox.testing import Workbench
from semivox.testing.altered import pad_unlabelled

PRETRAIN, SELF_TRAIN = 0, 1
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(dimensions=2, stage=SELF_TRAIN, *, graph="clustering_and_alignment", **settings):
    settings = {"transferable_augmentation": {"weight": 0.3, "strength": 2.0}, "teacher_mode": "eval", **settings}
    settings["graph"] = graph
    return Workbench("transmedseg", dimensions, stage=stage, settings=settings, batch=4, dropout=False).decide()


def step_of(bench, batch):
    """The mixes that the student was shown, the coarsest map it made of them, and the terms."""
    student = bench.method.base.student
    images, maps = [], []
    hooks = (
        student.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0])),
        student.encoder.register_forward_hook(lambda module, inputs, output: maps.append(output[-1].detach())),
    )
    terms = bench.losses(batch)
    for hook in hooks:
        hook.remove()
    ((image,), (coarsest,)) = images, maps
    return image, coarsest, terms


def ground_truth(batch, mixed):
    """Labels of the mixes' labelled regions, `IGNORE` elsewhere."""
    label, mixed = batch.labelled.label.numpy(), mixed.numpy()
    box = (mixed[0::2] != batch.unlabelled.image.numpy()[0::2]).any(1)
    assert np.array_equal(mixed[1::2], np.where(box[:, None], batch.unlabelled.image[1::2], batch.labelled.image[1::2]))
    label[0::2][~box] = IGNORE
    label[1::2][box] = IGNORE
    return label


@in_2d_and_3d
def test_the_augmentation_equals_a_slow_version_over_two_steps(dimensions):
    bench = make_bench(dimensions)
    base = bench.method.base
    slow = SlowAugmentation(bench.problem.classes)
    for step in range(2):
        batch = bench.batch(step)
        batch.unlabelled.valid[1, :5] = False
        mixed, _, terms = step_of(bench, batch)
        features, logits = read_by_classifier(base.student, mixed)
        label = ground_truth(batch, mixed)
        slow.update("source", features, label)
        target, teacher = read_by_classifier(base.teacher.module, batch.unlabelled.image)
        slow.update("target", target, pseudo_labels(teacher, batch.unlabelled.valid.numpy()))
        table = slow.table(tap_sum(base.student.classifier[1]), 2.0 * bench.clock.stage_progress)
        expected = 0.3 * corrected_cross_entropy(logits, label, table)
        assert terms["transferable"].item() == pytest.approx(expected, rel=2e-4)
        assert abs(expected - 0.3 * corrected_cross_entropy(logits, label, 0 * table)) > 0.02 * expected


def elu(x):
    return np.where(x > 0, x, np.expm1(x))


def slow_clusters(clustering, cells):
    """Shares of one scan's cells (N, A): a graph convolution, two layers and a softmax."""
    weights = {name: value.double().numpy() for name, value in clustering.state_dict().items()}
    near = np.maximum(cells @ cells.T, 0)
    degree = np.where(near.sum(1) > 0, near.sum(1), np.inf)
    x = elu(near / np.sqrt(np.outer(degree, degree)) @ cells @ weights["convolution.weight"].T)
    x = elu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    powers = np.exp(x @ weights["layers.2.weight"].T + weights["layers.2.bias"])
    return powers / powers.sum(1, keepdims=True)


@in_2d_and_3d
@pytest.mark.parametrize("affinity", ["deepcut", "printed"])
def test_the_clustering_equals_a_slow_version(dimensions, affinity):
    bench = make_bench(dimensions, clustering_weight=0.7, temperature=3.0, clusters=4, affinity=affinity)
    batch = bench.batch()
    for stream in (batch.labelled, batch.unlabelled):
        stream.valid[:2, :9] = False
    _, maps, terms = step_of(bench, batch)
    values = []
    for scan, features in enumerate(maps.double().numpy()):
        labelled, unlabelled = batch.labelled.valid[scan], batch.unlabelled.valid[scan]
        valid = (labelled & unlabelled).numpy()
        cells, counted = [], []
        for place in np.ndindex(features.shape[1:]):
            feature = features[(slice(None), *place)]
            # The voxels that pooling lays on the cell.
            sizes = zip(place, valid.shape, features.shape[1:], strict=True)
            edges = [(i * v // n, -(-(i + 1) * v // n)) for i, v, n in sizes]
            if valid[tuple(slice(*edge) for edge in edges)].any():
                counted.append(len(cells))
            cells.append(feature / np.linalg.norm(feature))
        cells = np.stack(cells)
        cells[[i for i in range(len(cells)) if i not in counted]] = 0
        shares = slow_clusters(bench.method.clustering, cells)
        products = cells @ cells.T
        w = products - products.max() / 3 if affinity == "deepcut" else (products - products.max()) / 3
        term = (np.maximum(w, 0) - w * (shares @ shares.T))[np.ix_(counted, counted)]
        values.append(term.sum() / len(counted) ** 2)
        assert len(counted) < len(cells) or scan >= 2
    assert terms["clustering"].item() == pytest.approx(0.7 * np.mean(values), rel=1e-4)


def test_the_clustering_teaches_its_own_layers_and_the_encoder():
    bench = make_bench()
    bench.losses(bench.batch())["clustering"].backward()
    reached = {name for name, p in bench.method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name.split(".")[0] for name in reached} == {"base", "clustering", "graph"}
    assert {name.split(".")[2] for name in reached if name.startswith("base")} == {"encoder"}
    assert all(name.startswith("base.student.") for name in reached if name.startswith("base"))


def test_without_a_valid_cell_the_clustering_is_0():
    bench = make_bench()
    batch = bench.batch()
    pad_unlabelled(batch)
    assert bench.losses(batch)["clustering"] == 0


@in_2d_and_3d
def test_alignment_is_that_of_the_dense_graph(dimensions):
    graph = StructureGraph(width=6, scores=3)
    cells = torch.randn(4, 5 ** (dimensions - 1), 6)
    s = graph.analyser(cells.mean(1)).softmax(1).detach().double().numpy()
    assert (s > 0).all()
    near = s @ s.T
    scale = np.diag(near.sum(1) ** -0.5)
    expected = np.einsum("ij,jna->ina", scale @ near @ scale, cells.double().numpy())
    assert np.allclose(graph(cells).detach(), expected, atol=1e-6)
    assert np.linalg.eigvalsh(scale @ near @ scale).max() == pytest.approx(1)


def test_the_coarsest_map_alone_is_mixed_with_the_batchs_through_a_small_matrix():
    bench = make_bench()
    network, graph = bench.method.base.student, bench.method.graph
    image = bench.batch().labelled.image
    with torch.no_grad():
        *fine, coarsest = network.encoder[0](image)
        *same, mixed = network.encode(image)
        nodes = coarsest.flatten(2).mT
        expected = nodes + graph(nodes) @ network.encoder[1].mixed.weight.T
    assert all(torch.equal(one, other) for one, other in zip(fine, same, strict=True))
    torch.testing.assert_close(mixed.flatten(2).mT, expected)
    fresh = Aligned(width=64).mixed.weight
    assert 0 < fresh.abs().max() < 0.02


def test_a_sample_is_predicted_by_itself_whatever_is_beside_it():
    bench = make_bench()
    images = bench.batch().labelled.image
    bench.method.eval()
    with torch.no_grad():
        together = bench.method.predict(images, "default")
        alone = torch.cat([bench.method.predict(image, "default") for image in images.split(1)])
        torch.testing.assert_close(together, alone)
        network = bench.method.base.student.train()
        bench.method.training = True
        assert not torch.allclose(network(images)[:1], network(images[:1]), atol=1e-4)  # in training it is not


def test_without_the_graph_it_is_copy_paste_with_the_augmentation():
    bench = make_bench(graph="none")
    settings = {"transferable_augmentation": {"weight": 0.3, "strength": 2.0}, "teacher_mode": "eval"}
    other = Workbench("bcp+tsa", stage=SELF_TRAIN, settings=settings, batch=4, dropout=False)
    other.method.load_state_dict(bench.method.state_dict())
    terms, same = bench.losses(bench.batch()), other.losses(other.batch())
    assert terms.keys() == same.keys()
    assert all(torch.equal(terms[name], same[name]) for name in terms)


@pytest.mark.parametrize(
    ("graph", "parts"),
    [
        ("none", {"base", "augmentation"}),
        ("clustering", {"base", "augmentation", "clustering"}),
        ("clustering_and_alignment", {"base", "augmentation", "clustering", "graph"}),
    ],
)
def test_the_setting_says_which_graph_terms_take_part(graph, parts):
    bench = make_bench(graph=graph)
    assert dict(bench.method.named_children()).keys() == parts
    assert ("clustering" in bench.losses(bench.batch())) == ("clustering" in parts)
    assert isinstance(bench.method.base.student.encoder, torch.nn.Sequential) == ("graph" in parts)


def test_pretraining_has_copy_pastes_terms_alone():
    bench = make_bench(stage=PRETRAIN)
    assert set(bench.losses(bench.batch())) == {"supervised_border", "supervised_centre"}
    assert bench.method.maps == []


def test_a_step_keeps_no_maps_of_the_one_before():
    bench = make_bench(transferable_augmentation={"source": "clean"})
    bench.train_step(bench.batch())
    assert bench.method.maps == []
    first = bench.losses(bench.batch(1))["clustering"]
    assert torch.equal(bench.losses(bench.batch(1))["clustering"], first)


def test_the_augmentation_needs_no_label_of_an_unlabelled_scan_and_no_truth_elsewhere():
    """What lies outside a mix's labelled region must not matter to it, be it right or wrong."""
    bench, other = make_bench(), make_bench()
    batch = bench.batch()
    mixed, _, terms = step_of(bench, batch)
    hidden = torch.from_numpy(ground_truth(batch, mixed) == IGNORE)
    changed = other.batch()
    assert changed.unlabelled.label is None
    changed.labelled.label[hidden] = 3
    assert torch.equal(other.losses(changed)["transferable"], terms["transferable"])


@pytest.mark.parametrize("evaluate", ["teacher", "student"])
def test_what_predicts_is_copy_pastes_choice(evaluate):
    bench = make_bench(evaluate=evaluate)
    assert bench.method.inference_modules() == (getattr(bench.method.base, evaluate),)


def test_the_teacher_follows_the_student():
    bench = make_bench()
    base = bench.method.base
    with torch.no_grad():
        next(base.student.parameters()).add_(1.0)
    before = next(base.teacher.module.parameters()).clone()
    bench.method.after_step(bench.clock)
    moved = next(base.teacher.module.parameters()) - before
    expected = 0.01 * (next(base.student.parameters()) - before)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


def test_its_stages_views_and_cost_are_those_of_copy_paste():
    kind, base = find_method("transmedseg"), find_method("bcp")
    method = kind(kind.Settings(pretraining_share=0.4))
    assert tuple(method.stages()) == base(base.Settings(pretraining_share=0.4)).stages()
    assert kind.demand(kind.Settings()) == base.demand(base.Settings())
