"""Padded batches of rows that we made or that others made, with their further model inputs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import tiny
from retainfirst import data, objectives
from retainfirst.errors import RetainFirstError


def examples(*texts):
    """Encoded rows that say which they are: the first token's id is the position."""
    return [
        {"input_ids": [i, *range(n)], "attention_mask": [1] * (n + 1), "labels": [-100, *range(n)]} for i, n in texts
    ]


def test_collate_pads_on_the_right():
    batch = data.collate(examples((5, 1), (6, 3)), pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 0, 9, 9], [6, 0, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 0, -100, -100], [-100, 0, 1, 2]]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_a_real_token_that_equals_the_pad_token_is_attended_to(tokenizer_without_pad):
    data.set_pad_token(tokenizer_without_pad, "<eos>")
    pad = data.pad_token_id(tokenizer_without_pad)
    rows = data.encode_rows(
        [{"question": "a", "answer": "b"}, {"question": "a", "answer": "bc"}], tokenizer_without_pad, 99
    )
    batch = data.collate(list(rows), pad)
    ends = batch["attention_mask"].sum(-1) - 1
    assert batch["input_ids"][[0, 1], ends].tolist() == [pad, pad]
    assert batch["labels"][[0, 1], ends].tolist() == [pad, pad]


FORMATS = {
    "tensors": torch.tensor,
    "narrow types": lambda value: np.array(value, dtype=np.int32 if isinstance(value, list) else np.float32),
    "arrays": np.array,
    "tuples": lambda value: tuple(value) if isinstance(value, list) else value,
    "numpy scalars": lambda value: [np.int64(v) for v in value] if isinstance(value, list) else np.float64(value),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_every_format(kind):
    plain = [{**row, "reference_logps": -float(i)} for i, row in enumerate(examples((5, 1), (6, 3)))]
    rows = [{key: FORMATS[kind](value) for key, value in row.items()} for row in plain]
    expected, found = data.collate(plain, 9), data.collate(rows, 9)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
    pair = data.PairedCollator(9)([{"forget": row, "retain": row} for row in rows])
    assert torch.equal(pair["forget"]["labels"], expected["labels"])


@pytest.mark.parametrize("form", ["torch", "numpy", None])
def test_data_sets_of_the_hub_library(form, llama, tokenizer):
    """Raw rows and ready-made rows, with and without a format, with columns that are no model inputs."""
    datasets = pytest.importorskip("datasets")
    raw = [
        {
            "messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": a}],
            "id": i,
            "tags": ["x"] * i,
        }
        for i, a in enumerate(("ann", "bob and ann"))
    ]
    encoded = data.encode_rows(raw, tokenizer, 99)
    formatted = datasets.Dataset.from_list(raw).with_format(form)
    assert list(data.encode_rows(formatted, tokenizer, 99)) == list(encoded)

    ready = datasets.Dataset.from_list([{**row, **example} for row, example in zip(raw, encoded, strict=True)])
    ready = data.EncodedSet(ready.with_format(form), name="ready")
    for batch in DataLoader(ready, batch_size=2, collate_fn=data.PairedCollator(0)):
        assert torch.equal(batch["labels"], data.collate(list(encoded), 0)["labels"])
        assert objectives.answer_probabilities(llama, batch).isfinite().all()
    pairs = data.PairedDataset(ready, encoded)
    [pair] = DataLoader(pairs, batch_size=2, collate_fn=data.PairedCollator(0))
    ready.set_reference_log_probs(objectives.reference_log_probs(llama, [pair["forget"]]))
    [pair] = DataLoader(pairs, batch_size=2, collate_fn=data.PairedCollator(0))
    assert pair["forget"]["reference_logps"].shape == (2,)


