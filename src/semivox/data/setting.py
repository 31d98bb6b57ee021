"""Which setting the cases make: semi-supervised, domain adaptation, domain generalisation, partial labels, supervised.

Nothing else says it. What is trained on, and what is scored, follows from `split`, `domain`, `task` and which training
cases have a label.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from semivox.data.case import Case, Dataset
from semivox.errors import DataError

SUPERVISED, SSL, UDA, SEMI_DG, PARTIAL = "supervised", "SSL", "UDA", "SemiDG", "partial labels"
"""Names of the settings, as `Method.covers` has them."""


@dataclass(frozen=True)
class Setting:
    """What a data set amounts to. Domains are in their order of first appearance."""

    names: tuple[str, ...]
    """Those above that hold; none where no training case has a label."""
    sources: tuple[str, ...]
    """Domains with a labelled training case."""
    targets: tuple[str, ...]
    """Domains whose training cases have no label and which are scored: what is adapted to."""
    unseen: tuple[str, ...]
    """Domains that are scored and have no training case."""


def recognise(dataset: Dataset) -> Setting:
    """The setting that the cases make, as they are: after labels were hidden.

    Scored are the test cases, the validation cases where there are none, and where there are neither it is thought of
    those domains that hold no label.
    """
    training = dataset.split("train")
    seen, sources = domains_of(training), domains_of(dataset.labelled())
    without = [domain for domain in seen if domain not in sources]
    scored = domains_of(dataset.split("test") or dataset.split("val")) or without
    targets = tuple(domain for domain in without if domain in scored)
    unseen = tuple(domain for domain in scored if domain not in seen)
    names: list[str] = []
    if sources:
        names = [name for name, domains in ((UDA, targets), (SEMI_DG, unseen)) if domains]
        names = names or [SSL if dataset.unlabelled() else SUPERVISED]
        if len({case.task for case in training}) > 1:
            names.append(PARTIAL)
    return Setting(tuple(names), sources, targets, unseen)


def describe(dataset: Dataset) -> str:
    """The setting in words, with the domains that make it so."""
    setting = recognise(dataset)
    if not setting.names:
        return "no training case has a label: nothing can be trained yet; a trained model can predict these cases"
    seen = domains_of(dataset.split("train"))
    parts = []
    if PARTIAL in setting.names:
        counts = [
            f"{task} ({listed(classes_of(dataset, task))}: {len(labelled)} labelled, {len(unlabelled)} unlabelled)"
            for task, (labelled, unlabelled) in training_tasks(dataset).items()
        ]
        parts.append(f"several tasks with partial labels: {', '.join(counts)}")
    if setting.targets:
        where = f"labels in {listed(setting.sources)}, none in {listed(setting.targets)}"
        parts.append(f"unsupervised domain adaptation (UDA): {where}")
    if setting.unseen:
        kind = "semi-supervised domain generalisation (SemiDG)" if dataset.unlabelled() else "domain generalisation"
        parts.append(f"{kind}: trained on {listed(seen)}, tested on {listed(setting.unseen)}, never seen")
    if SSL in setting.names and len(parts) == 0:
        parts.append("semi-supervised (SSL)" + (f" over {len(seen)} domains" if len(seen) > 1 else ""))
    if SUPERVISED in setting.names and len(parts) == 0:
        parts.append(
            "every training case has a label; hide labels with --labelled N or add scans with --unlabelled DIR"
        )
    return "; ".join(parts)


def classes_of(dataset: Dataset, task: str) -> tuple[str, ...]:
    """The names that `task` annotates."""
    return dataset.tasks.get(task, dataset.labels.foreground)


def training_tasks(dataset: Dataset) -> dict[str, tuple[list[Case], list[Case]]]:
    """Task → its labelled and its unlabelled training cases."""
    found: dict[str, tuple[list[Case], list[Case]]] = {}
    for case in dataset.split("train"):
        found.setdefault(case.task, ([], []))[case.label is None].append(case)
    return found


def one_sided_tasks(dataset: Dataset) -> list[str]:
    """A sentence for every task of several that has no labelled training case, or alone has none without label."""
    tasks = training_tasks(dataset)
    if len(tasks) < 2:
        return []
    told = []
    for task, (labelled, unlabelled) in tasks.items():
        if not labelled:
            told.append(f"task {task} has no labelled training case: {_taught_elsewhere(dataset, task)}")
        elif not unlabelled and dataset.unlabelled():
            told.append(f"task {task} has no unlabelled case: it is trained on its {len(labelled)} labelled ones alone")
    return told


def _taught_elsewhere(dataset: Dataset, task: str) -> str:
    """From which other tasks the classes of one without labels are learnt."""
    told = []
    for name in classes_of(dataset, task):
        teachers = dict.fromkeys(case.task for case in dataset.labelled() if name in classes_of(dataset, case.task))
        told.append(f"{name} is learnt from {listed(tuple(teachers))} alone" if teachers else f"{name} is never learnt")
    return ", ".join(told)


def without_foreign_labels(dataset: Dataset, keep_targets: bool = False) -> Dataset:
    """The data set whose validation cases of targets and of unseen domains have lost their label.

    So that weights are not chosen by labels that the setting says are not there. `keep_targets` lets the targets keep
    theirs.
    """
    setting = recognise(dataset)
    foreign = setting.unseen if keep_targets else setting.targets + setting.unseen
    return replace(
        dataset,
        cases=tuple(
            replace(case, label=None) if case.split == "val" and case.domain in foreign else case for case in dataset
        ),
    )


def leave_unseen(dataset: Dataset, domains: Sequence[str]) -> Dataset:
    """The data set without the training cases of these domains, so that their test cases are of domains never seen.

    Raises SettingError for an unknown domain, DataError where one of them is not tested or nothing is left to train on.
    """
    for domain in domains:
        dataset.check_domain(domain)
        if not any(case.domain == domain and case.split != "train" for case in dataset):
            raise DataError(
                f"{dataset.name}: domain '{domain}' is to stay unseen but has training cases only, so that nothing of"
                " it would be scored; mark some as `test` in cases.csv, or leave --unseen out"
            )
    cases = tuple(case for case in dataset if case.split != "train" or case.domain not in domains)
    if domains and not any(case.split == "train" for case in cases):
        raise DataError(
            f"{dataset.name}: --unseen {' '.join(domains)} leaves no training case; name fewer domains, there are:"
            f" {', '.join(dataset.domains)}"
        )
    return replace(dataset, cases=cases)


def refuse_contradictions(dataset: Dataset) -> None:
    """Raises DataError where the case list says two things at once, which would make scores worthless.

    A patient in two splits; a domain that seems unseen only because its name is spelled otherwise.
    """
    _refuse_divided_patients(dataset)
    refuse_misspelt_domains(dataset)


def _refuse_divided_patients(dataset: Dataset) -> None:
    first: dict[str, Case] = {}
    for case in dataset:
        other = first.setdefault(case.patient, case)
        if other.split != case.split:
            raise DataError(
                f"{dataset.name}: patient {case.patient} is in {other.split} (case {other.id}) and in {case.split}"
                f" (case {case.id}); put all cases of a patient into one split"
            )


def refuse_misspelt_domains(dataset: Dataset) -> None:
    """Raises DataError where a domain is tested as unseen and trained on under another spelling."""
    seen = domains_of(dataset.split("train"))
    for domain in recognise(dataset).unseen:
        twin = next((name for name in seen if spelled_plainly(name) == spelled_plainly(domain)), None)
        if twin is not None:
            raise DataError(
                f"{dataset.name}: domain '{domain}' is tested as never seen, but training has '{twin}'; spell them"
                " alike in cases.csv if they are one domain, else name them apart"
            )


def domains_of(cases: Iterable[Case]) -> tuple[str, ...]:
    """Their domains, in order of first appearance."""
    return tuple(dict.fromkeys(case.domain for case in cases))


def spelled_plainly(name: str) -> str:
    """Letters and digits alone: 'Vendor-A' and 'vendor a' are the same."""
    return re.sub(r"[\W_]+", "", name).casefold()


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
