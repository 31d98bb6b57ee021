import nibabel as nib
import numpy as np
import pytest

from semivox.data import research_h5
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

h5py = pytest.importorskip("h5py")


def save(path, image, label=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = image
        if label is not None:
            file["label"] = label
    return image, label


def write_atrium(folder, names=("B2", "A1", "T1"), shape=(6, 5, 4)):
    rng = np.random.default_rng(0)
    (folder).mkdir(parents=True)
    (folder / "train.list").write_text("B2\nA1\n\n")
    (folder / "test.list").write_text("T1")
    return {
        name: save(
            folder / "2018LA_Seg_Training Set" / name / "mri_norm2.h5",
            rng.normal(size=shape).astype(np.float32),
            rng.integers(0, 2, shape).astype(np.uint8),
        )
        for name in names
    }


def write_acdc(folder, volumes=True, slices=False):
    """Patients 9 (two frames, listed first), 1 (validation) and 2 (test); arrays are (z, y, x)."""
    rng = np.random.default_rng(1)
    truth = {}
    for name, depth in (
        ("patient009_frame01", 3),
        ("patient009_frame02", 11),
        ("patient001_frame01", 2),
        ("patient002_frame01", 2),
    ):
        image, label = rng.random((depth, 5, 7)), rng.integers(0, 4, (depth, 5, 7)).astype(float)
        truth[name] = image, label
        if volumes:
            save(folder / "data" / f"{name}.h5", image, label)
        for k in range(depth) if slices else ():
            save(folder / "data" / "slices" / f"{name}_slice_{k + 1}.h5", image[k], label[k])
    order = [
        f"patient009_frame{frame}_slice_{k}" for frame, depth in (("02", 11), ("01", 3)) for k in range(1, depth + 1)
    ]
    (folder / "train_slices.list").write_text("\n".join(order))
    (folder / "val.list").write_text("patient001_frame01\n")
    (folder / "test.list").write_text("patient002_frame01.h5\n")
    return truth


def test_atrium_keeps_axes_values_and_published_order(tmp_path):
    truth = write_atrium(tmp_path / "data")
    dataset = research_h5.convert(tmp_path / "data", tmp_path / "out")
    assert [(case.id, case.split) for case in dataset] == [("B2", "train"), ("A1", "train"), ("T1", "test")]
    assert dataset.labels.foreground == ("left_atrium",)
    for case in dataset:
        image, label = truth[case.id]
        np.testing.assert_array_equal(read_image(case, dataset).array[0], image)
        np.testing.assert_array_equal(read_classes(case, dataset).array, label)


def test_spacing_is_one_and_that_is_stated(tmp_path):
    write_atrium(tmp_path / "data")
    dataset = research_h5.convert(tmp_path / "data", tmp_path / "out")
    np.testing.assert_array_equal(nib.load(dataset.cases[0].images[0]).affine, np.diag([-1, -1, 1, 1]))
    assert "in voxels" in (tmp_path / "out" / "README.txt").read_text()


@pytest.mark.parametrize(("volumes", "slices"), [(True, False), (False, True), (True, True)])
def test_acdc_from_volumes_or_slices(tmp_path, volumes, slices):
    truth = write_acdc(tmp_path / "ACDC", volumes, slices)
    dataset = research_h5.convert(tmp_path / "ACDC", tmp_path / "out")
    assert [(case.id, case.split, case.group) for case in dataset] == [
        ("patient009_frame02", "train", "patient009"),
        ("patient009_frame01", "train", "patient009"),
        ("patient001_frame01", "val", "patient001"),
        ("patient002_frame01", "test", "patient002"),
    ]
    assert dataset.labels.foreground == ("RV", "MYO", "LV")
    for case in dataset:
        image, label = truth[case.id]
        volume = read_image(case, dataset)
        assert volume.grid.shape == (7, 5, len(image))
        np.testing.assert_array_equal(volume.array[0, 2, 3], image[:, 3, 2].astype(np.float32))
        np.testing.assert_array_equal(read_classes(case, dataset, volume.grid).array, label.transpose(2, 1, 0))


def test_without_lists_all_are_training_cases_in_natural_order(tmp_path):
    for name in ("c10", "c9"):
        save(tmp_path / "in" / name / "mri_norm2.h5", np.zeros((2, 2, 2)))
    dataset = research_h5.convert(tmp_path / "in", tmp_path / "out")
    assert [case.id for case in dataset.unlabelled()] == ["c9", "c10"]


def test_case_names_are_made_safe(tmp_path):
    save(tmp_path / "in" / "a b\tc" / "mri_norm2.h5", np.zeros((2, 2, 2)))
    dataset = research_h5.convert(tmp_path / "in", tmp_path / "out")
    assert [case.id for case in dataset] == ["a_b_c"]


def spoil_list(folder):
    (folder / "train.list").write_text("B2\nA1\n../../etc/passwd\n")


def spoil_missing_from_lists(folder):
    (folder / "train.list").write_text("B2\n")


def spoil_both_lists(folder):
    (folder / "test.list").write_text("T1\nA1\n")


def atrium_file(folder):
    return folder / "2018LA_Seg_Training Set" / "A1" / "mri_norm2.h5"


def spoil_truncated(folder):
    atrium_file(folder).write_bytes(atrium_file(folder).read_bytes()[:900])


def spoil_no_image(folder):
    with h5py.File(atrium_file(folder), "w") as file:
        file["label"] = np.zeros((2, 2, 2))


def spoil_link(folder):
    with h5py.File(atrium_file(folder), "w") as file:
        file["image"] = h5py.ExternalLink(str(folder / "2018LA_Seg_Training Set" / "B2" / "mri_norm2.h5"), "image")


def spoil_external(folder):
    with h5py.File(atrium_file(folder), "w") as file:
        file.create_dataset("image", (2, 2, 2), "u1", external=[("/etc/passwd", 0, 8)])


def spoil_group(folder):
    with h5py.File(atrium_file(folder), "w") as file:
        file.create_group("image")


def spoil_shapes(folder):
    save(atrium_file(folder), np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def spoil_flat(folder):
    save(atrium_file(folder), np.zeros((2, 2)))


def spoil_label(folder):
    save(atrium_file(folder), np.zeros((1, 1, 2)), np.array([[[0.5, np.nan]]]))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_list, r"train\.list: lists '\.\./\.\./etc/passwd', of which there is no h5 file"),
        (spoil_missing_from_lists, r"case A1: .*mri_norm2\.h5: is in none of the lists"),
        (spoil_both_lists, r"case A1: .*test\.list: is listed under train too"),
        (spoil_truncated, r"A1/mri_norm2\.h5: cannot be read as h5"),
        (spoil_no_image, "holds no `image`"),
        (spoil_link, "`image` is a link"),
        (spoil_external, "`image` lies in another file"),
        (spoil_group, "`image` is no array of numbers"),
        (spoil_shapes, r"image \(2, 2, 2\) and label \(2, 2, 3\) differ in shape"),
        (spoil_flat, "`image` has 2 axes where 3 are due"),
        (spoil_label, r"label holds other values than 0 \.\. 255"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(tmp_path, spoil, what):
    write_atrium(tmp_path / "data")
    spoil(tmp_path / "data")
    with pytest.raises(DataError, match=what) as caught:
        research_h5.convert(tmp_path / "data", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_gap_in_the_slices_is_refused(tmp_path):
    write_acdc(tmp_path / "ACDC", volumes=False, slices=True)
    (tmp_path / "ACDC" / "data" / "slices" / "patient009_frame02_slice_5.h5").unlink()
    with pytest.raises(DataError, match="of patient009_frame02 are not consecutive"):
        research_h5.convert(tmp_path / "ACDC", tmp_path / "out")


def test_slices_of_unequal_shape_are_refused(tmp_path):
    write_acdc(tmp_path / "ACDC", volumes=False, slices=True)
    save(tmp_path / "ACDC" / "data" / "slices" / "patient009_frame02_slice_5.h5", np.zeros((5, 8)), np.zeros((5, 8)))
    with pytest.raises(DataError, match="differs from the other slices"):
        research_h5.convert(tmp_path / "ACDC", tmp_path / "out")


def test_folder_without_a_known_set_says_what_is_known(tmp_path):
    with pytest.raises(DataError, match=r"holds no \*/mri_norm2\.h5 \(left atrium\) and no patient"):
        research_h5.convert(tmp_path, tmp_path / "out")
