"""What is wrong with one file of a data set, and how to mend it."""

from dataclasses import dataclass
from pathlib import Path

from semivox.errors import DataError


@dataclass(frozen=True)
class Fault:
    """One finding; as text it is one line. An error stops training, a warning (`is_error` False) does not."""

    case: str
    """Id of the case; empty where the fault belongs to no case."""
    file: Path | None
    what: str
    mend: str
    is_error: bool = True

    def __str__(self) -> str:
        where = [f"case {self.case}"] if self.case else []
        where += [str(self.file)] if self.file else []
        return " ".join(f"{': '.join([*where, self.what])}; {self.mend}".splitlines())


class FaultError(DataError):
    """A fault met where only one can be told: its text is the fault's line."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault

    def __reduce__(self) -> tuple[type, tuple[Fault]]:
        # Exceptions are rebuilt from `args`, which hold the text: without this none comes back from a worker process.
        return type(self), (self.fault,)
