"""The mean probability of labelled answers."""

import pytest
import torch

from retainfirst.data import EncodedSet, PairedDataset, encode_rows
from retainfirst.evaluation import AnswerProbability, answer_probability


@pytest.fixture
def rows(tokenizer) -> EncodedSet:
    texts = [("a then", " b"), ("the", " then the one"), ("one two", " three four five"), ("x", " y z")]
    return encode_rows([{"prompt": p, "completion": c} for p, c in texts], tokenizer, 64)


def one_by_one(model, rows):
    found = []
    for i in range(len(rows)):
        ids, labels = (torch.tensor([rows[i][name]]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            logs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        scored = labels[0, 1:] != -100
        found.append(logs[scored].gather(1, labels[0, 1:][scored][:, None]).mean().exp().item())
    return found


def test_it_is_the_mean_over_rows_of_the_geometric_mean_over_tokens(llama, rows, tokenizer):
    expected = one_by_one(llama, rows)
    for batch_size in (1, 3, 16):
        found = answer_probability(llama, rows, tokenizer.pad_token_id, batch_size=batch_size)
        assert found == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    first = answer_probability(llama, rows, tokenizer.pad_token_id, rows=2)
    assert first == pytest.approx(sum(expected[:2]) / 2, rel=1e-5)


def test_the_training_mode_is_restored(llama, rows, tokenizer):
    llama.train()
    answer_probability(llama, rows, tokenizer.pad_token_id)
    assert llama.training


def test_both_sets_of_a_run(llama, rows, tokenizer):
    other = encode_rows([{"prompt": "on", "completion": " the"}], tokenizer, 64)
    measure = AnswerProbability(PairedDataset(rows, other), tokenizer.pad_token_id, rows=100, batch_size=2)
    assert measure.name == "probability"
    assert measure.forget(llama) == pytest.approx(answer_probability(llama, rows, 0, batch_size=4))
    assert measure.retain(llama) == pytest.approx(one_by_one(llama, other)[0], rel=1e-5)
