"""The mistakes a user can mend. Each message is one line: what is wrong, where, and how to mend it.

SemivoxError            catch this one to catch them all; the command line prints it and exits with code 2
├── DataError           a fault in the files of a data set (names the case and the file)
├── SettingError        an unknown name, or a value that a setting cannot take
├── ResourceError       memory, disk or time does not suffice
└── RunError            a run folder, store or checkpoint cannot be used
"""

import difflib
from collections.abc import Iterable


class SemivoxError(Exception):
    """Base of every error that a user can mend; its text is one line."""


class DataError(SemivoxError):
    """A fault in the files of a data set."""


class SettingError(SemivoxError):
    """An unknown name, or a value that a setting cannot take."""


class ResourceError(SemivoxError):
    """Memory, disk or time does not suffice."""


class RunError(SemivoxError):
    """A run folder, store or checkpoint cannot be used as asked."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> SettingError:
    """The error for a name that does not exist: names the nearest one that does, else all of them.

    >>> str(unknown("method", "mean_techer", ["mean_teacher", "supervised"]))
    "unknown method 'mean_techer'; did you mean 'mean_teacher'?"
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    mend = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(choices) or 'none'}"
    return SettingError(f"unknown {kind} '{name}'; {mend}")


def missing_extra(package: str, extra: str) -> SettingError:
    """The error for an optional library that is not installed: names the extra that brings it."""
    return SettingError(f"this needs the package '{package}'; install it with: pip install 'semivox[{extra}]'")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened; its type where it has none."""
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__
