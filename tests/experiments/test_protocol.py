"""Protocols: what is wrong with one is a line, what is right with one is a run's config."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml

import semivox
from semivox.data import nifti
from semivox.data.layout import read_dataset
from semivox.data.volume import Grid
from semivox.errors import DataError, SettingError
from semivox.experiments.benchmark import make_grid
from semivox.experiments.protocol import about, assigned_lists, check_data, check_scans, read_protocol
from semivox.training.config import Config
from semivox.training.fit import read_data, training_data
from semivox.training.run import RunFolder


def put(place: str, value):
    """A change of a protocol: sets what lies at the dotted `place`."""

    def change(content):
        *parents, last = place.split(".")
        for parent in parents:
            content = content.setdefault(parent, {})
        content[last] = value

    return change


FAULTS = {
    "unknown field": (put("tittle", "x"), "unknown field 'tittle'; did you mean 'title'?"),
    "unknown section": (put("methods.mean_teacher.trainning", {}), "methods.mean_teacher: unknown field 'trainning'"),
    "unknown training": (
        put("training.lerning_rate", 1),
        "training: unknown field 'lerning_rate'; did you mean 'learni",
    ),
    "unknown in a plan": (
        put("plan.batch.labeled", 2),
        "plan.batch: unknown field 'labeled'; did you mean 'labelled'?",
    ),
    "unknown in a figure": (
        lambda content: content["published"]["figures"][0].update(asdd=1),
        "published.figures.0: unknown field 'asdd'; did you mean 'asd'?",
    ),
    "no source": (
        lambda content: content["published"]["figures"][0].pop("source"),
        "published.figures.0.source: field required",
    ),
    "empty source": (
        lambda content: content["published"]["figures"][0].update(source=" "),
        "published.figures.0.source: string should have at least 1 character",
    ),
    "no figure": (
        lambda content: [content["published"]["figures"][0].pop(key) for key in ("dice", "hd95")],
        "published.figures.0: holds no number",
    ),
    "wrong mark": (
        lambda content: content["published"]["figures"][0].update(mark="sure"),
        "published.figures.0.mark: input should be 'verified', 'third party' or 'unverified'",
    ),
    "no steps": (lambda content: content["training"].clear(), "training.iterations: field required"),
    "steps in words": (put("training.iterations", "many"), "training.iterations: input should be a valid integer"),
    "the machine's": (put("training.device", "cuda"), "training.device is for the machine"),
    "unknown method": (put("methods.mean_techer", {}), "unknown method 'mean_techer'; did you mean 'mean_teacher'?"),
    "an alias": (put("methods.mt", {}), "write 'mean_teacher' for 'mt'"),
    "unknown setting": (
        put("methods.mean_teacher.settings.consistency_wait", 1),
        "did you mean 'consistency_weight'?",
    ),
    "wrong setting": (put("methods.mean_teacher.settings.consistency_weight", -1), "greater than or equal to 0"),
    "wrong override": (
        put("methods.mean_teacher.training.lerning_rate", 1),
        "methods.mean_teacher.training: unknown field 'lerning_rate'; did you mean 'learning_rate'?",
    ),
    "wrong nested override": (
        put("methods.mean_teacher.plan.batch", {"labelled": 0}),
        "methods.mean_teacher.plan: batch.labelled: input should be greater than or equal to 1",
    ),
    "lists of another set": (put("data.lists.fantom", {}), "unknown folder 'fantom'; did you mean 'phantom'?"),
    "no such plan": (put("plan", "nowhere.yaml"), "cannot be read as a plan"),
    "a name with blanks": (put("name", "my protocol"), "name: string should match pattern"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_protocol_is_one_line_with_file_field_and_nearest_name(write_protocol, fault):
    change, message = FAULTS[fault]
    file = write_protocol(change)
    with pytest.raises(SettingError) as caught:
        read_protocol(file)
    assert message in str(caught.value)
    assert "value: " not in str(caught.value)
    assert str(file.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acdc_cup", "did you mean 'acdc_cpu'"),
        ("nowhere.yaml", "cannot be read as a protocol"),
        ("empty.yaml", "holds no protocol"),
        ("twice.yaml", "'name' stands in lines 1 and 3; keep one"),
        ("one_line.yaml", "'name' stands in lines 1 and 1; keep one"),
        ("odd_key.yaml", "cannot be read as a protocol"),
    ],
)
def test_what_is_no_protocol_is_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "one_line.yaml").write_text("{name: one, name: two}\n")
    (tmp_path / "odd_key.yaml").write_text("? [name]\n: one\n")
    (tmp_path / "twice.yaml").write_text("name: one\ntitle: of two\nname: two\n")
    with pytest.raises(SettingError, match=message):
        read_protocol(name)


def test_a_method_takes_what_it_does_not_say_from_the_protocol(write_protocol):
    protocol = read_protocol(write_protocol(put("methods.mean_teacher.plan", {"batch": {"unlabelled": 4}})))
    general, own = protocol.recipe("supervised"), protocol.recipe("mt")
    assert (general.training.learning_rate, own.training.learning_rate) == (2e-3, 1e-3)
    assert (general.plan.batch.unlabelled, own.plan.batch.unlabelled) == (2, 4)
    assert own.plan.batch.labelled == general.plan.batch.labelled
    assert own.training.iterations == 4
    assert own.settings == {"consistency_weight": 0.5}


def test_a_plan_may_lie_in_a_file_beside_the_protocol(write_protocol, tmp_path):
    whole = read_protocol(write_protocol())
    whole.plan.save(tmp_path / "plan.yaml")
    assert read_protocol(write_protocol(put("plan", "plan.yaml"), "other.yaml")).plan == whole.plan


def test_data_are_sought_where_one_says_then_in_the_environment_then_where_the_protocol_says(
    write_protocol, tmp_path, monkeypatch
):
    monkeypatch.delenv("SEMIVOX_DATA", raising=False)
    protocol = read_protocol(write_protocol())
    assert protocol.dataset_folders() == (tmp_path / "data" / "phantom",)
    for folder in ("told", "environment"):
        (tmp_path / folder / "phantom").mkdir(parents=True)
    monkeypatch.setenv("SEMIVOX_DATA", str(tmp_path / "environment"))
    assert protocol.dataset_folders() == (tmp_path / "environment" / "phantom",)
    assert protocol.dataset_folders(tmp_path / "told") == (tmp_path / "told" / "phantom",)
    with pytest.raises(DataError, match=r"elsewhere/phantom: there is no such folder; .* with --data or SEMIVOX_DATA"):
        protocol.dataset_folders(tmp_path / "elsewhere")
    monkeypatch.delenv("SEMIVOX_DATA")
    nowhere = read_protocol(write_protocol(lambda content: content["data"].pop("root")))
    with pytest.raises(DataError, match="where do its data lie"):
        nowhere.dataset_folders()


# --- published lists -------------------------------------------------------------------------------------------------


def ids(folder) -> dict[str, list[str]]:
    dataset = read_dataset(folder)
    return {split: [case.id for case in dataset.split(split)] for split in ("train", "val", "test")}


def listed(lists):
    return put("data.lists.phantom", lists)


def test_what_is_missing_of_the_published_list_is_said_in_one_line(write_protocol, tmp_path, capsys):
    folder = tmp_path / "data" / "phantom"
    write_protocol()
    whole = ids(folder)
    check_data(read_protocol(write_protocol(listed(whole))), [folder], 1)
    assert capsys.readouterr().err == ""
    more = {**whole, "train": [*whole["train"], "a", "b", "c", "d", "e"]}
    check_data(read_protocol(write_protocol(listed(more))), [folder], 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "6 of 11 train, 2 of 2 test are here; missing: a, b, c and 2 more" in line


def test_a_case_in_another_split_or_order_than_published_is_refused(write_protocol, tmp_path):
    folder = tmp_path / "data" / "phantom"
    write_protocol()
    whole = ids(folder)
    leaked = {"train": [*whole["train"], whole["test"][0]], "test": whole["test"][1:]}
    with pytest.raises(DataError, match="is a test case here and a train case in the published lists"):
        check_data(read_protocol(write_protocol(listed(leaked))), [folder], 1)
    turned = {**whole, "train": whole["train"][::-1]}
    with pytest.raises(DataError, match=f"labelled ones would be {whole['train'][0]}, .* the published ones are"):
        check_data(read_protocol(write_protocol(listed(turned))), [folder], 1)
    with pytest.raises(SettingError, match="is about 1 data sets"):
        check_data(read_protocol(write_protocol()), [folder, folder], 1)


# --- lists that assign -----------------------------------------------------------------------------------------------


def assigned(few, rows=(), **lists):
    """A change: splits are assigned, of the phantom's six training and two test cases of two scanners."""

    def change(content):
        content["data"] |= {"splits": "assigned", "labelled": few, "rows": list(rows), "lists": {"phantom": lists}}

    return change


