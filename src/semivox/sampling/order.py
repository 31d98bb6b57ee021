"""Which case a stream's n-th sample since step 0 is of: pure functions of (seed, stream, n), picklable for workers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from semivox.data.case import Case, Dataset
from semivox.sampling.draws import Key, generator

LABELLED, UNLABELLED = "labelled", "unlabelled"

CaseOrder = Callable[[str, int], Case]
"""(stream, n) → the case of the stream's n-th sample."""

Tree = Mapping[Any, "Tree"] | Sequence[Case]
"""Cases below forks: domain → class → cases."""


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


class DomainOrder:
    """Every domain of a stream equally often, however many cases it has; within a domain every case equally often."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.seed = seed
        self.trees = {
            LABELLED: by_domain(dataset.labelled()),
            UNLABELLED: by_domain(dataset.unlabelled()),
        }

    def __call__(self, stream: str, n: int) -> Case:
        _, case = leaf(self.trees[stream], n, self.seed, "domains", stream)
        return case


class ClassOrder:
    """Labelled cases by a class that they hold, every class equally often, however rare; among the cases that hold it
    every one equally often. With `domains` every domain comes equally often, and in it each of its classes.

    classes_of: case id → the foreground classes of its label.
    """

    def __init__(
        self, dataset: Dataset, seed: int, classes_of: Callable[[str], Sequence[int]], domains: bool = False
    ) -> None:
        self.seed = seed
        self.domains = domains
        cases = {case: classes_of(case.id) for case in dataset.labelled()}
        self.tree: Tree = by_class(cases)
        if domains:
            trees = {
                domain: by_class({case: cases[case] for case in own})
                for domain, own in by_domain(dataset.labelled()).items()
            }
            self.tree = {domain: tree for domain, tree in trees.items() if tree}

    def __call__(self, n: int) -> tuple[Case, int]:
        """The n-th case, and the class for which it was drawn."""
        *_, drawn, case = leaf(self.tree, n, self.seed, "classes")
        return case, drawn


def by_domain(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """Domain → its cases."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.domain, []).append(case)
    return found


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
