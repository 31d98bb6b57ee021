import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from semivox.cli import main
from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault
from semivox.data.labels import LabelMap
from semivox.reporting.inspection import inspect, inspection_table, setting_text

LABEL = Path("label.nii.gz")


def dataset_of(*cases: Case, tasks: dict[str, tuple[str, ...]] | None = None) -> Dataset:
    labels = LabelMap(("background", "liver", "kidney"), (0, 1, 2))
    return Dataset("set", Path("root"), ("MRI",), labels, cases, tasks=tasks or {})


def case(name: str, domain: str = "default", *, labelled: bool, split: str = "train", task: str = "default") -> Case:
    return Case(name, (), LABEL if labelled else None, domain, task, split)  # type: ignore[arg-type]


def printed(*arguments, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(inspection_table(*arguments))
    return console.export_text()


def test_a_rare_class_is_named() -> None:
    dataset = dataset_of(case("a", labelled=True), case("b", labelled=False))
    shares = {"background": 0.9, "liver": 0.09, "kidney": 0.003}
    assert setting_text(dataset, shares).endswith("class-imbalanced: kidney is 30 times smaller than the largest class")
    assert setting_text(dataset, {**shares, "kidney": 0.03}) == "semi-supervised (SSL)"
    assert setting_text(dataset, {**shares, "kidney": 0.0}).endswith("kidney is in no label")


def test_every_fault_stands_with_its_case_file_and_mend_errors_first() -> None:
    faults = [
        Fault("a", Path("odd.nii.gz"), "has two affines", "store one", is_error=False),
        Fault("b", Path("broken.nii.gz"), "is empty", "copy it again"),
    ]
    text = printed(faults, None, None)
    assert "1 error, 1 warning" in text
    assert text.index("case b  broken.nii.gz") < text.index("case a  odd.nii.gz")
    for part in ("is empty", "→ copy it again", "has two affines", "→ store one"):
        assert part in text


def test_names_with_brackets_are_names_and_no_markup(make_run) -> None:
    text = printed([Fault("[red]x", Path("[bold].png"), "is [/wrong]", "[link]")], None, None)
    assert "case [red]x  [bold].png" in text
    assert "is [/wrong]" in text
    found = inspect([make_run().data])
    assert found.dataset is not None
    named = replace(found.dataset, name="[/red]", channels=("[i]MRI",))
    assert "[/red]" in printed([], found.fingerprint, named)


def test_a_sound_data_set_is_described(make_run) -> None:
    run = make_run(shifts=(0, 1, 2), scored=2, domains=("north", "south"))
    found = inspect([run.data])
    assert found.errors == 0
    text = printed(found.faults, found.fingerprint, found.dataset)
    assert "tested on south, never seen" in text
    assert "No faults." in text
    rows = [line.split() for line in text.splitlines()]
    assert ["train", "north", "5", "5", "4", "1"] in rows
    assert ["test", "south", "1", "1", "1", "0"] in rows
    assert ["north", "source", "4", "(4)", "1", "(1)", "–", "2", "(2)"] in rows
    assert ["south", "never", "seen", "–", "–", "–", "1", "(1)"] in rows
    assert ["north", "voxels", "24", "20", "9"] in rows
    assert ["spacing,", "mm", "2", "2", "5"] in rows
    (liver,) = [row for row in rows if row[:1] == ["liver"]]
    assert liver[-3:] == ["6", "of", "6"]  # four training labels and two test labels hold it


def test_faulty_cases_are_told_and_the_others_are_described(make_run) -> None:
    run = make_run()
    (run.data / "imagesTr" / "train_0_0000.nii.gz").write_bytes(b"")
    (run.data / "labelsTr" / "train_1.nii.gz").write_bytes(b"junk")
    found = inspect([run.data])
    assert {fault.case for fault in found.faults if fault.is_error} == {"train_0", "train_1"}
    assert found.fingerprint is not None
    assert {"train_0", "train_1"}.isdisjoint(scan.case for scan in found.fingerprint.scans)
    assert len(found.fingerprint.scans) == 8


def test_a_folder_that_is_no_data_set_is_told_beside_the_faults_of_the_others(make_run, tmp_path: Path) -> None:
    run = make_run()
    (run.data / "imagesTr" / "train_0_0000.nii.gz").write_bytes(b"")
    found = inspect([run.data, tmp_path / "missing"])
    assert found.dataset is None
    assert found.errors == 2


def test_sets_that_cannot_be_joined_are_told_as_a_fault(make_run) -> None:
    run = make_run()
    found = inspect([run.data, run.data])
    (fault,) = [fault for fault in found.faults if fault.is_error]
    assert "given twice" in fault.what
    assert fault.mend == "name each data set once"


def test_the_command_ends_with_2_where_training_would_stop(make_run, capsys) -> None:
    run = make_run()
    assert main(["inspect", str(run.data)]) == 0
    assert "semi-supervised" in capsys.readouterr().out
    description = json.loads((run.data / "dataset.json").read_text())
    del description["labels"]["kidney"]
    (run.data / "dataset.json").write_text(json.dumps(description))
    assert main(["inspect", str(run.data)]) == 2
    assert "kidney" not in capsys.readouterr().err


def test_the_setting_is_shown_as_training_would_see_it(make_run, capsys) -> None:
    data = make_run(shifts=(0, 1, 2), scored=2, domains=("north", "south")).data
    text = (data / "cases.csv").read_text()
    moved = [
        line.replace(",train,north", ",train,south") if index in (1, 2) else line
        for index, line in enumerate(text.splitlines())
    ]
    (data / "cases.csv").write_text("\n".join(moved) + "\n")
    assert main(["inspect", str(data)]) == 0
    assert "semi-supervised (SSL) over 2 domains" in capsys.readouterr().out
    assert main(["inspect", str(data), "--labelled", "south=0"]) == 0
    assert "unsupervised domain adaptation (UDA)" in capsys.readouterr().out
    assert main(["inspect", str(data), "--unseen", "south"]) == 0
    assert "tested on south, never seen" in " ".join(capsys.readouterr().out.split())


def test_a_domain_spelled_in_two_ways_is_a_fault(make_run) -> None:
    data = make_run(shifts=(0, 1, 2), scored=2, domains=("north", "North")).data
    (fault,) = inspect([data]).faults
    assert "domain 'North' is tested as never seen, but training has 'north'" in fault.what


PROTOCOL = """
name: swapped
title: The test scan lends its place to another
source: made up
data:
  folders: [phantom]
  classes: [liver]
  labelled: 1
  splits: assigned
  lists:
    phantom: {{train: [{train}], test: [{test}]}}
plan: {{preparation: {{normalisation: [{{kind: zscore}}]}}, patch: [16, 16, 12]}}
training: {{iterations: 2}}
"""


def test_the_setting_that_a_protocol_makes_is_shown_as_train_would_see_it(phantom, tmp_path, capsys) -> None:
    domains: dict[str, list[str]] = {}
    for one in phantom:
        if one.label is not None:
            domains.setdefault(one.domain, []).append(one.id)
    (seen, train), (unseen, test) = domains.items()
    file = tmp_path / "swapped.yaml"
    file.write_text(PROTOCOL.format(train=", ".join(train), test=", ".join(test)))
    assert main(["inspect", str(phantom.root), "--protocol", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"trained on {seen}, tested on {unseen}, never seen" in told
    assert f"phantom {len(train) + len(test)} cases" in told
    assert f"{len(train)} {len(train)} 1 {len(train) - 1}" in told  # cases, patients, with label, without

    assert main(["inspect", str(phantom.root), str(phantom.root), "--protocol", str(file)]) == 2
    assert "protocol swapped is about 1 data sets" in capsys.readouterr().err
