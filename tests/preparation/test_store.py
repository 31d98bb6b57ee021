import fcntl
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from semivox.data.image import read_classes, read_image
from semivox.data.labels import IGNORE
from semivox.errors import DataError, ResourceError, RunError, SettingError
from semivox.preparation import store as store_module
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.settings import Normalisation, Preparation
from semivox.preparation.size import header_grid, store_size
from semivox.preparation.store import FOREGROUND_VOXELS, file_name, make_store, sample_foreground

LABELLED = "phantom_000"
UNLABELLED = "phantom_001"


@pytest.fixture
def own_scans(scans, tmp_path):
    """The scans in a folder of their own, free to be damaged."""
    root = tmp_path / "phantom"
    shutil.copytree(scans.root, root)

    def moved(path):
        return root / path.relative_to(scans.root)

    cases = [
        replace(case, images=tuple(map(moved, case.images)), label=case.label and moved(case.label)) for case in scans
    ]
    return replace(scans, root=root, cases=tuple(cases))


def contents(folder):
    """Every file of a store, whatever was only there to make it aside."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def times(folder):
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.npy")}


@pytest.mark.parametrize("compression", ["none", "blosc2"])
def test_arrays_are_those_that_prepare_gives(scans, preparation, tmp_path, compression):
    plan = preparation.model_copy(update={"compression": compression})
    store = make_store(scans, plan, tmp_path)
    for case in scans:
        array, placement = prepare_image(read_image(case, scans), plan)
        assert np.array_equal(store.image(case.id)[:], array)
        assert np.array_equal(store.image(case.id)[:, 2:5, 1:4, 3:], array[:, 2:5, 1:4, 3:])
        assert store.image(case.id).dtype == np.float32
        assert store.image(case.id).shape == array.shape
        assert store.placement(case.id) == placement
        if case.label:
            label = prepare_label(read_classes(case, scans).array, placement, plan)
            assert np.array_equal(store.label(case.id)[:], label)
            assert label.any()


def test_each_modality_gets_its_own_normalisation(scans, preparation, tmp_path):
    cases = [replace(case, channels=("CT",) if index % 2 else ("MRI",)) for index, case in enumerate(scans)]
    mixed = replace(scans, cases=tuple(cases))
    own = Normalisation(kind="ct", low=0, high=900, mean=300, deviation=150)
    plan = preparation.model_copy(update={"modalities": {"CT": (own,)}})
    plain, store = make_store(mixed, preparation, tmp_path), make_store(mixed, plan, tmp_path)
    for case in cases:
        wanted = preparation.model_copy(update={"normalisation": (own,)}) if case.channels == ("CT",) else preparation
        assert np.array_equal(store.image(case.id), prepare_image(read_image(case, scans), wanted)[0])
        is_shared = np.array_equal(store.image(case.id), plain.image(case.id))
        assert is_shared == (case.channels == ("MRI",))
    assert np.array_equal(store.label(LABELLED), plain.label(LABELLED))


def test_a_modality_does_not_move_the_stores_of_plans_that_name_none(scans, preparation, tmp_path):
    store = make_store(scans, preparation, tmp_path)
    described = json.loads((store.folder / "store.json").read_text())["preparation"]
    assert "modalities" not in described  # as before there were any: the folder's name is made of just this
    assert store.folder.name.endswith(store_module.digest([1, described, str(scans.root.resolve())])[:12])


def test_a_modality_whose_channels_are_miscounted_is_refused(preparation):
    with pytest.raises(ValueError, match="modalities: 'CT' has 2 entries where normalisation has 1"):
        Preparation(**preparation.model_dump() | {"modalities": {"CT": [Normalisation(), Normalisation()]}})


def test_plain_arrays_are_mapped_not_read(scans, preparation, tmp_path):
    store = make_store(scans, preparation, tmp_path)
    assert isinstance(store.image(LABELLED), np.memmap)
    assert isinstance(store.label(LABELLED), np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.image(LABELLED)[0, 0, 0, 0] = 1


def test_several_workers_make_what_one_makes(scans, preparation, tmp_path):
    seen = []
    one = make_store(scans, preparation, tmp_path / "one")
    two = make_store(scans, preparation, tmp_path / "two", workers=2, progress=lambda *state: seen.append(state))
    one.make_labels()
    two.make_labels(workers=2)
    assert contents(one.folder) == contents(two.folder)
    assert seen == [(done, 5) for done in range(6)]


def test_an_image_is_prepared_alike_with_and_without_its_label(scans, preparation, tmp_path):
    hidden = replace(scans, cases=tuple(replace(case, label=None) for case in scans))
    without = make_store(hidden, preparation, tmp_path / "without")
    alone = contents(without.folder)
    whole = make_store(scans, preparation, tmp_path / "with")
    whole.make_labels()
    assert {name: data for name, data in contents(whole.folder).items() if not name.startswith("labels")} == alone
    assert make_store(scans, preparation, tmp_path / "without").folder == without.folder


def test_a_label_is_read_when_it_is_first_asked_for_and_not_before(own_scans, preparation, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        store_module, "read_classes", lambda case, *rest: read.append(case.id) or read_classes(case, *rest)
    )
    store = make_store(own_scans, preparation, tmp_path)
    assert read == []
    store.label(LABELLED)
    store.foreground(LABELLED)
    pickle.loads(pickle.dumps(store)).label(LABELLED)
    assert read == [LABELLED]


def test_a_hidden_label_is_refused_even_where_another_run_has_made_it(scans, preparation, tmp_path):
    make_store(scans, preparation, tmp_path).make_labels()
    hidden = replace(scans, cases=tuple(replace(case, label=None) for case in scans))
    store = make_store(hidden, preparation, tmp_path)
    for ask in (store.label, store.foreground, lambda case_id: store.make_labels([case_id])):
        with pytest.raises(DataError, match=f"case {LABELLED} has no label"):
            ask(LABELLED)


def test_deleting_hidden_label_files_changes_nothing(own_scans, preparation, tmp_path):
    hidden = replace(own_scans, cases=tuple(replace(case, label=None) for case in own_scans))
    before = contents(make_store(hidden, preparation, tmp_path / "before").folder)
    for case in own_scans:
        if case.label:
            case.label.unlink()
    assert contents(make_store(hidden, preparation, tmp_path / "after").folder) == before


def test_a_store_is_used_again_untouched(scans, preparation, tmp_path, monkeypatch):
    first = make_store(scans, preparation, tmp_path)
    before = contents(first.folder)
    monkeypatch.setattr(store_module, "read_image", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(store_module, "sources_of", lambda *_: pytest.fail("hashed again"))
    second = make_store(scans, preparation, tmp_path)
    assert contents(second.folder) == before


def test_a_file_that_was_only_touched_is_not_prepared_again(own_scans, preparation, tmp_path):
    store = make_store(own_scans, preparation, tmp_path)
    before = times(store.folder)
    os.utime(own_scans.cases[0].images[0])
    assert times(make_store(own_scans, preparation, tmp_path).folder) == before


def test_only_a_changed_case_is_prepared_again_and_its_label_with_it(own_scans, preparation, tmp_path):
    store = make_store(own_scans, preparation, tmp_path)
    store.make_labels()
    before = times(store.folder)
    case = own_scans[LABELLED]
    shutil.copy(own_scans["phantom_002"].images[0], case.images[0])
    shutil.copy(own_scans["phantom_002"].label, case.label)
    again = make_store(own_scans, preparation, tmp_path)
    assert np.array_equal(again.image(LABELLED), again.image("phantom_002"))
    assert np.array_equal(again.label(LABELLED), again.label("phantom_002"))
    changed = {name for name, at in times(store.folder).items() if at != before[name]}
    assert {name.split("/")[1] for name in changed} == {f"{LABELLED}.npy"}
    assert len(changed) == 2


def test_another_plan_is_another_store(scans, preparation, tmp_path):
    other = preparation.model_copy(update={"image_order": 1})
    stores = [make_store(scans, plan, tmp_path) for plan in (preparation, other)]
    assert stores[0].folder != stores[1].folder
    assert all(store.folder.name.startswith("phantom-") for store in stores)


def test_two_label_maps_share_images_and_keep_their_labels_apart(scans, preparation, tmp_path):
    liver = scans.restrict(["liver"])
    everything, only = (make_store(dataset, preparation, tmp_path) for dataset in (scans, liver))
    assert everything.folder == only.folder
    assert set(np.unique(everything.label(LABELLED))) > {0, 1}
    assert set(np.unique(only.label(LABELLED))) == {0, 1}
    assert set(np.unique(pickle.loads(pickle.dumps(everything)).label(LABELLED))) > {0, 1}


def test_foreground_lists_voxels_of_each_class(scans, preparation, tmp_path):
    store = make_store(scans, preparation, tmp_path)
    label, foreground = store.label(LABELLED), store.foreground(LABELLED)
    assert sorted(foreground) == [index for index in np.unique(label) if index]
    for index, voxels in foreground.items():
        assert voxels.dtype == np.int32
        assert {tuple(voxel) for voxel in voxels} == {tuple(voxel) for voxel in np.argwhere(label == index)}


def test_foreground_is_a_fixed_sample_of_large_classes():
    label = np.ones((40, 40, 40), np.uint8)
    label[:2], label[2, 0] = 0, IGNORE
    one, again, other = (sample_foreground(label, name) for name in ("a", "a", "b"))
    assert list(one) == ["1"]
    assert one["1"].shape == (FOREGROUND_VOXELS, 3)
    assert len(np.unique(one["1"], axis=0)) == FOREGROUND_VOXELS
    assert (label[tuple(one["1"].T)] == 1).all()
    assert np.array_equal(one["1"], again["1"])
    assert not np.array_equal(one["1"], other["1"])


def test_a_pickled_store_opens_its_files_anew(scans, preparation, tmp_path):
    store = make_store(scans, preparation, tmp_path)
    expected = np.array(store.image(LABELLED))
    state = pickle.dumps(store)
    assert len(state) < 10_000
    assert np.array_equal(pickle.loads(state).image(LABELLED), expected)


def test_few_files_are_open_however_many_are_used(scans, preparation, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_FILES", 2)
    store = make_store(scans, preparation, tmp_path)
    for _ in range(2):
        for case in scans:
            assert store.image(case.id).ndim == 4
    assert len(store._open) == 2


AWKWARD = ["..", "a/b", "a_b", "Größe 1", "x" * 300, "CON:1", "", "~", "a.b-c_1"]


def test_awkward_case_ids_make_safe_and_different_file_names():
    names = [file_name(case_id) for case_id in AWKWARD]
    assert len(set(names)) == len(AWKWARD)
    for name in names:
        assert 0 < len(name) <= 120
        assert not name.startswith(".")
        assert not set(name) & set("/\\: ")
        assert name.isascii()
    assert names[-1] == "a.b-c_1"


def test_awkward_case_ids_work(scans, preparation, tmp_path):
    cases = tuple(replace(case, id=name) for case, name in zip(scans, AWKWARD, strict=False))
    store = make_store(replace(scans, name="../set / 1", cases=cases), preparation, tmp_path / "stores")
    assert store.folder.parent == tmp_path / "stores"
    for case in cases:
        assert store.image(case.id).ndim == 4
    assert store.label("..").any()


def test_a_missing_case_is_named_with_the_nearest(scans, preparation, tmp_path):
    with pytest.raises(SettingError, match="did you mean 'phantom_00"):
        make_store(scans, preparation, tmp_path).image("phantom_009")


@pytest.mark.parametrize("compression", ["none", "blosc2"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_truncated_array_is_made_again(scans, preparation, tmp_path, compression, kind):
    plan = preparation.model_copy(update={"compression": compression})
    store = make_store(scans, plan, tmp_path)
    store.make_labels()
    before = contents(store.folder)
    for file in store.folder.glob(f"{kind}*/*"):
        if file.suffix in (".npy", ".b2nd"):
            os.truncate(file, file.stat().st_size // 2)
    again = make_store(scans, plan, tmp_path)
    again.make_labels()
    assert contents(again.folder).keys() == before.keys()
    for case in scans:
        fresh, _ = prepare_image(read_image(case, scans), plan)
        assert np.array_equal(again.image(case.id)[:], fresh)
    assert again.label(LABELLED)[:].any()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"size": 1, "placement": {}, "sources": []}', "\x00"])
def test_a_damaged_record_is_made_again(scans, preparation, tmp_path, damage):
    store = make_store(scans, preparation, tmp_path)
    before = contents(store.folder)
    (store.folder / "images" / f"{LABELLED}.json").write_text(damage)
    assert contents(make_store(scans, preparation, tmp_path).folder) == before


def test_an_array_that_vanishes_while_in_use_is_one_line(scans, preparation, tmp_path):
    store = make_store(scans, preparation, tmp_path)
    (store.folder / "images" / f"{LABELLED}.npy").unlink()
    with pytest.raises(RunError, match="delete the folder") as error:
        store.image(LABELLED)
    assert str(store.folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"format": 0}', '{"format": 99}', "not json", "[]"])
def test_a_store_of_another_version_is_refused_in_one_line(scans, preparation, tmp_path, content):
    store = make_store(scans, preparation, tmp_path)
    (store.folder / "store.json").write_text(content)
    with pytest.raises(RunError, match="delete the folder") as error:
        make_store(scans, preparation, tmp_path)
    assert str(store.folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message", "workers"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "damaged", 2),
        (lambda file: file.write_bytes(b""), "0 bytes", 1),
        (lambda file: file.unlink(), "no such file", 1),
    ],
    ids=["truncated", "empty", "missing"],
)
def test_a_bad_image_is_named_with_its_case_and_nothing_of_it_is_left(
    own_scans, preparation, tmp_path, damage, message, workers
):
    file = own_scans[UNLABELLED].images[0]
    damage(file)
    with pytest.raises(DataError, match=message) as error:
        make_store(own_scans, preparation, tmp_path / "stores", workers=workers)
    assert f"case {UNLABELLED}" in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not [file for file in (tmp_path / "stores").rglob("*") if UNLABELLED in file.name or "writing" in file.name]


def test_nan_voxels_are_named_with_case_and_file(own_scans, preparation, tmp_path):
    import nibabel as nib

    file = own_scans[UNLABELLED].images[0]
    values = np.ones((8, 8, 8), np.float32)
    values[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), file)
    with pytest.raises(DataError, match="NaN") as error:
        make_store(own_scans, preparation, tmp_path)
    assert f"case {UNLABELLED}: {file}" in str(error.value)


def test_a_label_of_another_grid_is_named_with_case_and_file(own_scans, preparation, tmp_path):
    import nibabel as nib

    case = own_scans[LABELLED]
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4)), case.label)
    store = make_store(own_scans, preparation, tmp_path)
    with pytest.raises(DataError, match="shape") as error:
        store.label(LABELLED)
    assert f"case {LABELLED}: {case.label}" in str(error.value)


def test_a_full_disk_is_told_before_anything_is_made(scans, preparation, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"needs up to 0\.0 GiB, 0\.0 GiB are free"):
        make_store(scans, preparation, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_disk_that_fills_up_while_writing_is_one_line(scans, preparation, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        make_store(scans, preparation, tmp_path)
    monkeypatch.undo()
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".npy", ".npz") or "writing" in file.name]
    assert make_store(scans, preparation, tmp_path).image(LABELLED).ndim == 4


def test_a_folder_that_is_a_file_is_one_line(scans, preparation, tmp_path):
    (tmp_path / "stores").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        make_store(scans, preparation, tmp_path / "stores")


def test_the_size_told_before_is_that_of_the_arrays_made(scans, tmp_path, preparation):
    plan = preparation.model_copy(update={"crop": "none"})
    labelled = replace(scans, cases=tuple(case for case in scans if case.label))
    grids = [header_grid(case.images[0]) for case in labelled]
    for case, grid in zip(labelled, grids, strict=True):
        assert read_image(case, scans).grid.matches(replace(grid, affine=read_image(case, scans).grid.affine))
        assert grid.spacing_mm == pytest.approx(read_image(case, scans).grid.spacing_mm)
    store = make_store(labelled, plan, tmp_path)
    store.make_labels()
    headers = 128 * 2 * len(labelled.cases)
    arrays = sum(file.stat().st_size for file in store.folder.rglob("*.npy"))
    assert store_size(grids, 1, plan) == arrays - headers
    assert arrays < store.size_bytes


def test_colour_pictures_have_one_file_and_three_channels(tmp_path, preparation):
    from PIL import Image

    from semivox.data.case import Case, Dataset
    from semivox.data.labels import LabelMap

    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "eye.png")
    Image.fromarray((pixels[..., 0] > 128).astype(np.uint8)).save(tmp_path / "vessels.png")
    case = Case("eye", (tmp_path / "eye.png",), tmp_path / "vessels.png")
    labels = LabelMap(("background", "vessel"), (0, 1))
    dataset = Dataset("eyes", tmp_path, ("red", "green", "blue"), labels, (case,), file_ending=".png")
    plan = preparation.model_copy(update={"spacing_mm": None, "normalisation": (Normalisation(),) * 3})
    store = make_store(dataset, plan, tmp_path / "stores")
    assert store.image("eye").shape == (3, 40, 30, 1)
    assert np.array_equal(store.label("eye")[..., 0].T, pixels[..., 0] > 128)
    grid = header_grid(case.images[0])
    assert grid.shape == (40, 30, 1)
    assert store_size([grid], 3, plan) == 40 * 30 * 13


MAKING = """
import sys
from pathlib import Path
from semivox.data.layout import read_dataset
from semivox.preparation.settings import Preparation
from semivox.preparation.store import make_store
import semivox.preparation.store as module