def lists_of(file, folder, labelled):
    (lists,) = assigned_lists(read_protocol(file), [folder], labelled)
    return lists


ADAPTATION = {"scanner_a": 2, "scanner_b": 0}


def test_lists_that_assign_decide_who_is_trained_on_and_scored_and_stand_in_the_config(train, tmp_path):
    lists = {
        "train": ["phantom_004", "phantom_000", "phantom_001", "phantom_003", "phantom_005"],
        "test": ["phantom_007"],
    }
    run = train("run", "supervised", assigned(ADAPTATION, **lists), test=True)
    config = Config.load(run.config)
    (found,) = config.data.lists
    assert (list(found.train), list(found.val), list(found.test)) == (lists["train"], [], lists["test"])
    assert [case["case"] for case in yaml.safe_load(run.metrics.read_text())["cases"]] == ["phantom_007"]
    seen = training_data(read_data(config.data), config.data.labelled)
    assert [case.id for case in seen.labelled()] == ["phantom_004", "phantom_000"]
    assert [case.id for case in seen.unlabelled()] == ["phantom_001", "phantom_003", "phantom_005"]
    with pytest.raises(SettingError, match="--unlabelled more: protocol tiny lists its scans; leave it out"):
        train("other", "supervised", assigned(ADAPTATION, **lists), unlabelled="more")


