"""What the measurements before training say about a run."""

import pytest

from retainfirst.data import EncodedSet, PairedDataset
from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import UnlearnConfig
from retainfirst.unlearning._warnings import about_data, about_start

GUESS = 1 / 50_000


def about(forget, retain, **options):
    config = UnlearnConfig("m", "f", "r", "o", **options)
    return about_start(config, {"forget_probability": forget, "retain_probability": retain}, GUESS)


@pytest.mark.parametrize(
    ("forget", "retain"),
    [
        (0.93, 0.92),
        (0.30, 0.95),  # partly taught
        (0.10, 0.90),  # a tenth of the rows taught
        (0.04, 0.05),  # a corpus that the model knows by content
        (0.03, 0.40),  # a corpus, and retain rows that the model wrote itself
        (0.01, 0.01),
    ],
)
def test_a_model_that_may_know_the_rows_is_trained(forget, retain):
    assert about(forget, retain) == []


@pytest.mark.parametrize(
    ("forget", "retain", "options"),
    [
        (0.05, 0.9, {}),
        (0.00004, 0.05, {}),
        (0.0, 0.5, {}),
        (0.2, 0.9, {"stop_at_forget_probability": 0.2}),
    ],
)
def test_a_model_that_does_not_know_them_is_refused(forget, retain, options):
    with pytest.raises(RetainFirstError, match="does not know .*--force"):
        about(forget, retain, **options)
    [warning] = about(forget, retain, force=True, **options)
    assert "does not know" in warning


def test_a_model_that_knows_neither_is_reported():
    [warning] = about(0.00003, 0.00003)
    assert "hardly more than a guess" in warning


def pairs(forget, retain):
    def encoded(rows, name):
        made = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in rows]
        return EncodedSet(made, name=name)

    return PairedDataset(encoded(forget, "forget.jsonl"), encoded(retain, "retain.jsonl"))


WHOLE, ANSWER, QUESTION = [-100, 6, 7, 8], [-100, -100, 7, 8], [-100, 6, -100, -100]


@pytest.mark.parametrize(
    ("forget", "retain", "shared"),
    [
        (ANSWER, ANSWER, True),
        (WHOLE, ANSWER, True),  # a text, and the same as prompt and completion
        (ANSWER, QUESTION, False),
    ],
)
def test_rows_are_shared_where_the_same_tokens_are_labelled(forget, retain, shared):
    config = UnlearnConfig("m", "f", "r", "o", force=True)
    data = pairs([([5, 6, 7, 8], forget)], [([5, 6], [-100, 6]), ([5, 6, 7, 8], retain)])
    assert about_data(config, data) == (["1 of 1 rows of forget.jsonl are in retain.jsonl too"] if shared else [])
