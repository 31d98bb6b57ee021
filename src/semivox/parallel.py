"""The same work on many items, in several processes, with errors that name the true cause."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from semivox.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (items done, items in all), once at the start and after each item."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_all(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 1, progress: Progress | None = None
) -> list[Result]:
    """`function` of every item, in order. `workers` above 1 spreads them over processes of one BLAS thread each.

    `function` and items must be picklable then. The first error stops the work and is raised; items not yet begun are
    dropped. Raises ResourceError where a process was killed, which is nearly always for memory.
    """
    report = progress or (lambda done, total: None)
    report(0, len(items))
    if workers <= 1 or len(items) <= 1:
        results = []
        for done, item in enumerate(items, start=1):
            results.append(function(item))
            report(done, len(items))
        return results
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_begin_worker)
    try:
        with _one_thread_in_children():
            futures = [pool.submit(function, item) for item in items]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(done, len(items))
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise ResourceError(
            f"one of {workers} worker processes was killed, most likely for lack of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread_in_children() -> Iterator[None]:
    """BLAS reads its number of threads when a process starts: several threads in several processes only wait."""
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it: a pool's workers would outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
