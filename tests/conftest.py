"""What many tests share: a tiny phantom data set and runs on it that take seconds."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from semivox.data.case import Dataset
from semivox.data.phantom import write_phantom
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.testing import TwoProcesses
from semivox.training.config import Config, DataSettings, MethodChoice, TrainingSettings, method_settings


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six training cases (two with a label), one validation case, two test cases of 24x24x16 voxels."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    return write_phantom(folder, cases=6, labelled=2, validation=1, test=2, size=(24, 24, 16))


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of stores for the whole session, so that each is made once."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def two_processes() -> Iterator[TwoProcesses]:
    """Two processes that serve every test in this one: starting them takes seconds."""
    with TwoProcesses() as processes:
        yield processes


def tiny_plan(dimensions: int = 3) -> Plan:
    """A plan whose step takes some tens of milliseconds. GroupNorm, so that ranks see what one process sees."""
    settings = {"width": 4, "levels": 3, "norm": "group"}
    return Plan(
        preparation=Preparation(resample="none", normalisation=(Normalisation(),)),
        patch=(16, 16, 12) if dimensions == 3 else (16, 16),
        batch=BatchSize(labelled=2, unlabelled=2),
        network=NetworkChoice(name="vnet" if dimensions == 3 else "unet", settings=settings),
    )


@pytest.fixture
def make_config(phantom: Dataset, stores: Path):
    """A function (method, **training) → config of a tiny run on the phantom."""

    def make(method: str = "mean_teacher", *, dimensions: int = 3, seed: int = 0, settings=None, **training) -> Config:
        choice = MethodChoice(name=method, settings=settings or {})
        choice = MethodChoice(name=method, settings=method_settings(choice).model_dump(mode="json"))
        defaults = {"iterations": 6, "device": "cpu", "precision": "32", "checkpoint_every": 2, "log_every": 1}
        return Config(
            data=DataSettings(datasets=(phantom.root,), store=stores),
            plan=tiny_plan(dimensions),
            method=choice,
            training=TrainingSettings(**{**defaults, **training}),
            seed=seed,
        )

    return make


PROTOCOL = {
    "name": "tiny",
    "title": "Phantom",
    "source": "us",
    "data": {
        "folders": ["phantom"],
        "root": "data",
        "classes": ["liver", "kidney", "vessel"],
        "labelled": 1,
        "development_groups": 1,
    },
    "plan": tiny_plan().model_dump(mode="json"),
    "training": {"iterations": 4, "precision": "32", "log_every": 1, "checkpoint_every": 1},
    "methods": {"mean_teacher": {"settings": {"consistency_weight": 0.5}, "training": {"learning_rate": 0.001}}},
    "published": {
        "figures": [
            {
                "method": "mean_teacher",
                "labelled": 1,
                "dice": 84.25,
                "hd95": 13.84,
                "source": "the paper",
                "mark": "verified",
                "selection": "last",
            }
        ]
    },
}
"""Of runs of four steps on a phantom that lies in data/phantom beside the protocol."""


@pytest.fixture
def write_protocol(tmp_path: Path):
    """A function (change of the content) → the protocol's file, beside a phantom of four labelled cases."""

    def write(change=lambda content: None, name: str = "tiny.yaml") -> Path:
        content = copy.deepcopy(PROTOCOL)
        change(content)
        file = tmp_path / name
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        if not (tmp_path / "data" / "phantom").exists():
            write_phantom(tmp_path / "data" / "phantom", cases=6, labelled=4, test=2, size=(24, 24, 16))
        return file

    return write
