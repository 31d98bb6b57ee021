import math
from pathlib import Path

import numpy as np
import pytest

from semivox.data.labels import IGNORE, LabelMap
from semivox.errors import DataError
from semivox.evaluation.scores import DISTANCES, METRICS, dice_per_class, score_case
from semivox.evaluation.surface import surface_distances

LABELS = LabelMap(names=("background", "wall", "cavity", "scar"), values=(0, 1, 2, 3))
ONE = LabelMap(names=("background", "organ"), values=(0, 1))
REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def classes(blobs):
    """(prediction, reference) of LABELS, (X, Y, Z) uint8."""
    (a, b), (c, d) = (blobs((20, 17, 9), seed) for seed in (1, 2))
    return tuple(np.where(x & y, 3, np.where(x, 2, y)).astype(np.uint8) for x, y in ((a, c), (b, d)))


def plain(prediction, reference, members, spacing):
    """Scores of the union of `members`, by the definitions, on the whole arrays."""
    a, b = np.isin(prediction, members), np.isin(reference, members)
    distances = surface_distances(a, b, spacing)
    return {
        "dice": 2 * (a & b).sum() / (a.sum() + b.sum()),
        "jaccard": (a & b).sum() / (a | b).sum(),
        "hd95": np.percentile(np.concatenate([distances.to_reference, distances.to_prediction]), 95),
        "asd": distances.to_reference.mean(),
        "volume_error": a.sum() / b.sum() - 1,
        "prediction_ml": a.sum() * math.prod(spacing) / 1000,
        "reference_ml": b.sum() * math.prod(spacing) / 1000,
    }


def test_every_class_is_scored_with_every_metric(classes):
    scores = score_case(*classes, LABELS, (1.0, 1.0, 3.0))
    assert list(scores) == ["wall", "cavity", "scar"]
    for index, found in enumerate(scores.values(), start=1):
        assert set(found) == {*METRICS, "prediction_ml", "reference_ml", "empty"}
        for name, value in plain(*classes, [index], (1.0, 1.0, 3.0)).items():
            assert found[name] == pytest.approx(value), name


def test_worked_values_of_two_overlapping_boxes():
    prediction, reference = np.zeros((2, 6, 6, 6), np.uint8)
    prediction[1:4, 1:4, 1:4] = 1
    reference[1:5, 1:4, 2:5] = 1
    found = score_case(prediction, reference, ONE, (1.0, 1.0, 1.0))["organ"]
    assert 100 * found["dice"] == pytest.approx(57.142857, abs=1e-6)
    assert 100 * found["jaccard"] == pytest.approx(40)
    assert found["asd"] == pytest.approx(0.423077, abs=1e-6)
    assert found["hd95"] == pytest.approx(1.020711, abs=1e-6)


def test_regions_are_scored_as_unions_of_their_classes(classes):
    labels = LabelMap(LABELS.names, LABELS.values, regions={"heart": (1, 2, 3), "inside": (2, 3)})
    scores = score_case(*classes, labels, (1.0, 1.0, 3.0))
    assert list(scores) == ["heart", "inside"]
    for found, members in zip(scores.values(), ([1, 2, 3], [2, 3]), strict=True):
        for name, value in plain(*classes, members, (1.0, 1.0, 3.0)).items():
            assert found[name] == pytest.approx(value), name
    assert dice_per_class(*classes, labels) == pytest.approx({name: found["dice"] for name, found in scores.items()})


def test_ignored_voxels_belong_to_no_mask(classes):
    prediction, reference = classes
    unknown = np.zeros(reference.shape, bool)
    unknown[5:12, 3:9, 2:5] = True
    found = score_case(prediction, np.where(unknown, IGNORE, reference).astype(np.uint8), LABELS, (1.0, 1.0, 3.0))
    expected = score_case(*(np.where(unknown, 0, array) for array in classes), LABELS, (1.0, 1.0, 3.0))
    assert found == expected
    assert found != score_case(prediction, reference, LABELS, (1.0, 1.0, 3.0))


def test_a_prediction_where_the_truth_is_unknown_costs_nothing():
    reference = np.zeros((6, 6, 6), np.uint8)
    reference[:3] = 1
    reference[3:] = IGNORE
    scores = score_case(np.ones((6, 6, 6), np.uint8), reference, ONE, (1.0, 1.0, 1.0))["organ"]
    assert scores["dice"] == scores["surface_dice"] == 1
    assert scores["hd95"] == scores["volume_error"] == 0
    assert dice_per_class(np.ones((6, 6, 6), np.uint8), reference, ONE) == {"organ": 1.0}


NAN = math.nan


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (0, 0, {"dice": 1, "jaccard": 1, "surface_dice": 1, "volume_error": NAN, "empty": "both"}),
        (0, 1, {"dice": 0, "jaccard": 0, "surface_dice": 0, "volume_error": -1, "empty": "prediction"}),
        (1, 0, {"dice": 0, "jaccard": 0, "surface_dice": 0, "volume_error": NAN, "empty": "reference"}),
    ],
    ids=["both empty", "prediction empty", "reference empty"],
)
def test_empty_masks(prediction, reference, expected):
    a, b = np.zeros((2, 5, 6, 7), np.uint8)
    a[2, 2, 2], b[3, 3, 3] = prediction, reference
    found = score_case(a, b, ONE, (1.0, 1.0, 1.0))["organ"]
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, nan_ok=True) if name != "empty" else value), name
    assert all(math.isnan(found[name]) for name in DISTANCES)


