"""The progress of a training."""

import lightning

from semivox.progress import progress
from semivox.training.engine import Engine


class TrainingProgress(lightning.Callback):
    """Steps done, time left, the loss."""

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        self._context = progress("training")
        self._report = self._context.__enter__()
        self._report(engine.step, engine.config.training.iterations)

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        self._report(engine.step, engine.config.training.iterations)

    def teardown(self, trainer: lightning.Trainer, engine: Engine, stage: str) -> None:  # type: ignore[override]
        if hasattr(self, "_context"):
            self._context.__exit__(None, None, None)
            del self._context