def test_a_row_keeps_the_labels_that_are_published_for_it(write_protocol, tmp_path, capsys):
    folder = tmp_path / "data" / "phantom"
    rows = [{"scanner_a": 1}, {"scanner_a": 2}]
    file = write_protocol(
        assigned(
            rows[0],
            rows,
            domains={"train": ["scanner_a"], "test": ["scanner_b"]},
            groups={"scanner_a": 4, "scanner_b": 3},
            labelled=[["phantom_004"], ["phantom_006", "phantom_000"]],
        )
    )
    one, two, other = (lists_of(file, folder, labelled) for labelled in (*rows, {"scanner_a": 3}))
    assert one.train == ("phantom_004", "phantom_000", "phantom_002", "phantom_006")
    assert two.train == ("phantom_006", "phantom_000", "phantom_002", "phantom_004")
    assert other.train == ("phantom_000", "phantom_002", "phantom_004", "phantom_006")
    assert one.test == two.test == ("phantom_001", "phantom_007"), "scans that come without a label take no part"
    check_data(read_protocol(file), [folder], rows[1])
    (line,) = capsys.readouterr().err.splitlines()
    assert "4 of 4 of scanner_a, 2 of 3 of scanner_b are here; missing: 1 of scanner_b" in line
    lacking = write_protocol(
        assigned(rows[0], rows, domains={"train": ["scanner_a"]}, labelled=[["nobody"], ["phantom_000", "phantom_002"]])
    )
    check_data(read_protocol(lacking), [folder], rows[1])
    with pytest.raises(DataError, match="labelled ones would be phantom_000, the published ones are nobody"):
        check_data(read_protocol(lacking), [folder], rows[0])


def test_lists_may_take_in_what_comes_without_a_label_but_nobody_who_is_tested(write_protocol, tmp_path):
    folder = tmp_path / "data" / "phantom"
    lists = {"train": ["phantom_004"], "test": ["phantom_003", "phantom_007"], "unlabelled": True}
    found = lists_of(write_protocol(assigned(1, [1], **lists)), folder, 1)
    assert found.train == ("phantom_004", "phantom_005")
    assert found.test == ("phantom_003", "phantom_007")


def test_a_benchmark_runs_its_cells_with_the_lists(write_protocol, tmp_path):
    file = write_protocol(
        assigned(ADAPTATION, train=["phantom_002", "phantom_000", "phantom_003"], test=["phantom_007"])
    )
    grid = make_grid(file, data=tmp_path / "data", out=tmp_path / "out")
    for cell in grid.cells[:2]:
        (lists,) = grid.config(cell).data.lists
        assert lists.train == ("phantom_002", "phantom_000", "phantom_003")


