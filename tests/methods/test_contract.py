"""Every registered method passes the method tester."""

from functools import lru_cache

import pytest

from semivox.methods import METHODS
from semivox.testing import CHECKS, Candidate


@lru_cache(maxsize=1)
def candidate(name: str) -> Candidate:
    """One at a time, so that its checks share a run."""
    return Candidate(name)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name, check, two_processes):
    method = candidate(name)
    method.processes = two_processes
    check(method)
