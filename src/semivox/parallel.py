"""The same work on many items, on several threads.

Reading, unpacking, matrix products and NumPy's loops release the interpreter: threads are as fast as processes (two
cores, LA: 2.3 s each), without their start-up of a second or two and without asking scripts for a `__main__` guard.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (items done, items in all), once at the start and after each item."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def run_all(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 1, progress: Progress | None = None
) -> list[Result]:
    """`function` of every item, in order, on `workers` threads.

    The first error stops the work and is raised as it is; items not yet begun are dropped.
    """
    report = progress or (lambda done, total: None)
    report(0, len(items))
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        futures = [pool.submit(function, item) for item in items]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(done, len(items))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