PARTIAL = {
    "train": ["phantom_004", "phantom_000", "phantom_002", "phantom_003", "phantom_005"],
    "test": ["phantom_001", "phantom_007"],
    "tasks": {
        "liver_alone": {"labels": ["liver"], "train": ["phantom_000", "phantom_004", "phantom_003"]},
        "others": {"labels": ["kidney", "vessel"], "train": ["phantom_002", "phantom_005"]},
    },
}


def test_lists_make_partial_labels_of_a_labelled_set_and_stand_in_the_config(train, tmp_path):
    run = train("run", "supervised", assigned(1, [1], **PARTIAL), test=True)
    config = Config.load(run.config)
    seen = training_data(read_data(config.data), config.data.labelled)
    assert {case.id: case.task for case in seen.labelled()} == {"phantom_004": "liver_alone", "phantom_002": "others"}
    assert {case.id: case.task for case in seen.unlabelled()} == {
        "phantom_000": "liver_alone",
        "phantom_003": "liver_alone",
        "phantom_005": "others",
    }
    scores = [(case["case"], set(case["scores"])) for case in yaml.safe_load(run.metrics.read_text())["cases"]]
    assert scores == [(case, {"liver", "kidney", "vessel"}) for case in PARTIAL["test"]]


def test_the_labelled_ones_of_each_task_are_checked_against_the_list(write_protocol, tmp_path):
    folder = tmp_path / "data" / "phantom"
    protocol = read_protocol(write_protocol(assigned(1, [1], **PARTIAL)))
    check_data(protocol, [folder], {"scanner_a": 1, "scanner_b": 0})
    gone = {**PARTIAL, "train": ["nobody", *PARTIAL["train"]]}
    gone["tasks"] = {**PARTIAL["tasks"], "others": {"labels": ["vessel"], "train": ["nobody", "phantom_002"]}}
    with pytest.raises(DataError, match="labelled ones would be phantom_004, phantom_002, the published ones are ph"):
        check_data(read_protocol(write_protocol(assigned(1, [1], **gone))), [folder], {"scanner_a": 1, "scanner_b": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (listed({"unlabelled": True}), "lists.phantom.unlabelled needs splits: assigned; add it"),
        (
            assigned(1, [1], labelled=[["a"], ["b"]]),
            "lists.phantom.labelled has 2 entries for 1 rows; give one for each",
        ),
        (listed({"domains": {"train": ["a"]}}), "lists.phantom.domains needs splits: assigned; add it"),
        (
            listed({"tasks": {"one": {"labels": ["liver"], "train": ["phantom_000"]}}}),
            "lists.phantom.tasks needs splits: assigned; add it",
        ),
        (put("data.download", {"phantoms": "x"}), "data.download: unknown folder 'phantoms'; did you mean 'phantom'?"),
        (put("data.cropped", ["phantoms"]), "data.cropped: unknown folder 'phantoms'; did you mean 'phantom'?"),
        (put("data.splits", "assigned"), "splits: assigned needs lists for every folder; add them"),
        (
            lambda content: content["published"]["figures"][0].update(dice_of={"livr": 1}),
            "published.figures: unknown class 'livr'; did you mean 'liver'?",
        ),
    ],
)
def test_lists_and_tables_that_do_not_fit_are_one_line(write_protocol, change, message):
    with pytest.raises(SettingError, match=re.escape(message)) as caught:
        read_protocol(write_protocol(change))
    assert "\n" not in str(caught.value)


def test_scans_of_another_preparation_are_refused_with_what_was_found_and_expected(write_protocol, train, tmp_path):
    def change(content):
        content["data"] |= {
            "shapes": [[512, 512, None], [160, 160, 80]],
            "download": {"phantom": "convert the public download"},
        }

    protocol = read_protocol(write_protocol(change))
    check_scans(protocol, {"a": (512, 512, 97), "b": (160, 160, 80)})
    with pytest.raises(
        DataError,
        match="case c: has 144 × 144 × 72 voxels, scans of protocol tiny have 512 × 512 × any or 160 × 160 × 80; con",
    ):
        check_scans(protocol, {"b": (160, 160, 80), "c": (144, 144, 72)})
    with pytest.raises(DataError, match="case phantom_000: has 24 × 24 × 16 voxels"):
        train("run", change=change)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_scans_that_were_cut_more_closely_are_refused_with_what_was_found_and_expected(write_protocol):
    protocol = read_protocol(write_protocol(put("data.least_shape", [24, 24, 16])))
    check_scans(protocol, {"a": (24, 30, 16)})
    with pytest.raises(
        DataError, match=r"case b: has 24 × 30 × 15 voxels, scans of protocol tiny have at least 24 × 24 × 16: .*again"
    ):
        check_scans(protocol, {"b": (24, 30, 15)})


