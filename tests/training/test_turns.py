"""Networks that take turns: each has an optimiser of its own, and neither step disturbs the other."""

import copy

import pytest
import torch
from test_resume import assert_equal, killed_at, trained
from torch import nn

from semivox.losses.cross_entropy import cross_entropy
from semivox.methods import METHODS
from semivox.methods.method import Method, Optimiser
from semivox.networks.layers import in_evaluation_mode
from semivox.planning.demand import Demand, Views
from semivox.training.checkpoint import load_checkpoint
from semivox.training.fit import fit
from semivox.training.log import read_log
from semivox.training.run import RunFolder

STEPS = 4


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Adversary(Method):
    """A discriminator tells predictions of labelled from those of unlabelled samples; the segmenter deceives it.

    The gradient of its step goes through the discriminator, as in every method of that kind. It takes notes of who
    moved, and of the gradient that the discriminator's optimiser found beside the one that its own loss has.
    """

    views = Views(labelled=("weak",), unlabelled=("weak",))
    witnessed: list[tuple[str, bool, bool]] = []
    gradients: list[tuple[torch.Tensor, torch.Tensor]] = []

    @classmethod
    def demand(cls, settings):
        return Demand(views=cls.views, networks=2, unlabelled_forwards=2)

    def build(self, problem):
        self.problem = problem
        self.segmenter = problem.network()
        convolution = nn.Conv3d if problem.dimensions == 3 else nn.Conv2d
        self.discriminator = nn.Sequential(
            convolution(problem.classes, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten()
        )
        with torch.no_grad():
            features = self.discriminator(torch.zeros(1, problem.classes, *problem.plan.patch)).shape[1]
        self.discriminator.append(nn.Linear(features, 2))

    def optimisers(self):
        return (
            Optimiser("segmenter", (self.segmenter,)),
            Optimiser("discriminator", (self.discriminator,), kind="adam", learning_rate=1e-3),
        )

    def steps(self, batch, clock):
        images = torch.cat([batch.labelled.image, batch.unlabelled.image])
        origin = torch.tensor([0] * len(batch.labelled) + [1] * len(batch.unlabelled))

        def deceive():
            logits = self.segmenter(images)
            taken_for = self.discriminator(logits.softmax(1))[origin == 1]
            return {
                "supervised": self.problem.supervised_loss(logits[origin == 0], batch.labelled),
                "adversarial": cross_entropy(taken_for, torch.zeros(len(taken_for), dtype=torch.long)),
            }

        def detect():
            with torch.no_grad():
                probabilities = self.segmenter(images).softmax(1)
            loss = cross_entropy(self.discriminator(probabilities), origin)
            own = torch.autograd.grad(loss, list(self.discriminator.parameters()), retain_graph=True)
            self.expected = torch.cat([gradient.flatten() for gradient in own])
            return {"discriminator": loss}

        for name, function in (("segmenter", deceive), ("discriminator", detect)):
            before = weights(self.segmenter), weights(self.discriminator)
            yield name, function
            moved = [not torch.equal(old, weights(m)) for old, m in zip(before, self.children(), strict=True)]
            self.witnessed.append((name, *moved))
        found = torch.cat([parameter.grad.flatten() for parameter in self.discriminator.parameters()])
        self.gradients.append((self.expected, found))


@pytest.fixture(autouse=True)
def adversary(monkeypatch):
    monkeypatch.setitem(METHODS, "adversary", f"{__name__}:Adversary")
    monkeypatch.setattr(Adversary, "witnessed", [])
    monkeypatch.setattr(Adversary, "gradients", [])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_each_step_moves_its_own_network_with_its_own_gradient(make_config, tmp_path, dimensions):
    trained(make_config("adversary", dimensions=dimensions, iterations=STEPS, gradient_clip=0.0), tmp_path / "run")
    assert Adversary.witnessed == [("segmenter", True, False), ("discriminator", False, True)] * STEPS
    assert len(Adversary.gradients) == STEPS
    for expected, found in Adversary.gradients:
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected)


def test_the_learning_rate_that_is_told_is_the_networks_and_not_the_discriminators(make_config, tmp_path):
    config = make_config("adversary", iterations=2, learning_rate=0.02, schedule="constant", warmup_share=0.0)
    trained(config, tmp_path / "run")
    assert {float(row["learning_rate"]) for row in read_log(RunFolder(tmp_path / "run").log)} == {0.02}


@pytest.mark.parametrize("step", [1, 3])
def test_both_optimisers_resume_exactly(make_config, tmp_path, monkeypatch, step):
    config = make_config("adversary", iterations=STEPS, checkpoint_every=1)
    whole = trained(config, tmp_path / "whole")
    run = killed_at(step, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)
    assert len(whole["optimisers"]) == 2


def test_in_half_precision_too_a_turn_sees_the_weights_that_the_turn_before_moved(make_config, tmp_path, monkeypatch):
    """Autocast may keep the halved weights of a whole step; then the discriminator would see the old segmenter, and a
    network that first labels without gradient would get none after it."""
    steps, same = Adversary.steps, []

    def compared(method, batch, clock):
        for name, function in steps(method, batch, clock):
            yield name, function
            with torch.no_grad(), in_evaluation_mode(method.segmenter):
                fresh = copy.deepcopy(method.segmenter)
                same.append(torch.equal(method.segmenter(batch.labelled.image), fresh(batch.labelled.image)))

    monkeypatch.setattr(Adversary, "steps", compared)
    trained(make_config("adversary", iterations=2, precision="bf16"), tmp_path / "run")
    assert same == [True] * 4
