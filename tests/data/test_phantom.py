"""The phantom is what the demo and many tests train on: it must be the same everywhere and not trivial."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from semivox.data.image import read_classes, read_image
from semivox.data.phantom import write_phantom
from semivox.errors import SemivoxError, SettingError


def bytes_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_same_seed_gives_the_same_voxels_and_another_seed_others(tmp_path):
    sets = [
        write_phantom(tmp_path / name, cases=2, labelled=1, test=1, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    arrays = [[read_image(case, dataset).array for case in dataset] for dataset in sets]
    for one, same, other in zip(*arrays, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)


def test_a_case_does_not_depend_on_the_number_of_cases(tmp_path):
    few = write_phantom(tmp_path / "few", cases=2, labelled=1, test=0)
    many = write_phantom(tmp_path / "many", cases=4, labelled=2, test=0)
    for case in few:
        np.testing.assert_array_equal(read_image(case, few).array, read_image(many[case.id], many).array)


def test_most_cases_are_unlabelled_and_their_labels_are_not_written(tmp_path):
    dataset = write_phantom(tmp_path / "set", cases=8, labelled=4, validation=1, test=2, size=(16, 16, 12))
    assert len(dataset.labelled()) == 4
    assert len(dataset.unlabelled()) == 4
    assert len(list((tmp_path / "set" / "labelsTr").iterdir())) == 4 + 1
    assert all(case.label is not None for case in (*dataset.split("val"), *dataset.split("test")))
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [8, 1, 2]


def test_two_scanners_and_few_labels_of_the_second(tmp_path):
    dataset = write_phantom(tmp_path / "set", cases=8, labelled=4, test=2, size=(16, 16, 12))
    assert dataset.domains == ("scanner_a", "scanner_b")
    assert [case.domain for case in dataset.labelled()].count("scanner_b") == 1
    a, b = (nib.load(dataset.split("train")[index].images[0]) for index in (0, 1))
    assert nib.aff2axcodes(a.affine) == ("R", "A", "S")
    assert nib.aff2axcodes(b.affine) == ("L", "P", "S")
    assert not np.allclose(a.header.get_zooms(), b.header.get_zooms())


def test_the_patients_right_holds_the_liver_on_both_scanners(tmp_path):
    dataset = write_phantom(tmp_path / "set", cases=2, labelled=2, test=0)
    for case in dataset:
        volume = read_classes(case, dataset)
        liver_mm, kidney_mm = (
            (volume.grid.affine[:3, :3] @ np.argwhere(volume.array == k).mean(0) + volume.grid.affine[:3, 3])
            for k in (1, 2)
        )
        assert liver_mm[0] > 5 > -5 > kidney_mm[0]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_case_holds_every_organ(tmp_path, dimensions):
    dataset = write_phantom(tmp_path / "set", cases=12, labelled=12, test=0, dimensions=dimensions)
    for case in dataset:
        counts = np.bincount(read_classes(case, dataset, read_image(case, dataset).grid).array.ravel(), minlength=4)
        assert counts.min() >= 30, case.id


def test_brightness_alone_does_not_tell_the_organs(tmp_path):
    """The best threshold pair for the brightest organ still takes as much of other tissue."""
    dataset = write_phantom(tmp_path / "set", cases=6, labelled=6, test=0)
    for case in dataset:
        image, organ = read_image(case, dataset).array[0], read_classes(case, dataset).array == 3
        low, high = np.percentile(image[organ], (10, 90))
        chosen = (image >= low) & (image <= high)
        assert 2 * (chosen & organ).sum() / (chosen.sum() + organ.sum()) < 0.6


def test_pictures_are_8_bit_png_with_declared_values(tmp_path):
    dataset = write_phantom(tmp_path / "set", cases=2, labelled=2, test=1, dimensions=2, size=(40, 30))
    assert dataset.file_ending == ".png"
    for case in dataset:
        image, label = Image.open(case.images[0]), Image.open(case.label)
        assert image.mode == label.mode == "L"
        assert image.size == label.size == (40, 30)
        assert set(np.unique(np.asarray(label))) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"dimensions": 4}, "dimensions is 4"),
        ({"size": (32, 32)}, r"size is \[32, 32\]; give 3 numbers"),
        ({"size": (4, 32, 32)}, "at least 8"),
        ({"labelled": 17}, "17 labelled of 16 cases"),
        ({"test": -1}, "not negative"),
        ({"cases": 0, "labelled": 0, "test": 0}, "at least one case"),
    ],
)
def test_impossible_settings_are_one_line(tmp_path, settings, what):
    with pytest.raises(SettingError, match=what):
        write_phantom(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path):
    write_phantom(tmp_path / "set", cases=1, labelled=1, test=0, size=(8, 8, 8))
    before = bytes_of(tmp_path)
    with pytest.raises(SemivoxError, match="already exists"):
        write_phantom(tmp_path / "set", seed=9)
    assert bytes_of(tmp_path) == before
