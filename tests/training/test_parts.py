"""Terms that are back-propagated in parts: the step is that of their sum, and only one part is in memory at once."""

import weakref

import pytest
import torch
from test_resume import trained

from semivox.methods import METHODS
from semivox.methods.method import Method, in_parts
from semivox.planning.cost import estimate
from semivox.planning.demand import Demand
from semivox.testing.phantom import tiny_plan

STEPS = 3


class AtOnce(Method):
    """Two terms of two passes."""

    alive: list[bool] = []

    def term(self, batch, brightness):
        features = self.network.encode(batch.labelled.image * brightness)
        self.witness = weakref.ref(features[0])
        logits = self.network.head(self.network.decode(features)[-1])
        return {f"supervised_{brightness}": self.problem.supervised_loss(logits, batch.labelled)}

    def losses(self, batch, clock):
        return self.term(batch, 1) | self.term(batch, 2)


class InParts(AtOnce):
    """The same, one after the other."""

    def parts(self, batch, clock):
        yield self.term(batch, 1)
        self.alive.append(self.witness() is not None)
        yield self.term(batch, 2)


class LaterBlowsUp(AtOnce):
    """Its second part is not a number at the second step."""

    def parts(self, batch, clock):
        yield self.term(batch, 1)
        yield {name: value / (clock.step != 1) for name, value in self.term(batch, 2).items()}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for kind in (AtOnce, InParts, LaterBlowsUp):
        monkeypatch.setitem(METHODS, kind.__name__, f"{__name__}:{kind.__name__}")
    monkeypatch.setattr(AtOnce, "alive", [])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_step_in_parts_is_the_step_of_their_sum(make_config, tmp_path, dimensions):
    runs = [
        trained(make_config(name, dimensions=dimensions, iterations=STEPS), tmp_path / name)
        for name in ("AtOnce", "InParts")
    ]
    for name, weight in runs[0]["method"].items():
        torch.testing.assert_close(runs[1]["method"][name], weight, rtol=1e-4, atol=1e-6)


def test_what_one_part_keeps_is_gone_when_the_next_begins(make_config, tmp_path):
    trained(make_config("InParts", iterations=STEPS), tmp_path / "run")
    assert AtOnce.alive == [False] * STEPS


def test_a_part_that_is_not_finite_leaves_the_whole_step_out(make_config, tmp_path):
    def weights(steps):
        config = make_config("LaterBlowsUp", iterations=steps, schedule="constant", warmup_share=0, checkpoint_every=1)
        return trained(config, tmp_path / f"run{steps}")["method"]

    one, two, three = (weights(steps) for steps in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(two[name], three[name]) for name in two)


def test_terms_that_are_one_part_and_terms_in_parts_are_told_apart():
    one, other = {"supervised": torch.ones(())}, {"unlabelled": torch.zeros(())}
    assert list(in_parts(one)) == [one]
    assert list(in_parts(iter([one, other]))) == [one, other]


def test_parts_lower_the_memory_that_is_foreseen_and_not_the_time():
    plan = tiny_plan(3, width=16).model_copy(update={"patch": (64, 64, 64)})
    whole, parted = (
        estimate(plan, Demand(labelled_forwards=3, parts=parts), 1, 2, autocast=torch.float32, flop_per_s=1e11)
        for parts in (1, 3)
    )
    assert parted.peak_gib < whole.peak_gib
    assert parted.step_s == whole.step_s
