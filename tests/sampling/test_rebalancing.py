import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import IGNORE, LabelMap
from semivox.sampling.order import EqualOrder
from semivox.sampling.rebalancing import RebalancedOrder, case_rates, class_rates, class_voxels


@pytest.fixture
def dataset():
    """Two labelled cases, four unlabelled ones of domain a and one of b."""
    cases = [Case(name, (), Path(f"{name}.nii.gz")) for name in ("l1", "l2")]
    cases += [Case(name, (), domain=name[0]) for name in ("a1", "a2", "a3", "a4", "b1")]
    return Dataset("set", Path("."), ("MRI",), LabelMap(("background", "x"), (0, 1)), tuple(cases))


def order_of(dataset, rates, forks=(), seed=0):
    return RebalancedOrder(dataset, seed, rates, EqualOrder(dataset, seed), forks)


RATES = {"a1": 1.0, "a2": 0.5, "a3": 0.25, "a4": 0.25, "b1": 0.5}


def test_rates_of_classes_are_those_of_crest():
    # N = 1000, 8, 125 and α = 1/3: the most frequent class has (8 / 1000)^α, the rarest 1, the one between itself.
    assert class_rates(np.array([1000, 8, 125]), 1 / 3) == pytest.approx([0.2, 1, 0.5])
    assert class_rates(np.array([1000, 8, 125]), 0.0) == pytest.approx([1, 1, 1])


def test_a_class_that_no_label_holds_is_wanted_least():
    assert class_rates(np.array([1000, 0, 8]), 1 / 3) == pytest.approx([0.2, 0.2, 1])
    assert class_rates(np.zeros(3), 1 / 3) == pytest.approx([1, 1, 1])


def test_a_case_has_the_rate_of_the_rarest_class_that_it_holds():
    labels = [np.array([9000, 600, 8]), np.array([9000, 400, 0])]  # class 2 is in one of them: 8 voxels on average
    pseudo = {
        "both": np.array([9000, 500, 1]),
        "large": np.array([9000, 500, 0]),
        "none": np.array([9500, 0, 0]),
        "stray": np.array([9500, 40, 0]),
    }
    rates = case_rates(labels, pseudo, 1 / 3)
    assert rates == pytest.approx({"both": 1, "large": 0.2, "none": 0.2, "stray": 0.2})
    few = case_rates([np.array([9000, 600, 80])], {"few": np.array([9000, 0, 7]), "ten": np.array([9000, 0, 8])}, 1.0)
    assert few == pytest.approx({"few": 80 / 600, "ten": 1})


def test_cases_come_as_often_as_their_rates_say(dataset):
    order = order_of(dataset, RATES)
    turns = 400
    drawn = Counter(order("unlabelled", n).id for n in range(5 * turns))
    total = sum(RATES.values())
    for case, rate in RATES.items():
        assert drawn[case] / (5 * turns) == pytest.approx(rate / total, abs=0.01)
    for turn in range(turns):
        own = Counter(order("unlabelled", n).id for n in range(5 * turn, 5 * turn + 5))
        for case, rate in RATES.items():
            assert own[case] in (int(5 * rate / total), int(5 * rate / total) + 1)


def test_equal_rates_give_every_case_once_a_turn(dataset):
    order = order_of(dataset, dict.fromkeys(RATES, 0.3))
    for turn in range(50):
        assert {order("unlabelled", n).id for n in range(5 * turn, 5 * turn + 5)} == set(RATES)


def test_domains_stay_balanced(dataset):
    order = order_of(dataset, RATES, ("domains",))
    drawn = Counter(order("unlabelled", n).id for n in range(2000))
    assert drawn["b1"] == pytest.approx(1000, abs=20)
    assert drawn["a1"] == pytest.approx(500, abs=20)


def test_tasks_are_shared_out_before_their_domains(dataset):
    tasks = {"a1": "p", "a2": "p", "a3": "q", "a4": "q", "b1": "q"}
    cases = [replace(case, task=tasks.get(case.id, "p")) for case in dataset]
    order = order_of(replace(dataset, cases=tuple(cases)), RATES, ("tasks", "domains"))
    drawn = Counter(order("unlabelled", n).id for n in range(4000))
    wanted = {"a1": 4000 / 3, "a2": 2000 / 3, "a3": 500, "a4": 500, "b1": 1000}
    assert drawn == {case: pytest.approx(times, abs=40) for case, times in wanted.items()}


def test_labelled_cases_come_as_before(dataset):
    order, other = order_of(dataset, RATES), EqualOrder(dataset, 0)
    assert [order("labelled", n) for n in range(9)] == [other("labelled", n) for n in range(9)]


def test_the_order_depends_on_seed_and_place_alone(dataset):
    order = order_of(dataset, RATES)
    there = [order("unlabelled", n).id for n in range(40)]
    copy = pickle.loads(pickle.dumps(order))
    assert [copy("unlabelled", n).id for n in reversed(range(40))] == there[::-1]
    assert [order_of(dataset, RATES, seed=1)("unlabelled", n).id for n in range(40)] != there


def test_voxels_are_counted_without_what_is_ignored():
    label = np.array([[[0, 1], [2, IGNORE]], [[1, 1], [0, 0]]], np.uint8)
    assert class_voxels(label, 3).tolist() == [3, 3, 1]
