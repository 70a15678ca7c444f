"""What the measurements before training say about a run."""

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import UnlearnConfig
from retainfirst.unlearning._warnings import about_start

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
