"""On the real sets beside the repository, where they are at hand; nothing of them is kept."""

from pathlib import Path

import numpy as np
import pytest

from semivox.data.image import read_classes, read_image
from semivox.data.layout import read_dataset
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.restore import restore_labels
from semivox.preparation.settings import Normalisation, Preparation

SETS = Path(__file__).parents[3] / "shared" / "data"


def one_case(name):
    if not (SETS / name).is_dir():
        pytest.skip("the real sets are not at hand")
    dataset = read_dataset(SETS / name)
    case = dataset.labelled()[0]
    return dataset, read_image(case, dataset), read_classes(case, dataset).array


@pytest.mark.parametrize("name", ["hippocampus", "la", "acdc", "segthor", "retina"])
def test_a_label_comes_back_exactly_at_the_scans_own_spacing(name):
    dataset, volume, label = one_case(name)
    plan = Preparation(normalisation=(Normalisation(),) * len(dataset.channels))
    image, placement = prepare_image(volume, plan)
    prepared = prepare_label(label, placement, plan)
    assert prepared.shape == image.shape[1:]
    assert (restore_labels(prepared, placement) == label).all()


@pytest.mark.parametrize(
    ("name", "spacing_mm"), [("la", (0.8, 0.8, 0.8)), ("acdc", (1.3, 1.3, None)), ("hippocampus", (0.8, 0.8, 0.8))]
)
def test_a_label_keeps_its_shape_through_another_spacing(name, spacing_mm):
    dataset, volume, label = one_case(name)
    plan = Preparation(normalisation=(Normalisation(),) * len(dataset.channels), spacing_mm=spacing_mm)
    _, placement = prepare_image(volume, plan)
    restored = restore_labels(prepare_label(label, placement, plan), placement)
    for index in range(1, dataset.labels.count):
        one, other = restored == index, label == index
        assert 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)) >= 0.985
