"""What a prepared array was made from, so that a changed file is noticed and an unchanged one is not read again."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from semivox.data.fault import Fault, FaultError


@dataclass(frozen=True)
class Source:
    """A file as it was: with the same `size` and `mtime_ns` it counts as unchanged; else `sha256` decides."""

    path: str
    size: int
    mtime_ns: int
    sha256: str

    def is_untouched(self) -> bool:
        """Whether size and time are what they were; does not read the file."""
        status = Path(self.path).stat()
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def sources_of(case_id: str, paths: Iterable[Path]) -> tuple[Source, ...]:
    """The files of a case as they are now; reads all of them. Raises FaultError where one cannot be read."""
    sources = []
    for path in files_of(case_id, paths):
        try:
            status = path.stat()
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            fault = Fault(case_id, path, f"cannot be read ({error.strerror})", "correct its rights, or remove the case")
            raise FaultError(fault) from None
        sources.append(Source(str(path), status.st_size, status.st_mtime_ns, digest))
    return tuple(sources)


def files_of(case_id: str, paths: Iterable[Path]) -> list[Path]:
    """`paths`, with a folder (a DICOM series) replaced by the files in it, in order of their names.

    Raises FaultError where one is missing.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise FaultError(Fault(case_id, path, "there is no such file", "put it back, or remove the case"))
    return files


def are_untouched(recorded: tuple[Source, ...], files: list[Path]) -> bool:
    """Whether `files` are the very ones recorded, by name, size and time."""
    names = [source.path for source in recorded]
    return names == [str(file) for file in files] and all(source.is_untouched() for source in recorded)


def hold_the_same(recorded: tuple[Source, ...], current: tuple[Source, ...]) -> bool:
    """Whether the files hold what they held, whatever their times."""
    return [(source.path, source.sha256) for source in recorded] == [(source.path, source.sha256) for source in current]