if __name__ == "__main__":
    scans, plan, folder, kill_at = sys.argv[1:]
    if int(kill_at):
        import os, signal
        calls = 0
        replace = os.replace
        def dying(*arguments):
            global calls
            calls += 1
            if calls == int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*arguments)
        os.replace = dying
    store = make_store(read_dataset(Path(scans)), Preparation.model_validate_json(plan), Path(folder))
    store.make_labels()
    print("made", flush=True)
"""


def making(scans, preparation, folder, kill_at=0):
    command = [sys.executable, "-c", MAKING, str(scans.root), preparation.model_dump_json(), str(folder), str(kill_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# In this order: store.json, an image, its record, ...; from the 12th on a label's voxels, the label, its record.
@pytest.mark.parametrize("kill_at", [1, 2, 3, 13, 14])
def test_a_killed_process_leaves_a_store_that_the_next_completes(scans, preparation, tmp_path, kill_at):
    killed = making(scans, preparation, tmp_path / "killed", kill_at)
    assert killed.wait() == -signal.SIGKILL
    assert list(tmp_path.rglob(".writing-*"))
    store = make_store(scans, preparation, tmp_path / "killed")
    store.make_labels()
    whole = make_store(scans, preparation, tmp_path / "whole")
    whole.make_labels()
    assert contents(store.folder) == contents(whole.folder)


def test_a_process_waits_for_another_that_makes_the_same_store(scans, preparation, tmp_path):
    folder = make_store(scans, preparation, tmp_path / "stores").folder
    shutil.rmtree(folder / "images")
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = making(scans, preparation, tmp_path / "stores")
        time.sleep(2)
        assert other.poll() is None
        assert not (folder / "images").exists()
    assert other.wait() == 0
    assert len(list((folder / "images").glob("*.npy"))) == 5


def test_processes_that_start_together_share_the_work(scans, preparation, tmp_path):
    processes = [making(scans, preparation, tmp_path / "stores") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    whole = make_store(scans, preparation, tmp_path / "whole")
    whole.make_labels()
    (folder,) = (tmp_path / "stores").iterdir()
    assert contents(folder) == contents(whole.folder)


def test_store_json_says_what_the_store_holds(scans, preparation, tmp_path):
    content = json.loads((make_store(scans, preparation, tmp_path).folder / "store.json").read_text())
    assert content["dataset"] == "phantom"
    assert content["preparation"] == preparation.model_dump(mode="json", exclude={"modalities"})


def test_a_file_that_may_not_be_read_is_named_with_its_case(scans, preparation, tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", forbidden)
    with pytest.raises(DataError, match=f"case {LABELLED}: .*: cannot be read \\(Permission denied\\)"):
        make_store(scans, preparation, tmp_path)
