"""The method that CONTRIBUTING.md shows, as a file of a user's own."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="session")
def example() -> str:
    """The text of the file."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return text


@pytest.fixture
def user_method(example, tmp_path):
    """A function (old, new) → name of the method, `file.py:Class`, after each old text was replaced by a new one."""

    def write(*changes: tuple[str, str]) -> str:
        text = example
        for old, new in changes:
            assert text.count(old) == 1, f"the example has no single '{old}'"
            text = text.replace(old, new)
        file = tmp_path / "my_method.py"
        file.write_text(text, encoding="utf-8")
        return f"{file}:ConfidentMeanTeacher"

    return write
