"""Protocols: what is wrong with one is a line, what is right with one is a run's config."""

import shutil

import pytest
import yaml

import semivox
from semivox.data.layout import read_dataset
from semivox.errors import DataError, SettingError
from semivox.experiments.protocol import check_data, read_protocol
from semivox.training.config import Config
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
        lambda content: content["published"]["figures"][0].update(source=""),
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
    ],
)
def test_what_is_no_protocol_is_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("")
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
