"""Every registered method passes the method tester."""

from functools import lru_cache

import pytest

from semivox.methods import METHODS
from semivox.testing import CHECKS, Candidate
from semivox.testing.checks import (
    a_killed_run_resumes_exactly,
    a_loaded_model_predicts_what_the_trained_one_does,
    gradient_reaches_every_trained_weight,
    losses_are_finite_and_never_negative,
    two_processes_give_the_loss_and_gradient_of_one,
)

FURTHER = {
    "mean_teacher+transferable_augmentation": {},
    "uncertainty_aware_mean_teacher+transferable_augmentation": {"passes": 2},
    "bidirectional_copy_paste+transferable_augmentation": {"transferable_augmentation.direction": "teacher"},
    "alternate_diverse_teaching+transferable_augmentation": {"transferable_augmentation.source": "clean"},
    "sss": {"memory": True, "complementary_dropout": True},
    "transmedseg": {"graph": "clustering_and_alignment", "transferable_augmentation.mean_over": "classes"},
}
"""Compositions, and settings that change what is computed."""
SMALLER = {
    "cross_teaching": {"transformer_width": 12, "transformer_window": 4},
    "sam_assisted": {"sam.size": "miniature", "clicks": 3},
}
"""Settings that make networks besides the plan's as tiny as that is."""
MOST_TELLING = (
    losses_are_finite_and_never_negative,
    gradient_reaches_every_trained_weight,
    a_loaded_model_predicts_what_the_trained_one_does,
    a_killed_run_resumes_exactly,
    two_processes_give_the_loss_and_gradient_of_one,
)


@lru_cache(maxsize=1)
def candidate(name: str, further: bool = False) -> Candidate:
    """One at a time, so that its checks share a run."""
    return Candidate(name, FURTHER[name] if further else SMALLER.get(name, {}))


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name in METHODS for check in CHECKS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_contract(name, check, two_processes):
    method = candidate(name)
    method.processes = two_processes
    check(method)


@pytest.mark.parametrize("check", MOST_TELLING, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FURTHER)
def test_contract_of_compositions(name, check, two_processes):
    method = candidate(name, further=True)
    method.processes = two_processes
    check(method)