def test_masks_on_the_border_of_the_scan(blobs):
    masks = [np.pad(mask, 0).astype(np.uint8) for mask in blobs((8, 9, 10), seed=5)]
    for mask in masks:
        mask[0] = mask[-1] = mask[:, :, -1] = 1
    found = score_case(*masks, ONE, (1.0, 1.0, 1.0))["organ"]
    inside = score_case(*(np.pad(mask, 3) for mask in masks), ONE, (1.0, 1.0, 1.0))["organ"]
    assert found == inside


def test_a_single_slice_is_scored_in_2d():
    prediction, reference = np.zeros((2, 12, 12, 1), np.uint8)
    prediction[2:10, 2:10], reference[3:10, 2:10] = 1, 1
    found = score_case(prediction, reference, ONE, (1.0, 2.0, 8.0))
    flat = score_case(prediction[..., 0], reference[..., 0], ONE, (1.0, 2.0))
    assert {**found["organ"], "prediction_ml": 0, "reference_ml": 0} == {
        **flat["organ"],
        "prediction_ml": 0,
        "reference_ml": 0,
    }
    assert found["organ"]["hd95"] == 1
    assert found["organ"]["prediction_ml"] == pytest.approx(64 * 16 / 1000)


def test_a_structure_of_one_slice_in_a_scan_of_many_stays_3d():
    prediction, reference = np.zeros((2, 12, 12, 5), np.uint8)
    prediction[2:10, 2:10, 2], reference[2:10, 2:10, 2] = 1, 1
    reference[5, 5, 2] = 0
    # In 3-D every voxel of a single slice is surface; only the one that is missing has a distance.
    found = score_case(prediction, reference, ONE, (1.0, 1.0, 1.0))["organ"]
    assert found["asd"] == pytest.approx(1 / 64)


def test_voxel_unit_ignores_the_spacing_except_in_volumes(classes):
    in_voxels = score_case(*classes, LABELS, (0.5, 0.5, 4.0), unit="voxel")["wall"]
    unit_spacing = score_case(*classes, LABELS, (1.0, 1.0, 1.0))["wall"]
    assert {in_voxels[name] for name in DISTANCES} == {unit_spacing[name] for name in DISTANCES}
    assert in_voxels["prediction_ml"] == unit_spacing["prediction_ml"]


def test_only_the_names_asked_for_are_scored(classes):
    everything = score_case(*classes, LABELS, (1.0, 1.0, 3.0))
    assert score_case(*classes, LABELS, (1.0, 1.0, 3.0), names=["scar"]) == {"scar": everything["scar"]}


def test_memory_order_and_integer_type_change_nothing(classes):
    prediction, reference = classes
    expected = score_case(prediction, reference, LABELS, (1.0, 1.0, 3.0))
    assert score_case(np.asfortranarray(prediction), reference.astype(np.int64), LABELS, (1.0, 1.0, 3.0)) == expected


def test_different_shapes_are_refused():
    with pytest.raises(DataError, match="shape"):
        score_case(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 4), np.uint8), ONE, (1.0, 1.0, 1.0))


def real_labels():
    """A few cases of each kind: (case file, axis along which the prediction is moved)."""
    folders = [REAL / name / "labelsTs" for name in ("la", "acdc", "hippocampus", "segthor")]
    return [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())[:1]]


@pytest.mark.skipif(not real_labels(), reason="the real scans are not here")
@pytest.mark.parametrize("file", real_labels(), ids=lambda file: file.parent.parent.name)
def test_real_labels_agree_with_medpy(file):
    import nibabel

    medpy = pytest.importorskip("medpy.metric.binary")
    image = nibabel.load(file)
    spacing = tuple(map(float, image.header.get_zooms()))
    reference = np.asarray(image.dataobj)[:, :, ::2].astype(np.uint8)
    prediction = np.roll(reference, (1, -2), axis=(0, 1))
    prediction[::7] = 0
    count = int(reference.max()) + 1
    labels = LabelMap(tuple(map(str, range(count))), tuple(range(count)))
    scores = score_case(prediction, reference, labels, spacing)
    for index in range(1, count):
        masks = prediction == index, reference == index
        found = scores[str(index)]
        assert found["dice"] == pytest.approx(medpy.dc(*masks), abs=1e-12)
        assert found["jaccard"] == pytest.approx(medpy.jc(*masks), abs=1e-12)
        assert found["volume_error"] == pytest.approx(medpy.ravd(*masks), abs=1e-12)
        assert found["hd95"] == pytest.approx(medpy.hd95(*masks, spacing), abs=1e-6)
        assert found["asd"] == pytest.approx(medpy.asd(*masks, spacing), abs=1e-6)
        assert found["assd"] == pytest.approx(medpy.assd(*masks, spacing), abs=1e-6)
