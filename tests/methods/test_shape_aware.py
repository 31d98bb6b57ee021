import numpy as np
import pytest
import torch

from semivox.testing import Workbench

NAME = "shape_aware"


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def bench(request):
    settings = {"adversarial_weight": 0.7, "distance_weight": 0.4}
    bench = Workbench(NAME, request.param, settings=settings, dropout=False)
    with torch.no_grad():
        for parameter in bench.method.distance_head.parameters():
            parameter.mul_(10)  # so that tanh bends
    return bench


def distances(bench, image):
    """What the second head says, in NumPy."""
    with torch.no_grad():
        penultimate = bench.method.network.decode(bench.method.network.encode(image))[-1]
        return np.tanh(bench.method.distance_head(penultimate).double().numpy())


def test_the_unlabelled_shapes_are_to_be_taken_for_labelled_ones(bench):
    batch = bench.batch()
    batch.unlabelled.valid[1, :5] = False
    term = bench.losses(batch)["adversarial"]
    valid = batch.unlabelled.valid.unsqueeze(1)
    shapes = torch.from_numpy(distances(bench, batch.unlabelled.image)).float()
    assert shapes.shape[1] == bench.problem.classes - 1
    with torch.no_grad():
        logits = bench.method.adversary.discriminator(shapes * valid, batch.unlabelled.image * valid).double().numpy()
    losses = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    weights = batch.unlabelled.valid.flatten(1).double().mean(1).numpy()
    ramp = np.exp(-5 * (1 - bench.clock.stage_progress) ** 2)
    assert term.item() == pytest.approx(0.7 * ramp * np.average(losses, weights=weights), rel=1e-3)


def test_distances_are_regressed_where_the_label_knows_the_class(bench):
    batch = bench.batch()
    labelled = batch.labelled
    labelled.known[1, 2] = False
    labelled.label[0, :4] = 255
    term = bench.losses(batch)["supervised_distance"]
    r = distances(bench, labelled.image)
    squares = [
        (r[(b, c, *voxel)] - labelled.signed_distance[(b, c, *voxel)].item()) ** 2
        for b, c, *voxel in np.ndindex(r.shape)
        if labelled.known[b, c + 1] and labelled.label[(b, *voxel)] != 255
    ]
    assert 0 < len(squares) < r.size
    assert term.item() == pytest.approx(0.4 * np.mean(squares), rel=1e-4)


def test_the_adversary_sees_the_distances_and_not_the_probabilities(bench):
    bench.losses(bench.batch())["adversarial"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in bench.method.distance_head.parameters())
    assert all(parameter.grad is None for parameter in bench.method.network.classifier.parameters())
    assert any(parameter.grad is not None for parameter in bench.method.network.encoder.parameters())
