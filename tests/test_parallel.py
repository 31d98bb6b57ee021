import os
import signal

import pytest

from semivox.errors import DataError, ResourceError
from semivox.parallel import THREAD_SETTINGS, run_all


def square(number):
    return number * number


def fail_at_two(number):
    if number == 2:
        raise DataError("case 2: cannot be used")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def environment(_):
    return os.getpid(), {name: os.environ[name] for name in THREAD_SETTINGS}


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_progress_counts_to_the_end(workers):
    seen = []
    assert run_all(square, range(5), workers, lambda *state: seen.append(state)) == [0, 1, 4, 9, 16]
    assert seen == [(done, 5) for done in range(6)]


def test_nothing_to_do_is_done_at_once():
    seen = []
    assert run_all(square, [], 2, lambda *state: seen.append(state)) == []
    assert seen == [(0, 0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_one_item_is_raised_as_it_is(workers):
    with pytest.raises(DataError, match="case 2: cannot be used"):
        run_all(fail_at_two, range(4), workers)


def test_a_killed_worker_is_told_as_lack_of_memory():
    with pytest.raises(ResourceError, match="lack of memory"):
        run_all(die, range(2), 2)


def test_workers_use_one_thread_each_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for process, settings in run_all(environment, range(2), 2):
        assert process != os.getpid()
        assert set(settings.values()) == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
