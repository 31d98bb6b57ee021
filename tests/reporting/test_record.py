from pathlib import Path

import numpy as np
import pytest

from semivox.errors import RunError
from semivox.reporting.record import flatten, read_log, read_record


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{ : [", "- 1\n", ""])
def test_a_damaged_file_is_named(make_run, name: str, content: str) -> None:
    run = make_run(shifts=(0,))
    (run.folder / name).write_text(content)
    with pytest.raises(RunError, match=name) as caught:
        read_record(run.folder)
    assert "\n" not in str(caught.value)


def test_a_run_under_way_has_a_record_without_metrics(make_run) -> None:
    run = make_run(shifts=(0,))
    (run.folder / "metrics.json").unlink()
    (run.folder / "log.csv").unlink()
    record = read_record(run.folder)
    assert record.metrics is None
    assert record.log.last_step == 0


def test_a_row_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,stage,elapsed_s,loss\n0,train,1.0,0.5\n10,train,61.0,0.25\n20,tra")
    log = read_log(tmp_path / "log.csv")
    assert log.step.tolist() == [0, 10]
    assert log.stages == ("train", "train")
    assert log.minutes == pytest.approx(61 / 60)


def test_cells_that_were_not_measured_are_left_out_with_their_steps(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,stage,validation/dice\n0,train,\n10,train,0.5\n20,train,nan\n")
    steps, values = read_log(tmp_path / "log.csv").measured("validation/dice")
    assert steps.tolist() == [10]
    assert values.tolist() == [0.5]
    assert len(read_log(tmp_path / "log.csv").measured("loss")[0]) == 0


def test_an_empty_log_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("")
    assert np.array_equal(read_log(tmp_path / "log.csv").step, [])


def test_nested_settings_become_dotted_names_in_order() -> None:
    nested = {"a": {"b": 1, "c": [1.0, None]}, "d": [{"e": True}], "f": {}}
    assert list(flatten(nested)) == [("a.b", "1"), ("a.c", "1, none"), ("d.0.e", "yes"), ("f", "none")]
