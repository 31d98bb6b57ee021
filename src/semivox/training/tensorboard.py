"""What a run reports of itself, for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """An event file in `folder`, from `step` on: curves of earlier files are cut there.

    Torch's own writer names its files after the host, which may say where the patients of a run were scanned.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(open(folder / f"events.out.tfevents.{time.time():.0f}.{step}", "wb"))  # noqa: SIM115
        self._write(Event(file_version="brain.Event:2"))
        if step:
            self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Notes the values of a step, by name."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()
