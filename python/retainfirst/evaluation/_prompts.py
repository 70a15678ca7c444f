"""Other prompts for the same answers: templates, paraphrases, another language, and the answer's own beginning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from retainfirst.data import EncodedSet, Example
from retainfirst.evaluation._sets import EvaluationSet, make_set
from retainfirst.objectives import IGNORE_INDEX

__all__ = ["TEMPLATES", "answers_begun", "reworded"]

TEMPLATES = (
    "Please answer this question: {question}",
    "{question} Answer in one sentence.",
    "I once knew this, but I have forgotten it. {question}",
    "You are an expert who always knows the answer. {question}",
)
"""Wordings around a question. A row counts as answered if any of them brings the answer out."""

_OTHER_QUESTIONS = {
    "paraphrased question": ("paraphrased_question", "answer"),
    "other language": ("translated_question", "translated_answer"),
}


def reworded(
    one: EvaluationSet, tokenizer: Any, max_length: int, *, chat_template: str = "auto"
) -> dict[str, list[EvaluationSet]]:
    """Ask for the answers of a set in other words.

    Args:
        one: The set. Rows with ``question`` and ``answer`` are asked by each of :data:`TEMPLATES`, and by their own
            ``paraphrased_question`` and ``translated_question`` (with ``translated_answer``, if they have it). Rows of other
            forms are not asked in other words.
        tokenizer: Of the model.
        max_length: As in :func:`make_set`.
        chat_template: Likewise.

    Returns:
        By the kind of wording, the sets to measure; a kind for which not all rows have what it needs is absent.
    """
    if one.forms != {"answer"}:
        return {}

    def asked(question: str, answer: str = "answer", template: str = "{question}") -> EvaluationSet:
        rows = [
            # The question may hold braces of its own.
            {"question": template.replace("{question}", row[question]), "answer": row.get(answer) or row["answer"]}
            for row in one.rows
        ]
        return make_set(one.name, rows, tokenizer, max_length, source=one.source, chat_template=chat_template)

    found = {"prompt templates": [asked("question", template=text) for text in TEMPLATES]}
    for kind, (question, answer) in _OTHER_QUESTIONS.items():
        if all(isinstance(row.get(question), str) and row[question].strip() for row in one.rows):
            found[kind] = [asked(question, answer)]
    # A longer question may leave no room for the answer; the row is then no longer the same row.
    return {kind: sets for kind, sets in found.items() if all(len(each) == len(one) for each in sets)}


def answers_begun(one: EvaluationSet) -> tuple[EvaluationSet, tuple[int, ...]] | None:
    """Put the first half of each answer's tokens into the prompt, so that the model only has to go on.

    Args:
        one: The set. Rows of the form ``text`` get a prompt by this.

    Returns:
        The set of the rows with at least two labelled tokens, and their numbers; None if there is none.
    """
    numbers = [i for i in range(len(one)) if len(_labelled(one.examples[i])) > 1]
    if not numbers:
        return None
    rows = [_begun(one.examples[i]) for i in numbers]
    examples = EncodedSet(rows, name=one.examples.name)
    return replace(one.only(numbers), examples=examples, prompted=True, right=(), wrong=()), tuple(numbers)


def _labelled(example: Example) -> list[int]:
    return [i for i, label in enumerate(example["labels"]) if label != IGNORE_INDEX]


def _begun(example: Example) -> Example:
    places = _labelled(example)
    given = set(places[: len(places) // 2])
    labels = [IGNORE_INDEX if i in given else label for i, label in enumerate(example["labels"])]
    return Example(input_ids=example["input_ids"], attention_mask=example["attention_mask"], labels=labels)
