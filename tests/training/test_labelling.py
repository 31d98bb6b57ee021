"""The store of pseudo-labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semivox.errors import RunError
from semivox.inference.windows import Windows
from semivox.training.labelling import Labelling, StoredLabels

STRANGE = ("plain", "../up", "a/b", "a b", "ä:1", "x" * 200, "x" * 199 + "y")


def some_label(seed=0):
    return np.random.default_rng(seed).integers(0, 5, (4, 3, 2)).astype(np.uint8)


def test_labels_of_any_id_come_back_and_stay_in_their_folder(tmp_path):
    labels = StoredLabels(tmp_path / "run" / "stage", STRANGE)
    for number, case_id in enumerate(STRANGE):
        assert case_id not in labels
        labels.write(case_id, some_label(number), number / 10)
    again = StoredLabels(tmp_path / "run" / "stage", STRANGE)
    for number, case_id in enumerate(STRANGE):
        np.testing.assert_array_equal(again.read(case_id), some_label(number))
        assert again.read(case_id).dtype == np.uint8
        assert again.reliability(case_id) == number / 10
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "stage"]


def test_all_that_is_stored_is_kept_unless_some_are_chosen(tmp_path):
    labels = StoredLabels(tmp_path, ("c", "a", "b"))
    labels.write("b", some_label())
    labels.write("c", some_label())
    assert labels.kept == ("c", "b")
    labels.keep(["b", "a"])
    assert labels.kept == ("b",)


def test_a_label_counts_only_once_its_record_is_there(tmp_path):
    labels = StoredLabels(tmp_path, ("a", "b"))
    labels.write("a", some_label())
    labels.write("b", some_label())
    (tmp_path / "cases" / "a.json").unlink()
    assert "a" not in labels
    assert labels.kept == ("b",)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_what_is_damaged_is_told_in_one_line(tmp_path, content):
    labels = StoredLabels(tmp_path, ("a",))
    labels.write("a", some_label())
    labels.keep(["a"])
    for file, look in (
        ("cases/a.npy", lambda: labels.read("a")),
        ("cases/a.json", lambda: labels.reliability("a")),
        ("kept.json", lambda: labels.kept),
    ):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(RunError, match=file) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    labels = StoredLabels(tmp_path, ("a",))
    labels.write("a", some_label())
    np.save(tmp_path / "cases" / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="damaged"):
        labels.read("a")


def test_labels_made_from_something_else_go_and_those_made_from_the_same_stay(tmp_path):
    labels = StoredLabels(tmp_path / "stage", ("a",))
    labels.begin("these weights")
    labels.write("a", some_label())
    labels.forget_others("these weights")
    assert "a" in labels
    labels.forget_others("other weights")
    assert not (tmp_path / "stage").exists()
    labels.write("a", some_label())  # of nobody knows what
    labels.forget_others("these weights")
    assert "a" not in labels


@pytest.fixture
def tools(tmp_path):
    """Stage tools for two scans of 6x5x4 voxels."""
    cases = (SimpleNamespace(id="a"), SimpleNamespace(id="b"))
    images = {"a": np.zeros((1, 6, 5, 4), np.float32), "b": np.ones((1, 6, 5, 4), np.float32)}
    dataset, store = SimpleNamespace(unlabelled=lambda: cases), SimpleNamespace(image=images.__getitem__)
    labelling = Labelling(dataset, store, Windows((4, 4, 4)), tmp_path, rank=0, ranks=1)
    return labelling.tools("stage", "stage 2 of 2", 7, "these weights", torch.device("cpu"))


def test_a_scan_is_predicted_in_windows_on_the_prepared_grid(tools):
    seen = []

    def predict(patches):
        seen.append(patches.shape)
        return torch.cat([patches, 1 - patches], 1)

    found = tools.predict(tools.cases[1], predict)
    assert found.shape == (2, 6, 5, 4)
    torch.testing.assert_close(found[0], torch.ones(6, 5, 4))
    assert all(shape[1:] == (1, 4, 4, 4) for shape in seen)


def test_what_is_drawn_while_labelling_depends_on_the_case_alone(tools):
    def label(case):
        return torch.randint(0, 200, (6, 5, 4)), None

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tools.label(tools.cases[1:], label)
    assert torch.equal(torch.rand(1), expected)
    alone = np.array(tools.labels.read("b"))
    for file in (tools.labels.folder / "cases").iterdir():
        file.unlink()
    tools.label(tools.cases, label)
    np.testing.assert_array_equal(tools.labels.read("b"), alone)
    assert (tools.labels.read("a") != alone).any()


def test_a_label_of_another_shape_is_a_fault_of_the_method(tools):
    with pytest.raises(ValueError, match=r"case a: a pseudo-label of shape \(6, 5\) for .* of \(6, 5, 4\)"):
        tools.label(tools.cases, lambda case: (np.zeros((6, 5), np.uint8), None))