def test_further_inputs_are_padded_or_stacked(caplog):
    rows = [
        {**row, "position_ids": list(range(2, n + 3)), "token_type_ids": [1] * (n + 1), "weights": [0.5] * (n + 1),
         "offset_mapping": [[j, j + 1] for j in range(n + 1)], "index": i, "image": np.ones((2, 3)), "text": "cat",
         "ragged": [1] * (i + 7), "words": ["a"], "nested": {"a": 1}, "none": None}
        for i, (n, row) in enumerate(zip((1, 3), examples((5, 1), (6, 3)), strict=True))
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="retainfirst"):
        batch = data.collate(rows, 9)
    assert batch["position_ids"].tolist() == [[2, 3, 0, 0], [2, 3, 4, 5]]
    assert batch["token_type_ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["weights"].dtype == torch.float32
    assert batch["offset_mapping"].shape == (2, 4, 2)
    assert batch["index"].tolist() == [0, 1]
    assert batch["image"].shape == (2, 2, 3)
    assert not {"text", "ragged", "words", "nested", "none"} & batch.keys()
    assert caplog.text.count("Column 'ragged' of the rows is left out of the batches") == 1


def test_rows_padded_on_the_left_get_positions(llama):
    rows = examples((5, 1), (6, 3))
    left = {"input_ids": [0, 0, 7, 8], "attention_mask": [0, 0, 1, 1], "labels": [-100, -100, -100, 8]}
    assert "position_ids" not in data.collate(rows, 9)
    batch = data.collate([rows[0], left], 9)
    assert batch["position_ids"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    given = data.collate([{**row, "position_ids": [3, 3, 3, 3]} for row in (rows[1], left)], 9)
    assert given["position_ids"].tolist() == [[3] * 4, [3] * 4]
    alone = data.collate([{"input_ids": [7, 8], "attention_mask": [1, 1], "labels": [-100, 8]}], 9)
    found = objectives.sequence_log_probs(llama, batch)[1].item()
    assert found == pytest.approx(objectives.sequence_log_probs(llama, alone).item(), rel=1e-5)


PACKED = {
    "mask": {"attention_mask": [1, 1, 2, 2]},
    "lengths": {"seq_lengths": [2, 2]},
    "cumulated": {"cu_seq_lens_q": [0, 2, 4], "cu_seq_lens_k": [0, 2, 4], "max_length_q": 2, "max_length_k": 2},
    "ids": {"seq_idx": [0, 0, 1, 1]},
}


@pytest.mark.parametrize("kind", PACKED)
def test_packing_needs_positions(kind, llama):
    row = {"input_ids": [7, 8, 9, 10], "attention_mask": [1] * 4, "labels": [-100, 8, -100, 10], **PACKED[kind]}
    with pytest.raises(RetainFirstError, match=r"row 2 of the batch holds several packed sequences .*no position_ids"):
        data.collate([*examples((5, 1)), row], 9)
    batch = data.collate([{**row, "position_ids": [0, 1, 0, 1]}], 9)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "position_ids"}
    assert batch["attention_mask"].tolist() == [[1] * 4]
    single = [{"input_ids": [a, b], "attention_mask": [1, 1], "labels": [-100, b]} for a, b in ((7, 8), (9, 10))]
    total = objectives.sequence_log_probs(llama, data.collate(single, 9)).sum().item()
    assert objectives.sequence_log_probs(llama, batch).tolist() == pytest.approx([total], rel=1e-5)


GOOD = {"input_ids": [7, 8], "attention_mask": [1, 1], "labels": [-100, 8]}
BAD_ROWS = {
    "no labels": (
        {"input_ids": [7, 8], "attention_mask": [1, 1]},
        "has no 'labels' of numbers; found 'input_ids', 'att",
    ),
    "no mask": ({"input_ids": [7, 8], "labels": [-100, 8]}, "has no 'attention_mask'"),
    "short labels": ({**GOOD, "labels": [8]}, r"found 'labels' of shape (1,) and type int64"),
    "matrix": ({**GOOD, "input_ids": [[7, 8]]}, "found 'input_ids' of shape (1, 2)"),
    "floats": ({**GOOD, "labels": [-100.0, 8.0]}, "found 'labels' of shape (2,) and type float32"),
    "null": ({**GOOD, "labels": None}, "has no 'labels'"),
    "nothing scored": ({**GOOD, "labels": [7, -100]}, "has no label after its first token"),
    "empty": ({"input_ids": [], "attention_mask": [], "labels": []}, "has no label after its first token"),
    "further input": ({**GOOD, "position_ids": [0, 1]}, "row 1 of the batch has no 'position_ids', other rows have"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused(case):
    row, message = BAD_ROWS[case]
    with pytest.raises(RetainFirstError) as caught:
        data.collate([GOOD, row], 0)
    assert message in str(caught.value)
    assert str(caught.value).startswith("row ")


def test_rows_that_are_no_pairs(llama):
    collator = data.PairedCollator(9)
    rows = examples((5, 1), (6, 3))
    assert {key: value.tolist() for key, value in collator(rows).items()} == {
        key: value.tolist() for key, value in data.collate(rows, 9).items()
    }
    pair = {"forget": rows[0], "retain": rows[1]}
    for mixed, found in (
        ([pair, rows[0]], "row 2 of the batch has the keys 'input_ids', 'attention_mask', 'labels'. Expected 'forget'"),
        ([{"text": "cat"}], "row 1 of the batch has the keys 'text'. Expected 'forget' and 'retain'"),
        ([pair, {"forget": rows[0]}], "row 2 of the batch has the keys 'forget'"),
        ([{"forget": "cat", "retain": "dog"}], "(encode_rows makes them)"),
    ):
        with pytest.raises(RetainFirstError) as caught:
            collator(mixed)
        assert found in str(caught.value)
    with pytest.raises(RetainFirstError, match="no row to collate"):
        data.collate([], 9)


def test_the_trainer_evaluates_rows_that_are_no_pairs(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    from retainfirst.hf import TwoTaskTrainer

    rows = data.encode_rows(
        [{"question": "who?", "answer": "ann"}, {"question": "who?", "answer": "bob"}], tokenizer, 99
    )
    model = tiny.tiny_llama()
    trainer = TwoTaskTrainer(
        model=model, data_collator=data.PairedCollator(0), eval_dataset=rows, objective="ga",
        args=transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True),
    )  # fmt: skip
    expected = objectives.nll(model, data.collate(list(rows), 0)).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


# Positions


def config(**options):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=110, **options)


def test_rows_beyond_the_models_positions_are_refused(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "cat"}\n\n{"text": "' + "x" * 20 + '"}\n')
    for model in (config(n_positions=16), pytest.importorskip("transformers").GPT2LMHeadModel(config(n_positions=16))):
        with pytest.raises(RetainFirstError) as caught:
            data.load_pairs(path, path, tokenizer, model=model)
        assert str(caught.value) == (
            f"{path}, line 3: 20 tokens, but the model has 16 positions. Set the maximal length to 16 or less "
            "(--max-length 16); longer rows are then cut and counted."
        )
        assert data.load_pairs(path, path, tokenizer, model=model, max_length=16).forget.truncated == 1
    data.load_pairs(path, path, tokenizer, model=config(n_positions=20))
    data.load_pairs(path, path, tokenizer)


def test_rotary_models_compute_any_position(tokenizer, caplog):
    rows = [{"text": "x" * 200}, {"text": "x" * 128}]
    with caplog.at_level(logging.WARNING, logger="retainfirst"):
        encoded = data.encode_rows(rows, tokenizer, 512, model=tiny.tiny_llama(), name="forget.jsonl")
    assert len(encoded) == 2
    assert "forget.jsonl: 1 of 2 rows are longer than the 128 positions that the model was trained on" in caplog.text


def test_positions_of_a_model():
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    assert data.positions(config(n_positions=64)) == data.Positions(64, fixed=True)
    assert data.positions(tiny.tiny_llama()) == data.Positions(128, fixed=False)
    assert data.positions(transformers.OPTConfig()) == data.Positions(2048, fixed=True)
    assert data.positions(transformers.GPTJConfig()) == data.Positions(2048, fixed=True)
    assert data.positions(transformers.MambaConfig()) is None
    assert data.positions(torch.nn.Linear(1, 1)) is None
    model = transformers.GPT2LMHeadModel(config(n_positions=64))
    tuned = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    assert data.positions(tuned) == data.Positions(59, fixed=True)
