"""What the repairs of Aggregating & Decoupling do, each by itself and several together, on development cases.

    python -m benchmarks.repairs ../shared/data runs/repairs

Domain adaptation from cine to late-enhancement scans (protocol acdc_to_mscmr_cpu) with batch norm, as published: the
repair that concerns its statistics has no meaning without it. Test cases take no part: scores are on the target's five
validation scans, which choose nothing along the run. Finished runs are kept. Writes docs/repairs.md.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.cells import ROOT, Cell, is_done, train_all
from semivox.atomic import atomic_write_text
from semivox.training.log import read_log

PAGE = ROOT / "docs" / "repairs.md"
REMARKS = ROOT / "benchmarks" / "remarks" / "repairs.md"
"""What follows from the figures, in words."""
PROTOCOL = "acdc_to_mscmr_cpu"
TARGET = "MSCMR2019-LGE"


@dataclass(frozen=True)
class Variant:
    """One row: what it changes of the published method, and why one would."""

    name: str
    settings: tuple[str, ...]
    reason: str


VARIANTS = (
    Variant("published", (), "as the authors' code has it"),
    Variant("statistics-apart", ("sampling_mode=train_apart",), "running statistics of batch norm see no noisy map"),
    Variant("sampling-eval", ("sampling_mode=eval",), "samples without dropout, with running statistics"),
    Variant("softmax-estimate", ("clean_estimate=softmax",), "estimates on the simplex, not clamped logits"),
    Variant("logit-scale", ("logit_scale=5",), "a sampled class is sure enough to outvote ψ"),
    Variant("temperature", ("temperature=0.2",), "the same by the temperature, which divides the noise too"),
    Variant("no-noise", ("gumbel_noise=false",), "the sampled map as it is"),
    Variant("normalised-weights", ("normalise_weights=true",), "difficulty weights bounded by the number of classes"),
    Variant(
        "all",
        ("sampling_mode=train_apart", "clean_estimate=softmax", "logit_scale=5", "normalise_weights=true"),
        "the repairs that the authors' formulas leave room for",
    ),
    Variant("no-mixing", ("mixing_decay=1",), "no repair: is it the mixing of decoders that costs in so few steps?"),
    Variant("small-weight", ("unlabelled_weight=1",), "no repair: is it the weight of the pseudo-labels?"),
)


def arguments(variant: Variant, data: Path, seed: int) -> tuple[str, ...]:
    """What `semivox train` is given but for the run folder."""
    return (
        *(str(data / "acdc"), str(data / "mscmr"), "--protocol", PROTOCOL, "--development"),
        *("--method", "aggregating_decoupling", "--seed", str(seed)),
        *("-s", "plan.network.settings.norm=batch", *variant.settings),
    )


def run_folder(out: Path, variant: Variant, seed: int) -> Path:
    return out / f"{variant.name}-seed{seed}"


def target_dice(run: Path) -> float:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics["domains"][TARGET]["mean"]["dice"]["mean"]


def last_of(run: Path, figure: str) -> float:
    """A figure of the log, the mean over its last tenth."""
    values = [float(row[figure]) for row in read_log(run / "log.csv") if row.get(figure)]
    return mean(values[-max(1, len(values) // 10) :])


def table(out: Path, seeds: range) -> list[str]:
    several = ("mean",) if len(seeds) > 1 else ()
    heads = ("variant", "why", *(f"Dice, seed {seed}" for seed in seeds), *several, "pseudo-labels that ψ alone gives")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for variant in VARIANTS:
        runs = [run_folder(out, variant, seed) for seed in seeds]
        if not all(map(is_done, runs)):
            continue
        dice = [target_dice(run) for run in runs]
        agreement = mean(last_of(run, "fusion/psi_agreement") for run in runs)
        settings = " ".join(f"`{setting}`" for setting in variant.settings) or variant.name
        scores = " | ".join(f"{value:.3f}" for value in (*dice, *(mean(dice) for _ in several)))
        lines.append(f"| {settings} | {variant.reason} | {scores} | {agreement:.0%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each on one thread")
    parser.add_argument("--page-only", action="store_true")
    chosen = parser.parse_args()
    seeds = range(chosen.seeds)
    if not chosen.page_only:
        data, out = chosen.data.resolve(), chosen.out.resolve()
        train_all(
            (
                Cell(run_folder(out, variant, seed), arguments(variant, data, seed))
                for seed in seeds
                for variant in VARIANTS
            ),
            chosen.jobs,
        )
    published = VARIANTS[0]
    example = " ".join(arguments(published, Path("DATA"), seeds[0]))
    lines = [
        "# Repairs of Aggregating & Decoupling",
        "",
        f"`semivox train {example}`, and with each row's settings: Dice on the target's validation scans."
        " Written by `python -m benchmarks.repairs DATA RUNS`; not typed.",
        "",
        *table(chosen.out, seeds),
        "",
        REMARKS.read_text(encoding="utf-8").rstrip() if REMARKS.exists() else "",
        "",
    ]
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
