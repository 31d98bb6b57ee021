"""The progress of a training."""

from contextlib import ExitStack

import lightning

from semivox.parallel import Progress
from semivox.progress import progress, say
from semivox.training.engine import Engine, describe


class TrainingProgress(lightning.Callback):
    """Steps done, time left; a bar for each stage, which makes room for those of its preparation."""

    def __init__(self) -> None:
        self.bar = ExitStack()
        self.report: Progress | None = None

    def on_train_batch_start(self, trainer, engine: Engine, batch, batch_idx) -> None:  # type: ignore[override]
        if self.report is None:
            title, iterations = describe(engine.span, engine.spans), engine.config.training.iterations
            if len(engine.spans) > 1:
                say(f"{title}: steps {engine.step} to {engine.span.end - 1} of {iterations}")
            self.report = self.bar.enter_context(progress(title))
            self.report(engine.step, iterations)

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        assert self.report is not None
        self.report(engine.step, engine.config.training.iterations)

    def on_train_epoch_end(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        self._close()

    def teardown(self, trainer: lightning.Trainer, engine: Engine, stage: str) -> None:  # type: ignore[override]
        self._close()

    def _close(self) -> None:
        self.bar.close()
        self.report = None
