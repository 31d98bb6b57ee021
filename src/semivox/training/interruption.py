"""Checkpoints while training, and a clean end when somebody asks for one."""

import signal
import threading
from types import FrameType

import lightning

from semivox.training.checkpoint import save_checkpoint
from semivox.training.engine import Engine
from semivox.training.run import RunFolder
from semivox.training.stopping import STOP, Interrupted


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
