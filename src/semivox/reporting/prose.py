"""What the report says in sentences: what was run, what came of it, what was not measured, how to do it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from semivox.data.case import DEFAULT, Dataset
from semivox.data.setting import listed, recognise
from semivox.reporting.domain_shift import DomainShift
from semivox.reporting.record import Record
from semivox.reporting.tables import Comparison
from semivox.training.run import RunFolder

SUPERVISED = "supervised"
"""The method that sees no unlabelled scan."""

MOST_NAMES = 10
"""Longer lists of cases are cut short."""

CHOSEN = {
    "last": "Reported are the weights of the last step; no test score had a say in choosing them.",
    "validation": (
        "Reported are the weights that did best on the validation cases, which are neither trained nor tested on."
    ),
    "test": (
        "Reported are the weights that did best on the test cases themselves, as many papers publish it: the scores are"
        " too good, and comparable only with figures that were chosen alike."
    ),
}
"""What the choice of weights (`training.selection`) means for a reader."""

FEW_CASES = 10
"""With fewer test cases an interval is hardly to be trusted."""


def summary(record: Record, dataset: Dataset | None) -> str:
    """One paragraph: method, data, counts, budget, which weights, what they were tested on."""
    config, training = record.config, record.config["training"]
    done = record.log.last_step + 1 if len(record.log.step) else 0
    steps = f"{done:,} steps" if done >= training["iterations"] else f"{done:,} of {training['iterations']:,} steps"
    sentences = [f"{in_title(config['method']['name'])} was trained on {_data(record, dataset)}"]
    sentences[0] += f" for {steps}{_minutes(record)}, with seed {config['seed']}."
    sentences.append(CHOSEN[training["selection"]])
    if record.metrics is not None:
        scored, unscored = len(record.metrics["cases"]), len(record.metrics["unscored"])
        tested = f"They were scored on {_count(scored, 'case')}"
        tested += f"; {_count(unscored, 'more')} had no reference label." if unscored else "."
        sentences.append(tested)
    return " ".join(sentences)


def verdict(record: Record, comparison: Comparison | None) -> tuple[str, str, str]:
    """(kind, headline, explanation) of the labelled-only run beside this one; kind is a class of the style sheet."""
    if record.config["method"]["name"] == SUPERVISED:
        return (
            "plain",
            "This is a labelled-only run.",
            "It saw no unlabelled scan: it is what others are compared with.",
        )
    if comparison is None:
        return (
            "warning",
            "Nothing here shows that the unlabelled scans helped.",
            "There is no labelled-only run to compare with."
            if record.baseline is None
            else "The labelled-only run beside this one has no scored case in common with it.",
        )
    row = comparison.headline
    text = f"Mean Dice {row.run} against {row.other} with the labelled scans alone, {row.difference} per case"
    text += f" (95 % interval {row.interval}, " if row.interval else " ("
    text += f"{_count(row.n, 'case')})."
    if row.includes_zero:
        text += " The interval includes zero: it may be chance."
    text += " One seed each: how far another would turn it is not measured."
    if comparison.untrained:
        return "warning", "Both models are hardly trained: nothing follows from their difference.", text
    if comparison.verdict == "worse":
        return "worse", "Training on the labelled scans alone was better.", text
    if comparison.verdict == "better":
        return "better", "Better than training on the labelled scans alone.", text
    return "warning", "The unlabelled scans did not clearly help.", text


def plan(record: Record) -> str:
    """The plan in a sentence: patch, spacing, batch, network."""
    found = record.config["plan"]
    preparation, batch = found["preparation"], found["batch"]
    patch = " × ".join(str(size) for size in found["patch"])
    text = f"{len(found['patch'])}-D patches of {patch} voxels"
    if preparation.get("resample") == "spacing" and preparation.get("spacing_mm"):
        spacing = ["own" if step is None else f"{step:.4g}" for step in preparation["spacing_mm"]]
        text += f" of {' × '.join(spacing)} mm"
    text += f"; {batch['labelled']} labelled and {batch['unlabelled']} unlabelled in each step"
    settings = ", ".join(f"{name} {value}" for name, value in found["network"].get("settings", {}).items())
    return f"{text}; network {found['network']['name']}" + (f" ({settings})." if settings else ".")


def notes(record: Record, dataset: Dataset | None) -> list[str]:
    """What a reader should keep in mind, from what the run did and did not do."""
    config, found = record.config, []
    found.append(
        f"One run with one seed ({config['seed']}). Spread and intervals are over test cases; how far another seed"
        " would land is not measured. Train with at least three seeds before ranking methods."
    )
    if record.metrics is None:
        return [*found, "The model was not scored: there are no metrics."]
    scored = len(record.metrics["cases"])
    if 0 < scored < FEW_CASES:
        found.append(f"{_count(scored, 'scored case')}: too few for an interval that could be relied on.")
    if record.metrics["unscored"]:
        found.append(
            f"{_count(len(record.metrics['unscored']), 'predicted case')} without a reference label took no part in"
            f" any figure: {_listed(record.metrics['unscored'])}."
        )
    empty = sum(score["empty"] == "prediction" for case in record.metrics["cases"] for score in case["scores"].values())
    if empty:
        found.append(
            f"{_count(empty, 'prediction')} of a class came out empty although the class was there. Dice counts 0 for"
            " them; distances are not defined and leave them out, which flatters HD95 and ASD."
        )
    if len({case.get("task") for case in record.metrics["cases"]}) > 1:
        found.append(
            "Each test case was predicted for its own task, as published: what a class of another task would have taken"
            " from it does not show in the scores, only in the pictures of every class."
        )
    if record.metrics.get("model", {}).get("prompts"):
        found.append(
            "The model was prompted by boxes of the reference labels (oracle prompts): an upper bound, not what it"
            " reaches by itself."
        )
    if record.metrics["unit"] == "voxel":
        found.append("Distances are in voxels and cannot be compared with distances in millimetres.")
    if config["training"]["selection"] == "last":
        found.append("No validation cases chose the weights or the time to stop; the budget was fixed beforehand.")
    if dataset is not None:
        domains = {case.domain for case in dataset.split("test")}
        if domains and domains <= {case.domain for case in dataset.split("train")}:
            found.append("All test cases come from domains seen in training; scans from elsewhere were not tested.")
        setting = recognise(dataset)
        if setting.targets:
            chose = config.get("uda", {}).get("target_labels") and config["training"]["selection"] == "validation"
            then = (
                "those of its validation cases chose the weights"
                if chose
                else "none of its labels was read in training"
            )
            found.append(f"Training adapted to {listed(setting.targets)} without training labels; {then}.")
        if setting.unseen:
            found.append(f"No scan of {listed(setting.unseen)} took part in training.")
    found.append("Not measured: calibration, inference time, agreement between human readers on the same scans.")
    return found


def train_again(record: Record) -> str:
    """The commands that train this run anew, in a folder of its own, from its config.yaml alone."""
    new = f"{record.folder}-again"
    copy = shlex.join(["cp", str(RunFolder(record.folder).config), new])
    return f"{shlex.join(['mkdir', new])} && {copy} && {_resume(new, record)}"


def train_baseline(record: Record) -> str:
    """The command that trains the labelled-only run beside this one: same data, plan, seed, steps and views."""
    return f"{_resume(str(record.folder), record)} --baseline"


def domains(shift: DomainShift) -> str:
    """What the charts of the domains show, and how to read them."""
    scans = ", ".join(f"{count} of {name}" for name, count in shift.cases.items())
    text = f"From images alone: {scans}."
    if shift.places:
        text += (
            f" Of the variance of the encoder's coarsest features (their means over space) {100 * shift.between:.0f} %"
            " lie between the domains. Anatomy and field of view count in it too; whether the network fails where"
            " domains lie apart, only scores tell."
        )
    return text


def in_title(name: str) -> str:
    """A method's name as a title: `mean_teacher` → Mean teacher."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _data(record: Record, dataset: Dataset | None) -> str:
    names = " and ".join(Path(path).name for path in record.config["data"]["datasets"])
    if dataset is None:
        return names
    labelled, unlabelled = len(dataset.labelled()), len(dataset.unlabelled())
    text = f"{names} with {labelled:,} labelled"
    text += f" and {unlabelled:,} unlabelled scans" if unlabelled else " scans"
    domains = [name for name in dataset.domains if name != DEFAULT]
    return f"{text} of {len(domains)} domains ({', '.join(domains)})" if len(domains) > 1 else text


def _minutes(record: Record) -> str:
    minutes = record.log.minutes
    return f" ({minutes:.1f} minutes)" if minutes else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 or noun == "more" else f"{number:,} {noun}s"


def _resume(folder: str, record: Record) -> str:
    method = record.config["method"]["name"]
    # A run folder never names code to load, so a method of the user's own is named again.
    own = ["--method", method] if ".py:" in method else []
    return shlex.join(["semivox", "train", "--resume", folder, *own])