@pytest.mark.parametrize(
    ("cropped", "found"), [(["phantom"], "scans are whole, those of protocol tiny are cut"), ([], None)]
)
def test_scans_must_be_cut_as_the_protocols_are(write_protocol, tmp_path, cropped, found):
    folder = tmp_path / "data" / "phantom"
    protocol = read_protocol(write_protocol(put("data.cropped", cropped)))
    if found is None:
        check_data(protocol, [folder], 1)
        description = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(description | {"cropped_around_reference": True}))
        found = "scans are cut, those of protocol tiny are whole"
    with pytest.raises(DataError, match=found):
        check_data(protocol, [folder], 1)


def two_sets(content):
    """A protocol of the phantom and of another of its kind, which has a name and a class of its own."""
    content["data"] |= {
        "folders": ["phantom", "other"],
        "classes": ["liver", "kidney", "vessel", "spleen"],
        "labelled": {"scanner_a": 1, "other-set": 3},
        "rows": [{"scanner_a": 1, "other-set": 3}],
        "splits": "assigned",
        "lists": {"phantom": PARTIAL, "other": {"train": ["a", "b", "c"], "test": ["d"]}},
        "cropped": ["other"],
    }


def write_other(folder):
    """Scans of one domain that nobody named."""
    grid = Grid((12, 10, 8), np.eye(4))
    array = np.random.default_rng(0).integers(0, 200, grid.shape).astype(np.int16)
    for split, cases in (("Tr", "abc"), ("Ts", "d")):
        for case in cases:
            nifti.write(folder / f"images{split}" / f"{case}_0000.nii.gz", array, grid)
            nifti.write(folder / f"labels{split}" / f"{case}.nii.gz", (array > 100).astype(np.uint8), grid)
    labels = {"background": 0, "spleen": 1}
    content = {"name": "other set", "channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 3, "cropped_around_reference": True}))


def test_some_of_a_protocols_data_sets_can_be_trained_on_alone(write_protocol, train, tmp_path):
    protocol = read_protocol(write_protocol(two_sets))
    phantom, other = tmp_path / "data" / "phantom", tmp_path / "data" / "other"
    write_other(other)
    assert about(protocol, [phantom, other]) is protocol
    first, second = (about(protocol, [folder]).data for folder in (phantom, other))
    assert (first.classes, second.classes) == (("liver", "kidney", "vessel"), ("spleen",))
    assert (first.labelled, second.labelled) == ({"scanner_a": 1}, {"default": 3})
    assert (first.cropped, second.cropped) == ((), ("other",))
    assert second.lists["other"].test == ("d",)
    assert about(protocol, [other]).published.figures == ()
    check_data(about(protocol, [other]), [other], second.labelled)
    config = Config.load(train("run", "supervised", two_sets).config)
    assert (config.data.labels, config.data.labelled) == (("liver", "kidney", "vessel"), {"scanner_a": 1})
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SettingError, match=r"is about 2 data sets; unknown folder 'elsewhere'.*; name all, or some"):
        about(protocol, [tmp_path / "elsewhere"])


# --- a protocol based on another -------------------------------------------------------------------------------------


def based(tmp_path, name="child.yaml", **content):
    file = tmp_path / name
    file.write_text(yaml.safe_dump({"based_on": "tiny.yaml", "name": "child", **content}), encoding="utf-8")
    return file


