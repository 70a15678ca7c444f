"""The test bed of a cell: a model that knows facts, and the sets to forget and to retain."""

from __future__ import annotations

from typing import Any, Protocol

from retainfirst.data import EncodedSet

__all__ = ["MEASURES", "Testbed"]

MEASURES = ("forget", "forget_paraphrased", "covered", "held_out", "unrelated")
"""Names of accuracies over multiple-choice questions.

- ``forget``: the prompts of the forget batches.
- ``forget_paraphrased``: the same facts in other words.
- ``covered``: facts of the retain batches.
- ``held_out``: facts of the same kind that the model was taught and that are in neither set.
- ``unrelated``: facts that share no words with the facts to forget.
"""


class Testbed(Protocol):
    """A model and its facts.

    Attributes:
        forget: Rows to forget.
        retain: Rows to retain.
        relearn: A few of the forget rows, on which the relearning trains.
        pad_token_id: For padding batches.
    """

    forget: EncodedSet
    retain: EncodedSet
    relearn: EncodedSet
    pad_token_id: int

    def model(self) -> Any:
        """Return a new copy of the target model, in evaluation mode."""

    def accuracies(self, model: Any) -> dict[str, float]:
        """Return accuracies by name: those of :data:`MEASURES` that this test bed has."""

    def remaining(self, model: Any) -> float:
        """Return the accuracy on the forget facts that are not in ``relearn``."""

    def judge(self, model: Any) -> dict[str, float]:
        """Return accuracies by name, computed by lm-eval."""

    def judged_target(self) -> dict[str, float]:
        """Return :meth:`judge` of the target model."""
