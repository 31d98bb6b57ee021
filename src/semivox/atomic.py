"""Files and folders that are whole or absent: written beside their place, flushed to disk, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semivox.errors import ResourceError, SettingError

FULL = (errno.ENOSPC, errno.EDQUOT)


def _not_writable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"{path}: cannot be written ({error.strerror}); free some space or name another place")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same ending); on success it replaces `path`, on failure it goes away.

    The temporary name starts with a dot, so that a process killed half-way leaves nothing that later loads as whole.
    Raises ResourceError where `path` cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise _not_writable(path, error) from None
    temporary = folder / path.name
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL:
            raise _not_writable(path, error) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it becomes `path`, on failure it goes away with its files.

    Raises SettingError where `path` already holds something, and ResourceError where it cannot be written or the disk
    is full.
    """
    path = Path(path)
    try:
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            raise SettingError(f"{path}: already exists; name another folder, or remove this one first")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise _not_writable(path, error) from None
    try:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL:
            raise _not_writable(path, error) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
