import pytest

from retainfirst_lab.reproduce import agreement


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, "None of the paper's claims could be judged in this run."),
        ({"agrees": 1}, "The paper's claims in this run: 1 claim agrees."),
        (
            {"agrees (one seed)": 2, "does not agree (one seed)": 1, "no difference seen": 3},
            "The paper's claims in this run: 2 claims agree (one seed), 1 claim does not agree (one seed),"
            " 3 claims show no difference.",
        ),
    ],
)
def test_claims_are_counted_in_words(monkeypatch, counts, sentence):
    monkeypatch.setattr(agreement, "verdicts", lambda results: counts)
    assert agreement.verdict_sentence({}) == sentence
