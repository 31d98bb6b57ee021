"""One prepared array of a store, with the record of what it is and what it was made from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semivox.atomic import atomic_write_text
from semivox.errors import RunError
from semivox.preparation.array_file import open_array, save_array
from semivox.preparation.placement import Placement
from semivox.preparation.source import Source


@dataclass(frozen=True)
class Record:
    """Where a prepared array lies in its scan, and the files it was made from."""

    placement: Placement
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Entry:
    """`array` is the array's file. Its record lies beside it and is written last: where it is, the array is whole."""

    array: Path

    def beside(self, ending: str) -> Path:
        """A further file of this entry."""
        return self.array.with_name(self.array.name.removesuffix(self.array.suffix) + ending)

    def clear(self) -> None:
        """Takes the record away, so that nothing of the entry counts until it is written anew."""
        self.beside(".json").unlink(missing_ok=True)

    def write(self, array: np.ndarray, record: Record) -> None:
        """Array and record."""
        self.clear()
        self.write_record(record, save_array(self.array, array))

    def write_record(self, record: Record, size: int | None = None) -> None:
        """The record alone, for an array of `size` bytes on disk (None: as it is)."""
        content = {"size": self.array.stat().st_size if size is None else size, **asdict(record)}
        atomic_write_text(self.beside(".json"), json.dumps(content))

    def record(self) -> Record | None:
        """None where the entry is absent or not whole. Looks at the array's size only."""
        try:
            content = json.loads(self.beside(".json").read_text(encoding="utf-8"))
            if self.array.stat().st_size != content["size"]:
                return None
            return Record(
                Placement.from_dict(content["placement"]), tuple(Source(**source) for source in content["sources"])
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def open(self) -> Any:
        """The array, read only where it is indexed. Raises RunError where it is missing or damaged."""
        try:
            return open_array(self.array)
        except (OSError, ValueError, RuntimeError):
            raise damaged(self.array, self.array.parent.parent) from None


def damaged(file: Path, store: Path) -> RunError:
    """The error for a file that the folder of a store should hold whole."""
    return RunError(f"{file}: missing or damaged; delete the folder {store}, it is made again when needed")
