"""What a method is given to prepare a stage: predictions of whole unlabelled scans, and a place for pseudo-labels."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from semivox.data.case import Case
from semivox.inference.augmentation import Predictor

Labeller = Callable[[Case], tuple[Tensor | np.ndarray, float | None]]
"""A case → its pseudo-label (X, Y, Z), class indices on the prepared grid, `IGNORE` where none; and the reliability of
that label, or None where nobody asks for it."""


class PseudoLabels(Protocol):
    """The pseudo-labels of one stage, by case id."""

    @property
    def kept(self) -> Collection[str]:
        """The cases of which the stage's unlabelled stream is made: all that have a label, unless `keep` chose."""

    def keep(self, case_ids: Collection[str]) -> None:
        """Makes the unlabelled stream of these cases only."""

    def read(self, case_id: str) -> np.ndarray:
        """The label (X, Y, Z), uint8, on the prepared grid, read-only."""

    def reliability(self, case_id: str) -> float | None:
        """What was stored along with the label."""


class StageTools(Protocol):
    """For `Method.prepare_stage`. Every process calls the same functions in the same order."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """The unlabelled training cases."""

    @property
    def labels(self) -> PseudoLabels:
        """The pseudo-labels of this stage; a stage with `pseudo` trains on them."""

    def labels_of(self, stage: str) -> PseudoLabels:
        """Those of an earlier stage."""

    def predict(self, case: Case, function: Predictor) -> Tensor:
        """Class probabilities (K, X, Y, Z) of a prepared scan: `function` (patches → probabilities, as
        `Method.predict`), in the windows in which the run predicts."""

    def label(self, cases: Sequence[Case], function: Labeller) -> None:
        """Stores `function` of each case as its pseudo-label of this stage.

        Processes share the work, and all of it is done when the call returns. After an interruption only what is
        missing is made. Whatever `function` draws from torch's generators depends on the case alone.
        """
