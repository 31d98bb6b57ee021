import argparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_msd import save, write_task

from semivox.cli import convert as command
from semivox.data.conversion import FORMATS, convert
from semivox.data.names import safe_id
from semivox.errors import DataError, SettingError


@pytest.mark.parametrize(
    ("given_name", "mend"),
    [
        ("dicm", "did you mean 'dicom'"),
        ("zip?", "there are: acdc, bhsd, btcv, dicom, h5, mmwhs, mnms, msd, pancreas_ct"),
    ],
)
def test_unknown_format_names_the_nearest(tmp_path, given_name, mend):
    with pytest.raises(SettingError, match=f"unknown format .*{mend}"):
        convert(tmp_path, given_name, tmp_path / "out")


def test_format_is_chosen_by_name_and_progress_is_told(tmp_path):
    told = []
    source = write_task(tmp_path / "task")
    dataset = convert(source, "msd", tmp_path / "out", lambda done, total: told.append((done, total)))
    assert dataset.name == "Prostate"
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_an_existing_data_set_is_never_overwritten(tmp_path):
    source = write_task(tmp_path / "task")
    save(tmp_path / "out" / "mine.nii.gz", np.zeros((1, 1, 1), np.uint8))
    with pytest.raises(SettingError, match="already exists"):
        convert(source, "msd", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.nii.gz"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_missing_source_is_one_line(tmp_path, format_name):
    with pytest.raises(DataError, match=r"no such f|does not exist"):
        convert(tmp_path / "missing", format_name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_command_says_what_there_is(tmp_path, capsys):
    source = write_task(tmp_path / "task")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(source), "--from", "msd", "--out", str(tmp_path / "out")]))
    assert "3 cases, 2 of them with a label\nclasses: PZ, TZ" in capsys.readouterr().out


@given(st.text(max_size=40))
def test_ids_are_file_names_and_nothing_else(name):
    case_id = safe_id(name)
    assert case_id
    assert not set(case_id) & set("/\\\0\n\t :*?\"<>|'")
    assert not case_id.startswith((".", "-"))
    assert safe_id(case_id) == case_id


@pytest.mark.parametrize("format_name", ["dicom", "btcv"])
def test_only_sets_that_are_published_cut_can_be_cut(tmp_path, format_name):
    with pytest.raises(SettingError, match="--crop published: goes with --from mmwhs, mnms, msd, pancreas_ct only"):
        convert(tmp_path, format_name, tmp_path / "out", crop="published")
