"""The tiny phantom that methods are tried on. Its hidden labels are rubbish on disk; only the tester knows them."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from semivox.data.case import Dataset
from semivox.data.layout import read_dataset
from semivox.data.phantom import write_phantom
from semivox.networks import find_network
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.preparation.store import Store, make_store
from semivox.training.config import DataSettings
from semivox.training.fit import read_data, training_data
from semivox.training.labelling import StoredLabels

PREPARATION = Preparation(resample="none", normalisation=(Normalisation(),))
LABELLED = 1
"""Training cases per scanner that keep their label."""
SIZE = (24, 24, 16)
PATCHES = {2: (24, 24), 3: (16, 16, 12)}
"""Dimensions → patch of a plan whose step takes some tens of milliseconds."""
NETWORKS = {2: "unet", 3: "vnet"}


@dataclass(frozen=True)
class TinyPhantom:
    """Six training cases of 24x24x16 voxels (in-plane `detail` times as many), two of them labelled, and one validation
    case."""

    folder: Path
    hides: bool = True
    """Whether the label files of hidden and of test cases hold rubbish, as they do unless a fault is looked for."""

    @property
    def root(self) -> Path:
        """The data set."""
        return self.folder / ("hidden" if self.hides else "known") / "phantom"

    @property
    def data(self) -> DataSettings:
        """What a run's config says of the data: one case of each scanner keeps its label."""
        return DataSettings(datasets=(self.root,), labelled=LABELLED, store=self.folder / "stores")

    @cached_property
    def dataset(self) -> Dataset:
        """The data set as training sees it: of hidden labels not even the file's name is left."""
        return training_data(read_data(self.data), LABELLED)

    @cached_property
    def truth(self) -> Store:
        """Images and labels of all cases, prepared."""
        return make_store(read_dataset(self.folder / "known" / "phantom"), PREPARATION, self.folder / "truth")

    @cached_property
    def pseudo_labels(self) -> StoredLabels:
        """What an earlier stage might have stored: brightness in four steps, of all unlabelled cases but one."""
        _, *cases = [case.id for case in self.dataset.unlabelled()]
        labels = StoredLabels(self.folder / "pseudo_labels", cases)
        for case in cases:
            image = np.asarray(self.truth.image(case))[0]
            labels.write(case, np.digitize(image, np.quantile(image, (0.7, 0.85, 0.95))).astype(np.uint8))
        return labels


def write_tiny_phantom(folder: Path, detail: int = 1) -> TinyPhantom:
    """Writes the phantom, with and without its hidden labels, into `folder`."""
    phantom = TinyPhantom(folder)
    width, depth, height = SIZE
    size = (detail * width, detail * depth, height)
    known = write_phantom(folder / "known" / "phantom", cases=6, labelled=6, validation=1, test=1, size=size)
    shutil.copytree(known.root, phantom.root)
    hidden: Dataset = known.hide_labels(LABELLED)
    for case in (*hidden.unlabelled(), *hidden.split("test")):
        file = known[case.id].label
        assert file is not None
        (phantom.root / file.relative_to(known.root)).write_bytes(b"no label: nobody may read this")
    return phantom


@cache
def shared_phantom(detail: int = 1) -> TinyPhantom:
    """One phantom of each detail for the whole process, in a temporary folder that goes away with it."""
    folder = Path(tempfile.mkdtemp(prefix="semivox-phantom-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_tiny_phantom(folder, detail)


def tiny_plan(
    dimensions: int,
    batch: int = 2,
    *,
    width: int = 4,
    dropout: bool = True,
    network: str | None = None,
    detail: int = 1,
) -> Plan:
    """Patches are the same share of the phantom at each detail. GroupNorm, so that a sample does not depend on its
    neighbours and two processes see what one sees.

    network: a registered name; None takes U-Net in 2-D and V-Net in 3-D.
    """
    name = network or NETWORKS[dimensions]
    wanted: dict[str, Any] = {"width": width, "levels": 3, "blocks": (1, 2), "norm": "group", "size": "miniature"}
    if not dropout:
        wanted |= {"dropout": 0.0, "block_dropout": (0.0,)}
    named = find_network(name).Settings.model_fields
    settings = {key: value for key, value in wanted.items() if key in named}
    return Plan(
        preparation=PREPARATION,
        patch=tuple(detail * length for length in PATCHES[dimensions]),
        batch=BatchSize(labelled=batch, unlabelled=batch),
        network=NetworkChoice(name=name, settings=settings),
    )
