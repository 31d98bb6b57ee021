"""What holds for the terms of a step."""

import torch

from semivox.methods.method import Terms
from semivox.testing.altered import (
    change_images,
    forget_labels,
    pad_all,
    pad_unlabelled,
    remove_class,
    remove_foreground,
)
from semivox.testing.candidate import Candidate

NEGATIVE = -1e-6
"""Below this a term is negative, and not rounded."""
ALTERATIONS = {
    "without class 1": remove_class,
    "without foreground": remove_foreground,
    "without any known label": forget_labels,
    "without an unlabelled voxel": pad_unlabelled,
    "of padding alone": pad_all,
}
MEND = "divide by counts that may be 0 with losses.reduction.batch_mean, take logarithms with log_softmax"


def losses_are_finite_and_never_negative(candidate: Candidate) -> None:
    """Every term is named, scalar, finite and at least 0, of a fresh network and of one that is sure of itself.

    A term's best value is 0, so that a log tells how much of it is left.
    """
    for bench in candidate.benches():
        batch = bench.batch()
        for terms in (bench.losses(batch), bench.decide().losses(batch)):
            assert terms, f"{bench.place}: a step gives no terms; return a dictionary of name → scalar tensor"
            for name, term in terms.items():
                assert term.ndim == 0, f"{bench.place}: term '{name}' has the shape {list(term.shape)}; take its mean"
                assert term.isfinite(), f"{bench.place}: term '{name}' is {term.item()}; {MEND}"
                assert term >= NEGATIVE, (
                    f"{bench.place}: term '{name}' is {term.item():.4g}; write it so that 0 is its best value"
                )


def a_batch_may_lack_classes_labels_and_voxels(candidate: Candidate) -> None:
    """Loss and gradient stay finite where a batch has no voxel of a class, no foreground, no known label or only
    padding; what is a mean over nothing is 0.

    With few labels such batches are common, and one NaN spoils all weights.
    """
    for bench in candidate.benches():
        bench.decide()
        for name, alter in ALTERATIONS.items():
            batch = bench.batch()
            alter(batch)
            for term, value in bench.losses(batch).items():
                assert value.isfinite(), f"{bench.place}, a batch {name}: term '{term}' is {value.item()}; {MEND}"
            for weight, gradient in bench.gradients(batch).items():
                assert gradient.isfinite().all(), (
                    f"{bench.place}, a batch {name}: the gradient of {weight} is not finite though the terms are;"
                    " keep roots, powers and logarithms away from 0"
                )


def padding_never_counts(candidate: Candidate) -> None:
    """In a batch of padding alone (`valid` False, labels IGNORE) no term depends on the images.

    Partial padding cannot be tried from outside: what a network sees there reaches its neighbours.
    """
    for bench in candidate.benches():
        bench.decide()
        batch = bench.batch()
        pad_all(batch)
        before = bench.losses(batch)
        change_images(batch)
        after = bench.losses(batch)
        for name, value in before.items():
            assert torch.isclose(after[name], value, rtol=1e-4, atol=1e-6, equal_nan=True), (
                f"{bench.place}: term '{name}' goes from {value.item():.4g} to {after[name].item():.4g} with an image"
                " that is all padding; weigh its voxels with `stream.valid`"
            )


def losses_in_bf16_are_near_those_in_float32(candidate: Candidate) -> None:
    """Under autocast to bfloat16 each term is within 5 % of its value in float32.

    A softmax, logarithm or sum over many voxels that is taken in half precision is further off.
    """
    for bench in candidate.benches():
        batch = bench.batch()
        full = bench.losses(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half: Terms = bench.losses(batch)
        for name, value in full.items():
            assert torch.isclose(half[name].float(), value, rtol=0.05, atol=2e-3), (
                f"{bench.place}: term '{name}' is {half[name].item():.4g} in bfloat16, {value.item():.4g} in float32;"
                " compute losses on losses.reduction.full_precision(logits)"
            )
