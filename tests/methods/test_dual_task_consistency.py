import numpy as np
import pytest
import torch

from semivox.sampling.signed_distance import signed_distance
from semivox.testing import Workbench

NAME = "dual_task_consistency"
STEEPNESS = 20.0
"""So gentle that an untrained network's distances are not saturated."""


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def bench(request):
    settings = {"consistency_weight": 0.7, "distance_weight": 0.4, "steepness": STEEPNESS}
    return Workbench(NAME, request.param, settings=settings, dropout=False)


def predicted(bench, image):
    """Probabilities and signed distances of the two heads, in NumPy."""
    with torch.no_grad():
        penultimate = bench.method.network.decode(bench.method.network.encode(image))[-1]
        logits = bench.method.network.head(penultimate).double().numpy()
        distances = np.tanh(bench.method.distance_head(penultimate).double().numpy())
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True), distances


def test_both_tasks_are_compared_on_both_streams_as_in_a_slow_version(bench):
    batch = bench.batch()
    batch.unlabelled.valid[0, :6] = False
    batch.labelled.valid[1, 3:5] = False
    term = bench.losses(batch)["consistency"]
    squares = []
    for stream in (batch.labelled, batch.unlabelled):
        p, r = predicted(bench, stream.image)
        for b, *voxel in np.argwhere(stream.valid.numpy()):
            for c in range(1, p.shape[1]):
                inside = 1 / (1 + np.exp(STEEPNESS * r[(b, c - 1, *voxel)]))
                squares.append((inside - p[(b, c, *voxel)]) ** 2)
    ramp = np.exp(-5 * (1 - bench.clock.stage_progress) ** 2)
    assert term.item() == pytest.approx(0.7 * ramp * np.mean(squares), rel=1e-4)


def test_distances_are_regressed_where_the_label_knows_the_class(bench):
    batch = bench.batch()
    labelled = batch.labelled
    labelled.known[1, 2] = False
    labelled.label[0, :4] = 255
    term = bench.losses(batch)["supervised_distance"]
    _, r = predicted(bench, labelled.image)
    squares = []
    for b, c, *voxel in np.ndindex(r.shape):
        if labelled.known[b, c + 1] and labelled.label[(b, *voxel)] != 255:
            squares.append((r[(b, c, *voxel)] - labelled.signed_distance[(b, c, *voxel)].item()) ** 2)
    assert 0 < len(squares) < r.size
    assert term.item() == pytest.approx(0.4 * np.mean(squares), rel=1e-4)


def test_the_target_is_the_map_of_the_label_that_the_student_sees(bench):
    stream = bench.batch(step=1).labelled
    for label, maps in zip(stream.label.numpy(), stream.signed_distance.numpy(), strict=True):
        assert np.array_equal(maps, signed_distance(label, bench.problem.classes))
    assert stream.signed_distance.min() == -1


def test_the_consistency_teaches_both_heads(bench):
    bench.losses(bench.batch())["consistency"].backward()
    for module in (bench.method.network.classifier, bench.method.distance_head):
        assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@torch.no_grad()
def test_heads_that_say_the_same_cost_nothing_and_heads_that_contradict_do():
    bench = Workbench(NAME, dropout=False)
    logits, distances = bench.method.network.classifier[-1], bench.method.distance_head[-1]
    for layer, values in ((logits, [0.0, 0.0, 40.0, 0.0]), (distances, [0.1, -0.1, 0.1])):
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(values))
    assert bench.losses(bench.batch())["consistency"].item() < 1e-6
    distances.bias.neg_()
    ramp = np.exp(-5 * (1 - bench.clock.stage_progress) ** 2)
    assert bench.losses(bench.batch())["consistency"].item() == pytest.approx(ramp, rel=1e-4)


def test_what_was_compared_is_noted_with_every_class(bench):
    batch = bench.batch()
    bench.losses(batch)
    p, r = predicted(bench, batch.unlabelled.image)
    student, teacher = bench.method.notes["student"], bench.method.notes["teacher"]
    assert student.shape == teacher.shape == p.shape
    expected = np.where((r < 0).any(1), 1 + r.argmin(1), 0)
    assert np.array_equal(teacher.argmax(1).numpy(), expected)


def test_the_average_predicts_without_the_distance_head(bench):
    assert bench.method.inference_modules() == (bench.method.average,)
    assert not any("distance" in name for name, _ in bench.method.average.named_parameters())
