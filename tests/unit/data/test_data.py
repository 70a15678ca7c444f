"""Rows from files and hubs, and rows in pairs."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import sys
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader

from retainfirst import data, objectives
from retainfirst.errors import ShapeMismatch


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def examples(*texts):
    """Encoded rows that say which they are: the first token's id is the position."""
    return [
        {"input_ids": [i, *range(n)], "attention_mask": [1] * (n + 1), "labels": [-100, *range(n)]} for i, n in texts
    ]


# Reading


ROWS = [
    {"text": "the cat"},
    {"prompt": "the", "completion": " cat", "id": 7},
    {"question": "who?", "answer": "ann"},
    {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "ann"}]},
]


def test_json_lines_may_mix_the_forms(tmp_path):
    assert data.read_rows(write_lines(tmp_path / "rows.jsonl", ROWS)) == ROWS


def test_a_json_array(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    assert data.read_rows(str(path)) == ROWS


def test_null_counts_as_absent(tmp_path):
    rows = [{"text": None, "question": "who?", "answer": "ann"}, {"text": "the cat", "question": None, "answer": None}]
    assert data.read_rows(write_lines(tmp_path / "rows.jsonl", rows)) == rows


def test_byte_order_mark_blank_lines_and_line_separators_inside_strings(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = '\n{"text": "one\u2028two"}\r\n\r\n{"text": "three\x85four"}'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row["text"] for row in data.read_rows(path)] == ["one\u2028two", "three\x85four"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("locuslab/TOFU", ("locuslab/TOFU", None, "train")),
        ("locuslab/TOFU:forget10", ("locuslab/TOFU", "forget10", "train")),
        ("locuslab/TOFU:forget10:validation", ("locuslab/TOFU", "forget10", "validation")),
        ("locuslab/TOFU::train[10:20]", ("locuslab/TOFU", None, "train[10:20]")),
    ],
)
def test_hub_names(monkeypatch, name, expected):
    library = ModuleType("datasets")
    library.load_dataset = lambda path, config, *, split: [{"text": repr((path, config, split))}]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert data.read_rows(name) == [{"text": repr(expected)}]


def test_a_local_path_wins_and_needs_no_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import of it now fails
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locuslab").mkdir()
    write_lines(tmp_path / "locuslab" / "TOFU", ROWS[:1])
    assert data.read_rows("locuslab/TOFU") == ROWS[:1]


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path, suffix, separator):
    """Empty cells count as absent, so that a table may mix the forms."""
    path = tmp_path / f"rows.{suffix}"
    lines = [["question", "answer", "text"], ["who?", "ann", ""], ["", "", '"a, b\n""c"""']]
    path.write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")
    assert data.read_rows(path) == [
        {"question": "who?", "answer": "ann", "text": None},
        {"question": None, "answer": None, "text": 'a, b\n"c"'},
    ]


@pytest.mark.parametrize("byte_order_mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_texts_with_and_without_a_byte_order_mark(tmp_path, suffix, byte_order_mark):
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix]
    rows = [{"question": "who?", "answer": "Ann, a cat"}]
    texts = {"csv": 'question,answer\nwho?,"Ann, a cat"\n', "jsonl": json.dumps(rows[0]), "json": json.dumps(rows)}
    for kind, text in texts.items():
        path = tmp_path / f"rows.{kind}.{suffix}"
        path.write_bytes(compress(byte_order_mark + text.encode()))
        assert data.read_rows(path) == rows
        path = tmp_path / f"rows.{kind.upper()}"
        path.write_bytes(byte_order_mark + text.encode())
        assert data.read_rows(path) == rows


def test_a_cell_may_be_as_long_as_a_line_of_json(tmp_path):
    text = "a" * 200_000
    (tmp_path / "rows.csv").write_text(f"text\n{text}\n")
    limit = csv.field_size_limit()
    assert data.read_rows(tmp_path / "rows.csv") == [{"text": text}]
    assert csv.field_size_limit() == limit


