"""Checkpoints while training, and a clean end when somebody asks for one."""

import signal
import threading
from types import FrameType

import lightning

from semivox.training.checkpoint import save_checkpoint
from semivox.training.engine import Engine
from semivox.training.run import RunFolder


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training was stopped by a signal; all is saved."""


class Checkpoints(lightning.Callback):
    """Saves every `every` steps, at each stage's end and on SIGINT or SIGTERM, after which training stops."""

    def __init__(self, run: RunFolder, every: int) -> None:
        self.run = run
        self.every = every
        self.signal: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)  # a second signal ends at once

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        ends = [span.end for span in engine.spans]
        if engine.step % self.every == 0 or engine.step in ends or self.signal:
            save_checkpoint(self.run.last, engine.snapshot())
        if self.signal:
            raise Interrupted(
                f"stopped after step {engine.step} of {engine.config.training.iterations}; continue with:"
                f" semivox train --resume {self.run.path}"
            )
