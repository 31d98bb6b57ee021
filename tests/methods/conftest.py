"""Two processes that serve every test of methods in this process of pytest: starting them takes seconds."""

from collections.abc import Iterator

import pytest

from semivox.testing import TwoProcesses


@pytest.fixture(scope="session")
def two_processes() -> Iterator[TwoProcesses]:
    with TwoProcesses() as processes:
        yield processes
