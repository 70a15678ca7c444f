"""What a cell needs of the model and the facts it is run on, whichever they are."""

from __future__ import annotations

from typing import Any, Protocol

from retainfirst.data import EncodedSet

__all__ = ["MEASURES", "Bench"]

MEASURES = ("forget", "forget_paraphrased", "covered", "held_out", "unrelated")
"""Accuracies over multiple-choice questions. ``forget``: on the prompts that are trained on; ``forget_paraphrased``: the same
facts, asked in other words; ``covered``: facts in the retain batches; ``held_out``: facts of the same kind that the model was
taught and that are in neither set; ``unrelated``: facts that share nothing with those to forget."""


class Bench(Protocol):
    """A model that knows facts, with the sets to forget and to retain.

    Attributes:
        forget: Rows to forget.
        retain: Rows to retain.
        relearn: A few forget rows, for the relearning.
        pad_token_id: What to pad with.
    """

    forget: EncodedSet
    retain: EncodedSet
    relearn: EncodedSet
    pad_token_id: int

    def model(self) -> Any:
        """Return the target model, fresh at every call, in evaluation mode."""

    def accuracies(self, model: Any) -> dict[str, float]:
        """Return accuracies by the names of :data:`MEASURES`, those that this bench has."""

    def remaining(self, model: Any) -> float:
        """Return the accuracy on the forget facts that the relearning does not show."""

    def judge(self, model: Any) -> dict[str, float]:
        """Return accuracies as lm-eval finds them, by measure."""

    def judged_target(self) -> dict[str, float]:
        """Return the same of the target model."""