def test_a_protocol_takes_from_another_what_it_does_not_say_entry_by_entry(write_protocol, tmp_path):
    base = read_protocol(write_protocol(put("data.labelled", {"scanner_a": 1, "scanner_b": 0})))
    child = read_protocol(
        based(tmp_path, data={"labelled": {"scanner_b": 2}}, training={"iterations": 9}, published={"figures": []})
    )
    assert child.name == "child"
    assert child.data.labelled == {"scanner_b": 2}, "an entry is replaced whole"
    assert child.training == base.training.model_copy(update={"iterations": 9})
    assert (child.data.folders, child.data.root, child.plan, child.methods) == (
        base.data.folders,
        base.data.root,
        base.plan,
        base.methods,
    )
    assert child.published.figures == ()
    assert child.figures("mean_teacher", 1).figures == ()


def test_a_base_that_cannot_be_is_one_line(write_protocol, tmp_path):
    write_protocol()
    for content, message in (
        ({"based_on": "acdcc"}, "unknown protocol 'acdcc'; did you mean 'acdc'?"),
        ({"based_on": "child.yaml"}, "is based on itself"),
        ({"based_on": "nowhere.yaml"}, "cannot be read as a protocol"),
        ({"titel": "x"}, "unknown field 'titel'; did you mean 'title'?"),
    ):
        with pytest.raises(SettingError, match=re.escape(message)) as caught:
            read_protocol(based(tmp_path, **content))
        assert "\n" not in str(caught.value)
    based(tmp_path, "one.yaml", based_on="two.yaml")
    with pytest.raises(SettingError, match="is based on itself, over"):
        read_protocol(based(tmp_path, "two.yaml", based_on="one.yaml"))


# --- training by a protocol ------------------------------------------------------------------------------------------


@pytest.fixture
def train(write_protocol, tmp_path):
    """A function (name, **arguments) → the run folder of a training by the tiny protocol."""

    def run(name: str, method: str = "mean_teacher", change=lambda content: None, **arguments) -> RunFolder:
        protocol = write_protocol(change)
        arguments = {"device": "cpu", "test": False, **arguments}
        return RunFolder(
            semivox.train(tmp_path / "data" / "phantom", method, protocol=protocol, out=tmp_path / name, **arguments)
        )

    return run


def test_a_run_takes_everything_from_its_protocol_and_can_be_repeated_from_its_config(train, tmp_path):
    run = train("run")
    config = Config.load(run.config)
    assert config.plan == read_protocol(tmp_path / "tiny.yaml").plan
    assert (config.training.iterations, config.training.learning_rate) == (4, 0.001)
    assert config.training.precision == "32"
    assert config.method.settings["consistency_weight"] == 0.5
    assert (config.data.labelled, config.data.labels) == (1, ("liver", "kidney", "vessel"))
    assert config.protocol == str(tmp_path / "tiny.yaml")
    (tmp_path / "tiny.yaml").unlink()
    again = RunFolder(tmp_path / "again")
    again.path.mkdir()
    shutil.copy(run.config, again.config)
    semivox.resume(again.path, test=False)
    first, second = ((one.model / "model.safetensors").read_bytes() for one in (run, again))
    assert first == second


def test_what_is_given_wins_over_the_protocol(train):
    settings = ["consistency_weight=2", "training.learning_rate=0.01", "plan.batch.unlabelled=4", "inference.overlap=0"]
    run = train("run", iterations=2, labelled="all", labels=["liver"], network="unet", settings=settings, seed=7)
    config = Config.load(run.config)
    assert (config.training.iterations, config.training.learning_rate) == (2, 0.01)
    assert config.method.settings["consistency_weight"] == 2
    assert (config.data.labelled, config.data.labels, config.seed) == (None, ("liver",), 7)
    assert config.plan.network.name == "unet"
    assert (config.plan.batch.unlabelled, config.inference.overlap) == (4, 0)


def test_a_plan_and_a_protocol_exclude_each_other(train, tmp_path):
    with pytest.raises(SettingError, match="holds a plan; give one of them"):
        train("run", plan=tmp_path / "plan.yaml")


def test_development_scores_the_last_training_groups(train, tmp_path):
    run = train("run", "supervised", development=True, test=True)
    config = Config.load(run.config)
    assert config.data.development == 1
    labelled = [case.id for case in read_dataset(tmp_path / "data" / "phantom").labelled()]
    scored = [case["case"] for case in yaml.safe_load(run.metrics.read_text())["cases"]]
    assert scored == labelled[-1:]
    assert {path.name for path in run.predictions.glob("*.nii.gz")} == {f"{labelled[-1]}.nii.gz"}
