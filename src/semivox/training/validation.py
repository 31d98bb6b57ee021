"""Scoring the cases that choose the step while training, and keeping the best weights."""

from collections.abc import Callable

import lightning
import torch

from semivox.training.checkpoint import load_checkpoint, save_checkpoint
from semivox.training.engine import Engine
from semivox.training.log import Log
from semivox.training.run import RunFolder


class Validation(lightning.Callback):
    """Every `every` steps calls `score()`, the mean Dice of the cases that choose; keeps the best weights in best.pt,
    of the last stage: others only lead up to it.

    `patience`: validations of the last stage without improvement after which training stops; 0 never stops.
    """

    def __init__(self, run: RunFolder, every: int, patience: int, score: Callable[[], float], log: Log) -> None:
        self.run = run
        self.every = every
        self.patience = patience
        self.score = score
        self.journal = log  # Lightning gives every callback a `log` of its own
        self.best = -1.0
        self.best_step = 0

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        if self.run.best.exists():
            content = load_checkpoint(self.run.best)
            # A best of later than the checkpoint will be found again.
            if engine.spans[-1].start < content["step"] <= engine.step:
                self.best, self.best_step = content["dice"], content["step"]

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        is_last = engine.step == engine.config.training.iterations
        if engine.step % self.every and not is_last:
            return
        engine.method.eval()
        with torch.inference_mode():
            dice = self.score()
        engine.method.train()
        self.journal.extra["validation/dice"] = dice
        last_began = engine.spans[-1].start
        if engine.step <= last_began:
            return
        if dice > self.best:
            self.best, self.best_step = dice, engine.step
            content = {"step": engine.step, "dice": dice, "method": engine.method.state_dict()}
            save_checkpoint(self.run.best, content)
        elif self.patience:
            waited = engine.step - max(self.best_step, last_began)
            trainer.should_stop = waited >= self.patience * self.every
