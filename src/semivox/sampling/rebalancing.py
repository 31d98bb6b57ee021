"""Unlabelled cases whose pseudo-labels hold rare classes, drawn more often: class-rebalancing self-training.

CReST (Wei et al., CReST: a class-rebalancing self-training framework for imbalanced semi-supervised learning, CVPR
2021) takes a pseudo-labelled sample of class l into the next generation at the rate μ_l = (N_{K+1-l} / N_1)^α, with
classes in order of their frequency N_1 ≥ ... ≥ N_K among labels: what a biased model calls rare is rarely wrong.

Ours, for a scan holds many classes: its rate is that of the class for which it is wanted most, among those foreground
classes of which its pseudo-label has a tenth of what a labelled case has on average; a few stray voxels do not count.
And scans come at these rates rather than being taken or left, so that none is lost.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from semivox.data.case import Case, Dataset
from semivox.sampling.draws import generator
from semivox.sampling.order import UNLABELLED, CaseOrder, Fork, Tree, grown

HELD = 0.1
"""Share of a class's mean size in labelled cases from which a pseudo-label holds it."""


class RebalancedOrder:
    """Unlabelled cases as often as their rates say, other streams in the order `other`.

    In each turn of as many samples as there are cases one with the share p of all rates comes ⌊np⌋ or ⌈np⌉ times, np on
    average: equal rates give every case once. With `forks` the rates of each task, or domain, are shared out within
    it, so that they come equally often.
    """

    def __init__(
        self, dataset: Dataset, seed: int, rates: Mapping[str, float], other: CaseOrder, forks: Sequence[Fork] = ()
    ) -> None:
        self.seed = seed
        self.other = other
        self.cases = dataset.unlabelled()
        shared = dict(shares(grown(self.cases, forks), rates))
        self.ends = np.cumsum([shared[case.id] for case in self.cases])
        self._latest: tuple[int, np.ndarray] | None = None

    def __call__(self, stream: str, n: int) -> Case:
        if stream != UNLABELLED:
            return self.other(stream, n)
        turn, place = divmod(n, len(self.cases))
        if self._latest is None or self._latest[0] != turn:
            self._latest = turn, self._turn(turn)
        return self.cases[self._latest[1][place]]

    def _turn(self, turn: int) -> np.ndarray:
        """The cases of one turn: even strides over the rates laid end to end, from a random start, then shuffled."""
        random = generator(self.seed, "rebalanced", turn)
        strides = (np.arange(len(self.cases)) + random.random()) / len(self.cases)
        found = np.searchsorted(self.ends, strides, side="right").clip(max=len(self.cases) - 1)
        return random.permutation(found)


def shares(tree: Tree, rates: Mapping[str, float], whole: float = 1.0) -> Iterator[tuple[str, float]]:
    """(case, its share of `whole`): branches share alike, cases by their rates."""
    if isinstance(tree, Mapping):
        for branch in tree.values():
            yield from shares(branch, rates, whole / len(tree))
    else:
        total = sum(rates[case.id] for case in tree)
        yield from ((case.id, whole * rates[case.id] / total) for case in tree)


def class_rates(voxels: np.ndarray, alpha: float) -> np.ndarray:
    """μ of each foreground class (K - 1,) from their voxels in labels (K - 1,); the rarest has 1.

    Classes that no label holds have the rate of the most frequent one.
    """
    rates = np.empty(len(voxels))
    known = np.flatnonzero(voxels)
    if not len(known):
        return np.ones(len(voxels))
    order = known[np.argsort(-voxels[known], kind="stable")]
    rates[:] = (voxels[order[-1]] / voxels[order[0]]) ** alpha
    rates[order] = (voxels[order[::-1]] / voxels[order[0]]) ** alpha
    return rates


def case_rates(labels: Sequence[np.ndarray], pseudo_labels: Mapping[str, np.ndarray], alpha: float) -> dict[str, float]:
    """Case → its rate. `labels`: voxels of each class (K,) in labelled cases, `pseudo_labels` the same of unlabelled
    ones by their id."""
    voxels = np.sum(labels, axis=0)[1:]
    rates = class_rates(voxels, alpha)
    least = HELD * voxels / np.maximum(np.count_nonzero(labels, axis=0)[1:], 1)
    lowest = float(rates.min(initial=1.0))
    found = {}
    for case, counts in pseudo_labels.items():
        held = (voxels > 0) & (counts[1:] > 0) & (counts[1:] >= least)
        found[case] = float(rates[held].max(initial=lowest))
    return found


def class_voxels(label: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each class (K,) in a label (X, Y, Z) uint8, plane by plane, for it may lie on disk."""
    return sum((np.bincount(plane.ravel(), minlength=256)[:classes] for plane in label), np.zeros(classes, np.int64))
