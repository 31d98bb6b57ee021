"""Checkpoints while training, and a clean end when somebody asks for one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning

from semivox.training.checkpoint import save_checkpoint
from semivox.training.engine import Engine
from semivox.training.run import RunFolder

STOP = signal.SIGUSR1
"""Asks a process to save and stop. Lightning answers SIGTERM by a message to all ranks, whatever they are just doing,
until our handler is there; this one simply ends a process that has not begun to train."""
STOP_S = 300.0
"""Seconds that rank 0 has to end its step and save."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training was stopped by a signal; all is saved."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in this block, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Checkpoints(lightning.Callback):
    """Saves every `every` steps, at each stage's end and on SIGINT, SIGTERM or `STOP`, after which training stops."""

    def __init__(self, run: RunFolder, every: int) -> None:
        self.run = run
        self.every = every
        self.signal: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, STOP):
                signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:  # a second Ctrl-C ends at once; clusters send SIGTERM to processes and to groups
            signal.signal(number, signal.SIG_DFL)

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        ends = [span.end for span in engine.spans]
        if engine.step % self.every == 0 or engine.step in ends or self.signal:
            save_checkpoint(self.run.last, engine.snapshot())
        self.stop_if_asked(engine)

    def stop_if_asked(self, engine: Engine) -> None:
        """Raises Interrupted after a signal; what is not saved now will be made again."""
        if self.signal:
            raise Interrupted(
                f"stopped after step {engine.step} of {engine.config.training.iterations}; continue with:"
                f" semivox train --resume {self.run.path}"
            )


class FollowsRank0(lightning.Callback):
    """For the other ranks: what signals ask of all processes is done by rank 0, which needs them for its last step."""

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
