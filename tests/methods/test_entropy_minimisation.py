import itertools

import numpy as np
import pytest
import torch

from semivox.testing.workbench import Workbench

RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""


def mean_entropy(probabilities: np.ndarray, valid: np.ndarray) -> float:
    """Of (B, K, *space), in units of ln K, over the voxels of `valid`."""
    values = []
    for b, *voxel in itertools.product(*(range(n) for n in valid.shape)):
        if valid[(b, *voxel)]:
            values.append(-sum(p * np.log(p) for p in probabilities[(b, slice(None), *voxel)]))
    return np.mean(values) / np.log(probabilities.shape[1])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("entropy_on", ["unlabelled", "all"])
def test_the_entropy_is_that_of_the_chosen_samples_without_padding(dimensions, entropy_on):
    settings = {"entropy_on": entropy_on, "entropy_weight": 0.7}
    bench = Workbench("entropy_minimisation", dimensions, settings=settings, dropout=False).decide()
    batch = bench.batch()
    for stream in (batch.labelled, batch.unlabelled):
        stream.valid[0, :5] = False
    streams = [batch.unlabelled] if entropy_on == "unlabelled" else [batch.labelled, batch.unlabelled]
    with torch.no_grad():
        probabilities = bench.method.network(torch.cat([stream.image for stream in streams])).double().softmax(1)
    valid = torch.cat([stream.valid for stream in streams])
    expected = 0.7 * RAMP * mean_entropy(probabilities.numpy(), valid.numpy())
    assert bench.losses(batch)["entropy"].item() == pytest.approx(expected, rel=1e-4)


def test_a_step_along_its_gradient_makes_the_network_surer():
    bench = Workbench("entropy_minimisation", settings={"entropy_weight": 1.0}, dropout=False)
    batch = bench.batch()
    before = bench.losses(batch)["entropy"]
    before.backward()
    with torch.no_grad():
        for parameter in bench.method.network.parameters():
            parameter -= 0.05 * parameter.grad / (parameter.grad.norm() + 1e-12)
    assert bench.losses(batch)["entropy"].item() < before.item()


def test_the_log_can_tell_the_share_of_each_class_on_unlabelled_scans():
    bench = Workbench("entropy_minimisation")
    batch = bench.batch()
    bench.losses(batch)
    assert bench.method.notes["teacher"].shape == (len(batch.unlabelled), 4, *batch.unlabelled.image.shape[2:])
