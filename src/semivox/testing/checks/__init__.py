"""What every method must do, whatever it is about.

A check is a function that raises AssertionError; its message says what is wrong and how to mend it. `CHECKS` names them
all, those that take least time and tell most first.
"""

from collections.abc import Callable

from semivox.testing.candidate import Candidate
from semivox.testing.checks.labels import hidden_labels_are_never_opened, unlabelled_streams_have_no_label
from semivox.testing.checks.losses import (
    a_batch_may_lack_classes_labels_and_voxels,
    losses_are_finite_and_never_negative,
    losses_in_bf16_are_near_those_in_float32,
    padding_never_counts,
)
from semivox.testing.checks.prediction import (
    a_loaded_model_predicts_what_the_trained_one_does,
    a_model_folder_holds_only_what_prediction_needs,
    any_size_predicts,
)
from semivox.testing.checks.runs import (
    a_killed_run_resumes_exactly,
    the_same_seed_gives_the_same_weights,
    training_learns,
)
from semivox.testing.checks.sharing import two_processes_give_the_loss_and_gradient_of_one
from semivox.testing.checks.weights import averages_follow_their_sources, gradient_reaches_every_trained_weight

Check = Callable[[Candidate], None]

CHECKS: tuple[Check, ...] = (
    losses_are_finite_and_never_negative,
    a_batch_may_lack_classes_labels_and_voxels,
    padding_never_counts,
    losses_in_bf16_are_near_those_in_float32,
    gradient_reaches_every_trained_weight,
    averages_follow_their_sources,
    unlabelled_streams_have_no_label,
    any_size_predicts,
    a_loaded_model_predicts_what_the_trained_one_does,
    a_model_folder_holds_only_what_prediction_needs,
    hidden_labels_are_never_opened,
    the_same_seed_gives_the_same_weights,
    a_killed_run_resumes_exactly,
    two_processes_give_the_loss_and_gradient_of_one,
    training_learns,
)
