"""Which case a stream's n-th sample since step 0 is of: pure functions of (seed, stream, n), picklable for workers."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from semivox.data.case import Case, Dataset
from semivox.sampling.draws import Key, generator

LABELLED, UNLABELLED = "labelled", "unlabelled"

CaseOrder = Callable[[str, int], Case]
"""(stream, n) → the case of the stream's n-th sample."""

Tree = Mapping[Any, "Tree"] | Sequence[Case]
"""Cases below forks: task → domain → class → cases."""

Fork = Literal["tasks", "domains"]

BRANCH: dict[Fork, Callable[[Case], str]] = {"tasks": attrgetter("task"), "domains": attrgetter("domain")}
"""Fork → the branch of it on which a case lies."""


class EqualOrder:
    """Every case of a stream equally often: an endless chain of permutations, each computed when it is reached."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.seed = seed
        self.cases = {LABELLED: dataset.labelled(), UNLABELLED: dataset.unlabelled()}
        self._latest: dict[str, tuple[int, np.ndarray]] = {}

    def __call__(self, stream: str, n: int) -> Case:
        cases = self.cases[stream]
        turn, place = divmod(n, len(cases))
        if stream not in self._latest or self._latest[stream][0] != turn:
            self._latest[stream] = turn, generator(self.seed, "order", stream, turn).permutation(len(cases))
        return cases[self._latest[stream][1][place]]


class BalancedOrder:
    """Every task, or domain, of a stream equally often, however many cases it has: what `forks` name, the first first.

    With both, every task comes equally often, in a task each of its domains, in a domain every case.
    """

    def __init__(self, dataset: Dataset, seed: int, forks: Sequence[Fork]) -> None:
        self.seed = seed
        self.forks = tuple(forks)
        self.trees = {
            LABELLED: grown(dataset.labelled(), forks),
            UNLABELLED: grown(dataset.unlabelled(), forks),
        }

    def __call__(self, stream: str, n: int) -> Case:
        *_, case = leaf(self.trees[stream], n, self.seed, *self.forks, stream)
        return case


def case_order(dataset: Dataset, seed: int, forks: Sequence[Fork] = ()) -> CaseOrder:
    """The order in which cases come where nothing but `forks` is balanced."""
    return BalancedOrder(dataset, seed, forks) if forks else EqualOrder(dataset, seed)


class ClassOrder:
    """Labelled cases by a class that they hold, every class equally often, however rare; among the cases that hold it
    every one equally often. With `forks` every task, or domain, comes equally often, and in it each of its classes.

    classes_of: case id → the foreground classes of its label.
    """

    def __init__(
        self, dataset: Dataset, seed: int, classes_of: Callable[[str], Sequence[int]], forks: Sequence[Fork] = ()
    ) -> None:
        self.seed = seed
        classes = {case: classes_of(case.id) for case in dataset.labelled()}
        # A case without any class has no place below a fork.
        cases = [case for case, held in classes.items() if held]
        self.tree = grown(cases, forks, lambda own: by_class({case: classes[case] for case in own}))

    def __call__(self, n: int) -> tuple[Case, int]:
        """The n-th case, and the class for which it was drawn."""
        *_, drawn, case = leaf(self.tree, n, self.seed, "classes")
        return case, drawn


def grown(cases: Sequence[Case], forks: Sequence[Fork], below: Callable[[Sequence[Case]], Tree] = tuple) -> Tree:
    """The tree of `cases`: task or domain → ... → what lies `below` the last fork."""
    if not forks:
        return below(cases)
    branches: dict[str, list[Case]] = {}
    for case in cases:
        branches.setdefault(BRANCH[forks[0]](case), []).append(case)
    return {name: grown(own, forks[1:], below) for name, own in branches.items()}


def by_class(classes: Mapping[Case, Sequence[int]]) -> dict[int, list[Case]]:
    """Class → the cases that hold it, in order of the classes."""
    present = sorted({index for held in classes.values() for index in held})
    return {index: [case for case, held in classes.items() if index in held] for index in present}


def leaf(tree: Tree, n: int, *key: Key) -> tuple:
    """The way to the n-th leaf, (branch, ..., case): at every fork an endless chain of permutations of its branches,
    so that in every round each comes once."""
    turn, place = divmod(n, len(tree))
    chosen = int(generator(*key, turn).permutation(len(tree))[place])
    if not isinstance(tree, Mapping):
        return (tree[chosen],)
    name = list(tree)[chosen]
    return name, *leaf(tree[name], turn, *key, name)
