"""The folder of one training."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from semivox.errors import ResourceError, RunError, SemivoxError


@dataclass(frozen=True)
class RunFolder:
    """Names inside a run folder, and its lock."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def pseudo_labels(self) -> Path:
        return self.path / "pseudo_labels"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def all_classes(self) -> Path:
        """A test case of each task with the classes of all tasks, where a model has several."""
        return self.path / "all_classes"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def domain_shift(self) -> Path:
        return self.path / "domain_shift.json"

    @property
    def baseline(self) -> "RunFolder":
        return RunFolder(self.path / "baseline")

    def create(self) -> None:
        """Makes the folder. Raises RunError where it holds a run or other files already, or cannot be written."""
        if self.config.exists():
            raise RunError(
                f"{self.path} already holds a run; continue it with `semivox train --resume {self.path}`,"
                " or give another --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()) and not self.lock.exists():
                raise RunError(f"--out {self.path}: holds other files; give a new folder")
            probe = self.path / ".probe"
            probe.write_bytes(b"\0")
            probe.unlink()
        except OSError as error:
            raise RunError(f"--out {self.path}: cannot be written ({error.strerror}); give another folder") from None
        if shutil.disk_usage(self.path).free < 200 * 2**20:
            if not any(self.path.iterdir()):
                self.path.rmdir()
            raise ResourceError(f"--out {self.path}: less than 200 MiB are free on its disk; free some or give another")

    @contextmanager
    def begun(self) -> Iterator[None]:
        """A new run: makes the folder and holds it, as `create` and `locked`.

        Where a user's mistake ends the block before anything is trained, the folder goes away again: the mended command
        can then simply be repeated.
        """
        self.create()
        with self.locked():
            try:
                yield
            except SemivoxError:
                if not self.last.exists():
                    self._clear()
                raise

    def _clear(self) -> None:
        """Removes all that `begun` made; a link that led here stays."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if not self.path.is_symlink():
            self.path.rmdir()

    def forget_results(self) -> None:
        """Removes the model and what was made with it, so that a longer training makes them anew."""
        for folder in (self.model, self.predictions, self.all_classes):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.domain_shift):
            file.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run against other processes; what a killed one left half-written is cleared away."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.lock, "w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path} is in use by another process; wait for it or give another --out") from None
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written ({error.strerror}); make it writable") from None
            file.write(str(os.getpid()))
            file.flush()
            for leftover in [*self.path.glob(".writing-*"), *self.path.glob("*/.writing-*")]:
                shutil.rmtree(leftover, ignore_errors=True)
            yield