def test_conversations_in_a_parquet_file(tmp_path):
    parquet, pyarrow = (pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow"))
    messages = [{"role": "user", "content": "hi", "name": "Bo"}, {"role": "assistant", "content": "ho"}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": messages}]), tmp_path / "rows.parquet")
    (row,) = data.read_rows(tmp_path / "rows.parquet")
    assert [message["content"] for message in row["messages"]] == ["hi", "ho"]


def test_parquet(tmp_path):
    parquet, pyarrow = (pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow"))
    rows = [{"question": "who?", "answer": "ann", "text": None}, {"question": None, "answer": None, "text": "cat"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert data.read_rows(tmp_path / "rows.parquet") == rows


# Pairs


def pairs(forget: int, retain: int, **options) -> data.PairedDataset:
    sets = (data.EncodedSet(examples(*((i, 2) for i in range(n))), name="rows") for n in (forget, retain))
    return data.PairedDataset(*sets, **options)


def positions(paired, side) -> list[int]:
    return [pair[side]["input_ids"][0] for pair in paired]


@pytest.mark.parametrize(("short", "long"), [("forget", "retain"), ("retain", "forget")])
def test_the_shorter_set_is_cycled(short, long):
    paired = pairs(**{short: 3, long: 7})
    assert positions(paired, long) == list(range(7))
    assert positions(paired, short) == [0, 1, 2, 0, 1, 2, 0]


def test_the_shorter_set_is_sampled_by_seed_and_index():
    paired = pairs(5, 300, pairing="sample", seed=3)
    drawn = positions(paired, "forget")
    assert positions(paired, "retain") == list(range(300))
    assert [paired[i]["forget"]["input_ids"][0] for i in reversed(range(300))] == drawn[::-1]
    assert positions(pairs(5, 300, pairing="sample", seed=3), "forget") == drawn
    assert positions(pairs(5, 300, pairing="sample", seed=4), "forget") != drawn
    assert drawn[:8] == [2, 1, 4, 2, 2, 1, 1, 3]  # frozen: a resumed run must draw the same after an upgrade
    # 60 each are expected, with a deviation of 7; five deviations fail once in a million seeds, and the seed is fixed.
    assert all(25 < drawn.count(i) < 95 for i in range(5))


def test_sampling_leaves_sets_of_equal_length_alone():
    paired = pairs(4, 4, pairing="sample")
    assert positions(paired, "forget") == positions(paired, "retain") == [0, 1, 2, 3]


def test_pairs_end(tokenizer):
    with pytest.raises(IndexError):
        pairs(2, 3)[3]


# From files to losses


def test_load_pairs_to_losses(tmp_path, llama, tokenizer):
    forget = write_lines(tmp_path / "forget.jsonl", ROWS)
    retain = write_lines(tmp_path / "retain.jsonl", [{"text": f"row {i}" + "x" * i} for i in range(6)])
    paired = data.load_pairs(forget, retain, tokenizer, max_length=8)
    assert (len(paired), len(paired.forget), paired.retain.truncated) == (6, 2, 2)
    assert paired.forget.dropped == 2
    assert paired.forget.name == str(forget)

    collator = data.PairedCollator(data.pad_token_id(tokenizer))
    loader = DataLoader(paired.forget, batch_size=1, collate_fn=lambda rows: data.collate(rows, collator.pad_token_id))
    paired.forget.set_reference_log_probs(objectives.reference_log_probs(llama, loader))
    for batch in DataLoader(paired, batch_size=3, collate_fn=collator):
        assert set(batch) == {"forget", "retain"}
        assert "reference_logps" not in batch["retain"]
        # The model is its own reference. Padding changes the sums of a row by float32 rounding alone.
        found = objectives.sequence_log_probs(llama, batch["forget"])
        assert torch.allclose(found, batch["forget"]["reference_logps"], atol=1e-4)
        assert objectives.npo(llama, batch["forget"]).item() > 0
        assert objectives.nll(llama, batch["retain"]).isfinite()


def test_reference_log_probs_must_fit_the_set():
    encoded = data.EncodedSet(examples((0, 2), (1, 2)), name="forget.jsonl")
    with pytest.raises(ShapeMismatch, match=r"forget.jsonl has 2 rows.*shape \(3,\)"):
        encoded.set_reference_log_probs(torch.zeros(3))
