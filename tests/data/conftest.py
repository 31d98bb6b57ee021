from pathlib import Path

import pytest
from small_set import write_small_set


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A clean data set in a folder of its own, for a test to spoil."""
    return write_small_set(tmp_path / "small")
