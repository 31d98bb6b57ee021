"""What holds for whole runs."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from semivox.evaluation.overlap import mean_dice
from semivox.methods.method import Method
from semivox.testing.candidate import Candidate, run_folder, trained
from semivox.testing.phantom import TinyPhantom, shared_phantom
from semivox.training.config import Config
from semivox.training.fit import build
from semivox.training.log import read_log
from semivox.training.windowing import make_windows

TRAINING_STEPS = 120
FALL, RISE = 0.8, 0.15
"""How far the supervised loss must fall (as a share of what it was) and Dice rise."""
AVERAGE_DECAY = 0.9
"""Of methods that have the setting: an average over 100 steps would not get away from the run's beginning."""

LEARNS_BY = {"sam2": {"optimiser": "adamw", "learning_rate": 3e-3}}
"""Networks that plain descent teaches nothing in so few steps, and what does."""
DETAIL = {"sam2": 2}
"""Networks whose finest features are coarse, and how many times as fine as usual their phantom is."""


def the_same_seed_gives_the_same_weights(candidate: Candidate) -> None:
    """Two runs of one config end with the same checkpoint, bit for bit."""
    with run_folder() as run:
        again = trained(candidate.short_config(), run)
    differing = first_difference(candidate.short_run, again)
    assert differing is None, (
        f"two runs of one seed differ in {differing}; draw from stream.seeds and clock.seed, and keep nothing between"
        " runs"
    )


def a_killed_run_resumes_exactly(candidate: Candidate) -> None:
    """A run that dies before the first and the second step of each stage, and is resumed each time, ends with the
    checkpoint of one that nothing interrupted, bit for bit."""
    config = candidate.short_config()
    spans = candidate.bench(iterations=config.training.iterations).engine.spans
    cuts = sorted({step for span in spans for step in (span.start, span.start + 1)} - {0})
    with run_folder() as run:
        resumed = trained(config, run, cuts)
    differing = first_difference(candidate.short_run, resumed)
    assert differing is None, (
        f"a run that was killed and resumed differs in {differing}; what must survive is a module, a buffer or in the"
        " method's state_dict"
    )


def training_learns(candidate: Candidate) -> None:
    """In a short run the supervised loss falls, and Dice rises on the unlabelled training cases (whose labels only the
    tester knows) and on a case never seen."""
    phantom = shared_phantom(detail(candidate))
    config = training_config(candidate, TRAINING_STEPS)
    method, _ = build(config, phantom.dataset)
    # A stage that begins anew needs steps of its own, and so does each of several networks that take turns.
    steps = TRAINING_STEPS * (1 + len(method.stages())) // 2 * turns(candidate)
    config = training_config(candidate, steps)
    seen = [case.id for case in phantom.dataset.unlabelled()]
    unseen = [case.id for case in phantom.dataset.split("val")]
    before = [dice(method, config, phantom, cases) for cases in (seen, unseen)]
    with run_folder() as run:
        method.load_state_dict(trained(config, run)["method"])
        rows = read_log(run.log)
    supervised = [sum(float(v) for k, v in row.items() if k.startswith("loss/supervised") and v) for row in rows]
    first, last = np.mean(supervised[:3]), np.mean(supervised[-3:])
    assert first > 0, "no term's name begins with 'supervised'; name so what learns from labels"
    assert last < FALL * first, (
        f"the supervised loss only goes from {first:.3f} to {last:.3f} in {steps} steps; see that its gradient"
        " is not outweighed: a consistency's weight, a sign"
    )
    after = [dice(method, config, phantom, cases) for cases in (seen, unseen)]
    for kind, low, high in zip(("unlabelled training cases", "a case never seen"), before, after, strict=True):
        assert high > low + RISE, (
            f"Dice on {kind} only goes from {low:.3f} to {high:.3f} in {steps} steps; see that predict uses"
            " what was trained, and that pseudo-labels do not teach background"
        )


def turns(candidate: Candidate) -> int:
    """How many steps it takes until each optimiser has had one."""
    bench = candidate.bench()
    stepped = {name for name, _ in bench.method.steps(bench.batch(), bench.clock)}
    return round(len(bench.optimisers) / len(stepped))


def training_config(candidate: Candidate, steps: int) -> Config:
    """A run that suffices to learn the phantom, and takes seconds; as the candidate's `training` has it, if it does."""
    settings = dict(candidate.settings)
    if "average_decay" in candidate.kind.Settings.model_fields:
        settings.setdefault("average_decay", AVERAGE_DECAY)
    by = LEARNS_BY.get(candidate.named_network or "", {"learning_rate": 1e-2})
    usual = {"schedule": "constant", "foreground_share": 1.0, **by}
    return replace(candidate, settings=settings).config(
        batch=4,
        width=8,
        dropout=False,
        detail=detail(candidate),
        iterations=steps,
        checkpoint_every=steps,
        log_every=5,
        **{**usual, **candidate.training},
    )


def detail(candidate: Candidate) -> int:
    return DETAIL.get(candidate.named_network or "", 1)


def dice(method: Method, config: Config, phantom: TinyPhantom, cases: Iterable[str]) -> float:
    """Mean foreground Dice over cases whose label the phantom knows."""
    windows = make_windows(config.plan, config.inference, config.training.precision)
    method.eval()
    values = []
    for case in cases:
        volume = torch.from_numpy(np.array(phantom.truth.image(case)))
        prediction = method.predict_volume(volume, windows, "default").argmax(0).numpy()
        values.append(mean_dice(prediction, np.asarray(phantom.truth.label(case)), method.problem.classes))
    return float(np.nanmean(values))


def first_difference(one: Any, other: Any, name: str = "") -> str | None:
    """The name of the first entry in which two checkpoints differ, None where they are equal to the last bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return None if torch.equal(one, other) else name
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"the names of {name or 'its parts'}"
        parts = [(f"{name}.{key}".strip("."), one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"the length of {name}"
        parts = [(f"{name}.{i}", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else name
    return next((found for key, a, b in parts if (found := first_difference(a, b, key)) is not None), None)
