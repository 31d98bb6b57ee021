import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.sampling.order import BalancedOrder, ClassOrder, case_order, leaf

CLASSES = {"a1": (1, 2), "a2": (1,), "a3": (1, 3), "b1": (1, 3), "b2": ()}


@pytest.fixture
def dataset():
    """Three labelled cases of domain a and two of b; one unlabelled of a, four of b."""
    cases = [Case(name, (), Path(f"{name}.nii.gz"), domain=name[0]) for name in CLASSES]
    cases += [Case(name, (), domain=name[0]) for name in ("a8", "b6", "b7", "b8", "b9")]
    return Dataset("set", Path("."), ("MRI",), LabelMap(("background", "x", "y", "z"), (0, 1, 2, 3)), tuple(cases))


def test_every_domain_comes_equally_often_and_in_it_every_case(dataset):
    order = BalancedOrder(dataset, 0, ["domains"])
    labelled = Counter(order("labelled", n).id for n in range(60))
    assert labelled == {"a1": 10, "a2": 10, "a3": 10, "b1": 15, "b2": 15}
    unlabelled = Counter(order("unlabelled", n).id for n in range(40))
    assert unlabelled == {"a8": 20, "b6": 5, "b7": 5, "b8": 5, "b9": 5}
    assert all({order("labelled", n).domain, order("labelled", n + 1).domain} == {"a", "b"} for n in range(0, 60, 2))


def test_every_class_comes_equally_often_however_rare(dataset):
    order = ClassOrder(dataset, 0, CLASSES.__getitem__)
    drawn = Counter((index, case.id) for case, index in map(order, range(72)))
    assert drawn == {(2, "a1"): 24, (3, "a3"): 12, (3, "b1"): 12} | {(1, name): 6 for name in ("a1", "a2", "a3", "b1")}


def test_classes_are_balanced_within_balanced_domains(dataset):
    order = ClassOrder(dataset, 0, CLASSES.__getitem__, forks=["domains"])
    drawn = Counter((case.domain, index) for case, index in map(order, range(72)))
    assert drawn == {("a", 1): 12, ("a", 2): 12, ("a", 3): 12, ("b", 1): 18, ("b", 3): 18}


@pytest.fixture
def tasks(dataset):
    """The same with a task that lies across the domains: p has a1 and b1, q the rest."""
    return replace(dataset, cases=tuple(replace(case, task="pq"[case.id[1] != "1"]) for case in dataset))


def test_every_task_comes_equally_often_in_both_streams(tasks):
    order = case_order(tasks, 0, ["tasks"])
    labelled = Counter(order("labelled", n).id for n in range(60))
    assert labelled == {"a1": 15, "b1": 15, "a2": 10, "a3": 10, "b2": 10}
    assert {order("unlabelled", n).task for n in range(20)} == {"q"}


def test_domains_are_balanced_within_balanced_tasks(tasks):
    order = case_order(tasks, 0, ["tasks", "domains"])
    labelled = Counter(order("labelled", n).id for n in range(80))
    assert labelled == {"a1": 20, "b1": 20, "b2": 20, "a2": 10, "a3": 10}


def test_classes_are_balanced_within_balanced_tasks(tasks):
    order = ClassOrder(tasks, 0, CLASSES.__getitem__, forks=["tasks"])
    drawn = Counter((case.task, index) for case, index in map(order, range(72)))
    assert drawn == {("p", 1): 12, ("p", 2): 12, ("p", 3): 12, ("q", 1): 18, ("q", 3): 18}


def test_balanced_domains_draw_what_they_drew_before_there_were_tasks(dataset):
    order = BalancedOrder(dataset, 1, ["domains"])
    tree = {name: [case for case in dataset.labelled() if case.domain == name] for name in "ab"}
    assert [order("labelled", n) for n in range(30)] == [leaf(tree, n, 1, "domains", "labelled")[-1] for n in range(30)]


def test_hidden_labels_are_not_asked_for_their_classes(dataset):
    asked = []
    ClassOrder(dataset, 0, lambda case_id: asked.append(case_id) or (1,), forks=["domains"])
    assert set(asked) == set(CLASSES)


def test_draws_depend_on_the_seed_and_on_nothing_before(dataset):
    order, other = BalancedOrder(dataset, 1, ["domains"]), BalancedOrder(dataset, 2, ["domains"])
    walked = [order("labelled", n).id for n in range(30)]
    fresh = pickle.loads(pickle.dumps(BalancedOrder(dataset, 1, ["domains"])))
    assert [fresh("labelled", n).id for n in reversed(range(30))] == walked[::-1]
    assert [other("labelled", n).id for n in range(30)] != walked


def test_rounds_differ():
    cases = [Case(str(i), ()) for i in range(9)]
    rounds = [tuple(leaf(cases, 9 * turn + place, 0)[0].id for place in range(9)) for turn in range(4)]
    assert len(set(rounds)) == 4
    assert all(len(set(one)) == 9 for one in rounds)
