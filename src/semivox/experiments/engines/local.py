"""Runs as processes of this machine, which share its cores."""

from semivox.experiments.engines.task import POLL_S, Ended, Process, Task, begin
from semivox.parallel import cores
from semivox.settings import Part

JOBS = 2


class LocalOptions(Part):
    """None: --jobs says how many run at once."""


class Local:
    """This machine."""

    poll_s = POLL_S

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def submit(self, task: Task) -> Process | Ended:
        return begin(task, max(cores() // self.at_once, 1))
