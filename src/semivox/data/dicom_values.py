"""Attributes of DICOM files, read strictly.

Whoever sends a DICOM file decides what its numbers look like: `nan`, `1_0`, `1e999` and worse pass through a lenient
parser as numbers, and a scan is then silently misplaced. So numbers are parsed here from the bytes in the file, by the
grammar of the standard (PS3.5, section 6.2), and whatever else the bytes do to the parser becomes one line.
"""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semivox.data.fault import Fault, FaultError
from semivox.errors import SemivoxError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 128
"""Bytes before the mark `DICM`."""

DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"[+-]?\d{1,10}", re.ASCII)
UNIQUE_IDENTIFIER = re.compile(r"[0-9][0-9.]{0,63}", re.ASCII)
CODE = re.compile(r"[A-Z0-9_ ]{1,16}", re.ASCII)


def refusal(file: Path, what: str, mend: str) -> FaultError:
    """The error for a file, or a folder of files, that cannot be read as a scan."""
    return FaultError(Fault("", file, what, mend))


@contextmanager
def parsing(file: Path) -> Iterator[None]:
    """Turns whatever the parser raises on a damaged or crafted `file` into one FaultError.

    All exceptions, because a third-party parser may raise any of them on bytes nobody foresaw.
    """
    try:
        with warnings.catch_warnings():
            # pydicom quotes what it finds odd, which may be a patient's name.
            warnings.simplefilter("ignore")
            yield
    except SemivoxError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise refusal(file, f"cannot be read as DICOM ({reason})", "export it anew or remove it") from None


def is_dicom_file(path: Path) -> bool:
    """Whether the file carries the mark of a DICOM file."""
    try:
        with open(path, "rb") as file:
            file.seek(PREAMBLE)
            return file.read(4) == b"DICM"
    except OSError:
        return False


@dataclass(frozen=True)
class Attributes:
    """The attributes of one DICOM file, or of one item of a sequence in it."""

    dataset: "Dataset"
    file: Path

    def has(self, keyword: str) -> bool:
        """Whether the attribute is there and not empty."""
        element = self._element(keyword)
        return element is not None and element.value not in (None, b"", [])

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """`count` finite numbers of a decimal string (VR DS)."""
        parts = self._strings(keyword, "DS")
        if len(parts) != count or not all(DECIMAL.fullmatch(part) for part in parts):
            raise self._fault(keyword, "\\".join(parts), f"{count} decimal numbers")
        numbers = tuple(float(part) for part in parts)
        if not all(math.isfinite(number) and abs(number) < 1e12 for number in numbers):
            raise self._fault(keyword, "\\".join(parts), f"{count} numbers of sensible size")
        return numbers

    def integer(self, keyword: str) -> int:
        """One integer string (VR IS)."""
        parts = self._strings(keyword, "IS")
        if len(parts) != 1 or not INTEGER.fullmatch(parts[0]):
            raise self._fault(keyword, "\\".join(parts), "a whole number")
        return int(parts[0])

    def unsigned(self, keyword: str) -> int:
        """One unsigned 16-bit integer (VR US)."""
        element = self._element(keyword)
        # pydicom parses PixelRepresentation while it reads, since the types of other attributes hang on it.
        if element is not None and isinstance(element.value, int) and 0 <= element.value < 2**16:
            return element.value
        value = self._bytes(keyword, "US")
        if len(value) != 2:
            raise self._fault(keyword, value.hex(), "two bytes")
        return int.from_bytes(value, "little" if element.is_little_endian else "big")

    def identifier(self, keyword: str) -> str:
        """One unique identifier (VR UI)."""
        parts = self._strings(keyword, "UI")
        if len(parts) != 1 or not UNIQUE_IDENTIFIER.fullmatch(parts[0]):
            raise self._fault(keyword, "\\".join(parts), "digits and dots")
        return parts[0]

    def code(self, keyword: str) -> str:
        """One code string (VR CS): capital letters, digits, spaces and underscores."""
        parts = self._strings(keyword, "CS")
        if len(parts) != 1 or not CODE.fullmatch(parts[0]):
            raise self._fault(keyword, "\\".join(parts), "a code of capital letters")
        return parts[0]

    def raw(self, keyword: str) -> bytes:
        """The bytes of the attribute, empty where it is missing; good only for telling equal from unequal."""
        return self._bytes(keyword, self._element(keyword).VR).strip(b" \0") if self.has(keyword) else b""

    def items(self, keyword: str) -> "list[Attributes]":
        """The items of a sequence, an empty list where it is missing."""
        if keyword not in self.dataset:
            return []
        with parsing(self.file):
            return [Attributes(item, self.file) for item in self.dataset[keyword].value]

    def _strings(self, keyword: str, kind: str) -> list[str]:
        text = self._bytes(keyword, kind).decode("latin-1").rstrip(" \0")
        return [part.strip(" ") for part in text.split("\\")]

    def _bytes(self, keyword: str, kind: str) -> bytes:
        """The attribute as it stands in the file; it must be there and have the value representation `kind`."""
        if not self.has(keyword):
            raise refusal(self.file, f"the DICOM attribute {keyword} is missing", "export the series anew")
        element = self._element(keyword)
        # Implicit VR files do not say the VR: it is the dictionary's, which is the one asked for.
        if not isinstance(element.value, bytes) or element.VR not in (None, "UN", kind):
            raise self._fault(keyword, str(element.VR), f"the type {kind}")
        return element.value

    def _element(self, keyword: str) -> Any:
        """pydicom's element, not yet parsed; None where the attribute is missing."""
        with parsing(self.file):
            return self.dataset.get_item(keyword) if keyword in self.dataset else None

    def _fault(self, keyword: str, found: str, expected: str) -> FaultError:
        shown = found if len(found) <= 60 else found[:57] + "..."
        what = f"the DICOM attribute {keyword} is {shown!r} where {expected} is due"
        return refusal(self.file, what, "export the series anew")
