"""What holds for labels that a method must not see."""

from dataclasses import replace

from semivox.errors import first_line
from semivox.testing.candidate import Candidate, run_folder, trained


def unlabelled_streams_have_no_label(candidate: Candidate) -> None:
    """The unlabelled stream has only cases whose label is hidden, and no label."""
    for bench in candidate.benches():
        batch = bench.batch()
        if batch.unlabelled is not None:
            hidden = {case.id for case in bench.dataset.unlabelled()}
            assert batch.unlabelled.label is None, f"{bench.place}: the unlabelled stream has labels"
            assert set(batch.unlabelled.case) <= hidden, f"{bench.place}: the unlabelled stream has labelled cases"


def hidden_labels_are_never_opened(candidate: Candidate) -> None:
    """A run through all stages works where the label files of unlabelled and test cases hold rubbish.

    All runs of the tester are on such data; this is the shortest.
    """
    try:
        _ = candidate.short_run
    except Exception as error:
        known = replace(candidate.phantom, hides=False)
        with run_folder() as run:
            trained(candidate.short_config(phantom=known), run)
        raise AssertionError(
            "a run fails only where the files of hidden labels hold rubbish"
            f" ({type(error).__name__}: {first_line(error)}); take labels from batch.labelled alone, and pseudo-labels"
            " from batch.unlabelled.pseudo"
        ) from error
