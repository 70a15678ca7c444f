"""Each metric against a computation of its own, row by row, and at the ends of its range."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from retainfirst import evaluation as ev
from retainfirst.data import encode_rows
from retainfirst.errors import RetainFirstError

QUESTIONS = [{"question": f"who is {i}", "answer": "the one then no"[: 6 + 3 * i]} for i in range(4)]


@pytest.fixture
def rows(tokenizer):
    return encode_rows(QUESTIONS, tokenizer, 128)


def one_by_one(model, example):
    """Log-probabilities and whether the model would choose the token, for the labelled tokens of a row without padding."""
    ids = torch.tensor([example["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    places = [i for i, label in enumerate(example["labels"]) if label != -100]
    logs = [float(logits[i - 1].double().log_softmax(-1)[ids[0, i]]) for i in places]
    return logs, [int(logits[i - 1].argmax()) == int(ids[0, i]) for i in places]


def scored(*greedy, log_probs=None):
    logs = torch.tensor(log_probs or [-1.0] * len(greedy), dtype=torch.float64)
    return ev.AnswerScores(logs, torch.tensor(greedy, dtype=torch.bool))


def said(text, reference="", tokens=(1,)):
    return ev.Answer("", reference, text, tokens)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_are_those_of_each_row_alone(llama, rows, tokenizer, batch_size):
    seen = []
    found = ev.score_answers(llama, rows, 0, batch_size=batch_size, advance=seen.append)
    assert sum(seen) == len(rows)
    for i, one in enumerate(found):
        logs, greedy = one_by_one(llama, rows[i])
        assert one.log_probs.tolist() == pytest.approx(logs, rel=1e-4)
        assert one.greedy.tolist() == greedy


def test_metrics_of_teacher_forcing(llama, rows):
    scores = ev.score_answers(llama, rows, 0)
    alone = [one_by_one(llama, rows[i])[0] for i in range(len(rows))]
    means = [sum(logs) / len(logs) for logs in alone]
    assert ev.probability(scores) == pytest.approx([math.exp(mean) for mean in means], rel=1e-4)
    assert ev.row_losses(scores) == pytest.approx([-mean for mean in means], rel=1e-4)
    every = [log for logs in alone for log in logs]
    assert ev.perplexity(scores) == pytest.approx(math.exp(-sum(every) / len(every)), rel=1e-4)
    least = [sorted(logs[:-1])[: max(1, int((len(logs) - 1) * 0.5))] for logs in alone]
    assert ev.min_k_scores(scores, 0.5) == pytest.approx([-sum(one) / len(one) for one in least], rel=1e-4)


@pytest.mark.parametrize(
    ("greedy", "exact", "extracted"),
    [
        ((1, 1, 1, 1, 0), 1.0, 1.0),  # the end token does not count
        ((0, 1, 1, 1, 1), 0.75, 0.75),
        ((1, 1, 0, 1, 1), 0.75, 0.25),
        ((1, 1, 1, 0, 1), 0.75, 0.25),  # nothing can be extracted, and the framework's loop ends at the last token
        ((0, 0, 0, 0, 1), 0.0, 0.25),
        ((1,), math.nan, 0.0),
    ],
)
def test_memorisation_by_hand(greedy, exact, extracted):
    scores = [scored(*map(bool, greedy))]
    assert ev.exact_memorization(scores) == pytest.approx([exact], nan_ok=True)
    assert ev.extraction_strength(scores) == pytest.approx([extracted])


def test_the_perplexity_of_a_broken_model_is_infinite():
    assert ev.perplexity([scored(False, log_probs=[-1e4])]) == math.inf


def test_membership():
    forget, held_out = [0.1, 0.5, 0.5, 2.0], [0.5, 1.0, 3.0]
    expected = roc_auc_score([0] * 4 + [1] * 3, forget + held_out)
    assert ev.membership_auc(forget, held_out) == pytest.approx(expected)
    assert ev.membership_auc([0.0], [1.0]) == 1.0
    assert ev.membership_auc([1.0, 1.0], [1.0]) == 0.5
    assert ev.min_k_scores([scored(True)]) == [0.0]
    with pytest.raises(RetainFirstError, match=r"k must be above 0 and at most 1, found 0\."):
        ev.min_k_scores([], 0.0)


def test_truth_ratio():
    (even, sure) = ev.truth_ratio([1.0, 0.0], [[1.0, 1.0], [3.0, 5.0]])
    assert even == pytest.approx(1.0)
    assert sure == pytest.approx(math.exp(-4))
    assert ev.forget_truth_ratio([1.0, 4.0, 0.25]) == pytest.approx([1, 0.25, 0.25])
    assert ev.retain_truth_ratio([1.0, 4.0, 0.25]) == pytest.approx([0, 0, 0.75])


def test_what_answers_hold():
    answers = [
        said("It is PARIS, of course.", "Paris."),
        said("Parisians", "Paris."),
        said("", "Paris"),
        said("the first of May", "May the first"),
    ]
    assert ev.matches(answers) == [1, 0, 0, 0]
    assert ev.rouge_l_recall(answers) == pytest.approx([1, 0, 0, 2 / 3])
    assert ev.distinct_share(answers) == 1
    assert ev.distinct_share([said("Yes."), said("yes"), said("no")]) == pytest.approx(2 / 3)
    assert ev.repetition([said("a b c d e f"), said("go on go on go on go"), said("no")]) == pytest.approx([0, 0.6, 0])
    assert ev.matches([said("it is ?", "?"), said("no", "!")]) == [1, 0]


def test_answers_are_the_models_own_greedy_ones(llama, rows, tokenizer):
    expected = []
    for i in range(len(rows)):
        ids = [token for token, label in zip(rows[i]["input_ids"], rows[i]["labels"], strict=True) if label == -100]
        new = []
        while len(new) < 7 and (not new or new[-1] != tokenizer.eos_token_id):
            with torch.no_grad():
                new.append(int(llama(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    for batch_size in (1, 3):
        found = ev.generate_answers(llama, tokenizer, rows, max_new_tokens=7, batch_size=batch_size)
        assert [one.text for one in found] == expected
    assert [one.reference for one in found] == [row["answer"].strip() for row in QUESTIONS]
    assert [one.prompt for one in found] == [f"Question: who is {i}\nAnswer:" for i in range(4)]


def test_implausibility_is_what_the_judge_gives(llama, rows, tokenizer):
    tokens = tuple(tokenizer("no the", add_special_tokens=False)["input_ids"])
    answers = [said("no the", tokens=tokens), *(said("", tokens=()) for _ in range(3))]
    found = ev.implausibility(llama, [rows[i] for i in range(4)], answers, 0)
    prompt = [token for token, label in zip(rows[0]["input_ids"], rows[0]["labels"], strict=True) if label == -100]
    whole = {"input_ids": [*prompt, *tokens], "labels": [-100] * len(prompt) + list(tokens)}
    logs, _ = one_by_one(llama, whole)
    assert found[0] == pytest.approx(-sum(logs) / len(logs), rel=1e-4)
    assert all(map(math.isnan, found[1:]))


def test_a_prompt_that_fills_the_positions_is_refused(tokenizer, rows, monkeypatch):
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=110, n_positions=20, n_embd=8, n_layer=1, n_head=1, bos_token_id=2, eos_token_id=1
        )
    )
    with pytest.raises(RetainFirstError, match="the model has 20 positions: none is left for an answer"):
        ev.generate_answers(model, tokenizer, rows)


def test_the_training_mode_is_restored(llama, rows, tokenizer):
    llama.train()
    ev.score_answers(llama, rows, 0)
    ev.generate_answers(llama, tokenizer, rows, max_new_tokens=2)
    assert llama.training
