import threading
import time

import pytest

from semivox.errors import DataError
from semivox.parallel import run_all


def fail_at_two(number):
    if number == 2:
        raise DataError("case 2: cannot be used")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_progress_counts_to_the_end(workers):
    seen = []
    assert run_all(lambda n: n * n, range(5), workers, lambda *state: seen.append(state)) == [0, 1, 4, 9, 16]
    assert seen == [(done, 5) for done in range(6)]


def test_nothing_to_do_is_done_at_once():
    seen = []
    assert run_all(fail_at_two, [], 2, lambda *state: seen.append(state)) == []
    assert seen == [(0, 0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_one_item_is_raised_as_it_is_and_the_rest_is_dropped(workers):
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.001)
        return fail_at_two(number)

    with pytest.raises(DataError, match="case 2: cannot be used"):
        run_all(work, range(500), workers)
    assert len(begun) < 500


def test_several_workers_work_at_once():
    both = threading.Barrier(2, timeout=10)
    run_all(lambda _: both.wait(), range(2), 2)
