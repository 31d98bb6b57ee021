"""Every method where the cases make domain adaptation or generalisation: it trains, and draws from whom it may."""

from dataclasses import dataclass
from functools import cached_property

import pytest

from semivox.data.case import Dataset
from semivox.data.setting import recognise
from semivox.methods import METHODS
from semivox.testing import Workbench
from semivox.testing.phantom import TinyPhantom, shared_phantom
from semivox.training.config import DataSettings
from semivox.training.fit import read_data, training_data


@dataclass(frozen=True)
class OfTwoDomains(TinyPhantom):
    """The phantom with labels in scanner_a alone; scanner_b, which is tested, is a target or was never seen."""

    unseen: tuple[str, ...] = ()

    @property
    def data(self) -> DataSettings:
        labelled = {"scanner_a": 1} if self.unseen else {"scanner_a": 1, "scanner_b": 0}
        return super().data.model_copy(update={"labelled": labelled, "unseen": self.unseen})

    @cached_property
    def dataset(self) -> Dataset:
        return training_data(read_data(self.data), self.data.labelled)


@pytest.fixture(scope="module", params=["UDA", "SemiDG"])
def phantom(request):
    unseen = {"UDA": (), "SemiDG": ("scanner_b",)}[request.param]
    found = OfTwoDomains(shared_phantom().folder, unseen=unseen)
    assert recognise(found.dataset).names == (request.param,)
    return found


@pytest.mark.parametrize("balanced", [False, True], ids=["as they come", "balanced"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(phantom, name, balanced):
    stages = len(Workbench(name, phantom=phantom).method.stages())
    lent = {"scanner_a"} if phantom.unseen else {"scanner_a", "scanner_b"}
    for stage in range(stages):
        bench = Workbench(name, phantom=phantom, stage=stage, balance={"domains": balanced})
        drawn = set()
        for step in range(3):
            batch = bench.batch(step)
            assert set(batch.labelled.domain) == {"scanner_a"}
            assert all(term.isfinite() for term in bench.losses(batch).values())
            drawn |= set(batch.unlabelled.domain) if batch.unlabelled is not None else lent
        assert drawn == lent
        bench.train_step(batch)
