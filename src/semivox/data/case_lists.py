"""Lists of names that say which cases take part, in which split and order, whatever cases.csv says."""

from dataclasses import replace

from semivox.data.case import Case, Dataset, Split
from semivox.errors import DataError
from semivox.settings import Part


class CaseLists(Part):
    """Split → ids of cases, or of groups with all their cases, in the order in which labels are counted."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def assign(dataset: Dataset, lists: CaseLists) -> Dataset:
    """The cases that `lists` names, each in the split and at the place where it is named; others take no part.

    Names of which the data set has no case are passed over. Raises DataError where no case is named, or where a case
    is in two splits.
    """
    cases_of: dict[str, list[Case]] = {}
    for case in dataset:
        for name in {case.id, case.patient}:
            cases_of.setdefault(name, []).append(case)
    split_of: dict[str, Split] = {}
    cases = []
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (
        ("train", lists.train),
        ("val", lists.val),
        ("test", lists.test),
    )
    for split, names in splits:
        for name in names:
            for case in cases_of.get(name, ()):
                if split_of.setdefault(case.id, split) != split:
                    raise DataError(
                        f"{dataset.root}: '{name}' is listed for {split_of[case.id]} and for {split}; list it once"
                    )
                cases.append(replace(case, split=split))
    if not cases:
        raise DataError(f"{dataset.root}: has none of the listed cases; name the data set that the lists are of")
    return replace(dataset, cases=tuple({case.id: case for case in cases}.values()))
