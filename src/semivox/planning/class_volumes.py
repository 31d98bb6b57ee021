"""Classes of one name that can hardly be one thing: far larger in one data set than in another."""

from collections.abc import Iterable

import numpy as np

from semivox.data.case import Dataset
from semivox.data.fault import Fault
from semivox.data.joining import own_id
from semivox.data.setting import classes_of
from semivox.planning.fingerprint import Fingerprint

UNLIKE = 5.0
"""Times by which median volumes differ where a name is doubted: children's and adults' organs differ by less."""


def shares_classes(dataset: Dataset) -> bool:
    """Whether labelled training cases of several sets annotate a class of one name."""
    sets: dict[str, set[str]] = {}
    for case in dataset.labelled():
        for name in classes_of(dataset, case.task):
            sets.setdefault(name, set()).add(_set_of(case.id, case.domain))
    return any(len(own) > 1 for own in sets.values())


def doubtful_names(fingerprint: Fingerprint, names: Iterable[str]) -> list[Fault]:
    """A warning for each of these classes whose volume differs more between sets than one organ's does.

    `fingerprint` is one made with `classes`; a set without a labelled scan that holds the class says nothing.
    """
    faults = []
    for name in names:
        volumes_ml: dict[str, list[float]] = {}
        for scan in fingerprint.scans:
            if scan.class_ml and scan.class_ml.get(name):
                volumes_ml.setdefault(_set_of(scan.case, scan.domain), []).append(scan.class_ml[name])
        medians = sorted((float(np.median(own)), source) for source, own in volumes_ml.items())
        if medians and medians[-1][0] > UNLIKE * medians[0][0]:
            (small, here), (large, there) = medians[0], medians[-1]
            what = f"class '{name}' is {large:.3g} ml in {there} and {small:.3g} ml in {here}"
            mend = "if it means something else there, name it apart in dataset.json"
            faults.append(Fault("", None, what, mend, is_error=False))
    return faults


def _set_of(case_id: str, domain: str) -> str:
    """The joined set that a case is from; its domain where there is one set."""
    return own_id(case_id)[0] or domain
