"""Optimisers as a method specifies them."""

import pytest
from torch import nn

from semivox.methods.method import Optimiser
from semivox.training.config import TrainingSettings
from semivox.training.optimisation import base_learning_rate, make_optimiser


@pytest.mark.parametrize(("own", "expected"), [(None, 0.02), (0.1, 0.1), (0.0, 0.0)])
def test_an_optimisers_own_learning_rate_counts_even_where_it_is_zero(own, expected):
    training = TrainingSettings(iterations=1, learning_rate=0.02)
    specification = Optimiser("main", (nn.Linear(1, 1),), learning_rate=own)
    assert base_learning_rate(specification, training) == expected
    (group,) = make_optimiser(specification, training).param_groups
    assert group["lr"] == expected


@pytest.mark.parametrize(("own", "expected"), [(None, 3e-5), (0.0, 0.0)])
def test_an_optimisers_own_betas_and_weight_decay_count(own, expected):
    training = TrainingSettings(iterations=1, weight_decay=3e-5)
    specification = Optimiser("other", (nn.Linear(1, 1),), kind="adam", weight_decay=own, betas=(0.9, 0.99))
    (group,) = make_optimiser(specification, training).param_groups
    assert group["betas"] == (0.9, 0.99)
    assert group["weight_decay"] == expected
