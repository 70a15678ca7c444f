"""The sets of rows of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retainfirst.data import EncodedSet, encode_rows, row_form
from retainfirst.errors import RetainFirstError

__all__ = ["SETS", "EvaluationSet", "check_disjoint", "make_set"]

SETS = ("forget", "retain", "held_out", "paraphrased")
"""The sets of an evaluation, in their order."""

WRONG, REWORDED = "perturbed_answer", "paraphrased_answer"
"""Keys of TOFU's rows: wrong answers, and another wording of the right one."""


@dataclass(frozen=True)
class EvaluationSet:
    """Rows with everything that the metrics need of them.

    Attributes:
        name: One of :data:`SETS`.
        source: Where the rows came from, for messages.
        rows: The rows as they were read, without those that the encoding dropped.
        examples: The tokenised rows.
        prompted: Whether each row has a prompt to answer; rows of the form ``text`` have none.
        forms: The forms of the rows.
        right: The rows with the reworded right answer where they have one; empty if they have no wrong answers.
        wrong: For each row its wrong answers, tokenised; empty likewise.
    """

    name: str
    source: str
    rows: Sequence[Mapping[str, Any]]
    examples: EncodedSet
    prompted: bool
    forms: frozenset[str]
    right: Sequence[Any] = ()
    wrong: Sequence[Sequence[Any]] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def only(self, numbers: Sequence[int]) -> EvaluationSet:
        """Return the set with these rows alone."""
        return replace(
            self,
            rows=[self.rows[i] for i in numbers],
            examples=EncodedSet([self.examples[i] for i in numbers], name=self.examples.name),
            right=[self.right[i] for i in numbers] if self.right else (),
            wrong=[self.wrong[i] for i in numbers] if self.wrong else (),
        )


def make_set(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    max_length: int,
    *,
    source: str | None = None,
    limit: int | None = None,
    chat_template: str = "auto",
    model: Any = None,
) -> EvaluationSet:
    """Tokenise the rows of a set.

    Args:
        name: One of :data:`SETS`.
        rows: At least one row, in one of the four forms of :mod:`retainfirst.data`. Rows with ``question`` may have
            ``perturbed_answer`` (a wrong answer, or a list) and ``paraphrased_answer``, as TOFU's have.
        tokenizer: A tokenizer of transformers.
        max_length: Rows are cut at so many tokens.
        source: Where the rows came from; None: the name.
        limit: Take the first rows only.
        chat_template: As in :func:`retainfirst.data.encode_rows`.
        model: The model or its config, to refuse rows that are longer than its positions.

    Raises:
        RetainFirstError: A row is not valid, no row is left, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise RetainFirstError(f"limit must be at least 1, found {limit}.")
    taken = list(rows)[:limit]
    place = source or name

    def encoded(some: Sequence[Mapping[str, Any]]) -> EncodedSet:
        return encode_rows(some, tokenizer, max_length, chat_template=chat_template, name=place, model=model)

    examples = encoded(taken)
    kept = [taken[i] for i in examples.kept]
    for number, row in zip(examples.kept, kept, strict=True):
        _check_wrong(row, getattr(row, "place", f"{place}, row {number + 1}"))
    forms = frozenset(row_form(row, place) for row in kept)
    made = EvaluationSet(name, place, kept, examples, "text" not in forms, forms)
    if forms != {"answer"} or not all(row.get(WRONG) for row in kept):
        return made
    right = encoded([{**_question(row), "answer": row.get(REWORDED) or row["answer"]} for row in kept])
    wrong = [encoded([{**_question(row), "answer": one} for one in _listed(row[WRONG])]) for row in kept]
    return replace(made, right=_rows(right), wrong=[_rows(one) for one in wrong])


def check_disjoint(forget: EvaluationSet, others: EncodedSet, so: str) -> None:
    """Refuse a set that is to have nothing of the forget set and has.

    Args:
        forget: The forget set.
        others: The tokenised rows of the other set.
        so: What that means, for the error text.

    Raises:
        RetainFirstError: A row is a forget row; the text says how many are.
    """
    known = {tuple(forget.examples[i]["input_ids"]) for i in range(len(forget))}
    same = sum(tuple(others[i]["input_ids"]) in known for i in range(len(others)))
    if same:
        raise RetainFirstError(
            f"{others.name}: {same} of {len(others)} rows are forget rows, so that {so}. Leave them out."
        )


def _check_wrong(row: Mapping[str, Any], place: str) -> None:
    """Refuse wrong and reworded answers that are no texts; the errors of the encoding would name another key."""
    value = row.get(WRONG)
    listed = value if isinstance(value, list) else [value]
    texts = {WRONG: listed if value else [], REWORDED: [row[REWORDED]] if row.get(REWORDED) else []}
    for key, values in texts.items():
        if not all(isinstance(text, str) and text.strip() for text in values):
            kind = "a text or a list of texts" if key == WRONG else "a text"
            raise RetainFirstError(f"{place}: {key!r} must be {kind}, none of them empty; found {row[key]!r}.")


def _question(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": row["question"]}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _rows(examples: EncodedSet) -> list[Any]:
    return [examples[i] for i in range(len(examples))]
