import numpy as np
import pytest
import torch

from semivox.testing import Workbench

NAME = "adversarial"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_unlabelled_probabilities_are_to_be_taken_for_labelled_ones(dimensions):
    bench = Workbench(NAME, dimensions, settings={"adversarial_weight": 0.7, "ramp_share": 0.8}, dropout=False)
    batch, method = bench.batch(), bench.method
    batch.unlabelled.valid[0, :9] = False
    with torch.no_grad():
        method.adversary.discriminator.classifier.weight.mul_(1000)  # so that it judges scans differently
    term = bench.losses(batch)["adversarial"]
    with torch.no_grad():
        probabilities = method.network(batch.unlabelled.image).softmax(1)
        valid = batch.unlabelled.valid.unsqueeze(1)
        logits = method.adversary.discriminator(probabilities * valid, batch.unlabelled.image * valid).double().numpy()
    weights = batch.unlabelled.valid.flatten(1).double().mean(1).numpy()
    losses = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    ramp = np.exp(-5 * (1 - bench.clock.stage_progress / 0.8) ** 2)
    assert term.item() == pytest.approx(0.7 * ramp * np.average(losses, weights=weights), rel=1e-3)


def test_the_adversary_teaches_the_segmenter_through_the_unlabelled_scans_alone():
    bench = Workbench(NAME, settings={"ramp_share": 0}, dropout=False)
    batch = bench.batch()
    batch.unlabelled.views[0].requires_grad_()
    batch.labelled.views[0].requires_grad_()
    terms = bench.losses(batch)
    terms["adversarial"].backward(retain_graph=True)
    assert batch.unlabelled.image.grad.abs().max() > 0
    assert batch.labelled.image.grad is None or batch.labelled.image.grad.abs().max() == 0
    assert all(parameter.grad is not None for parameter in bench.method.network.classifier.parameters())
