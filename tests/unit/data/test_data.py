"""Rows, their labels, pairs and batches."""

from __future__ import annotations

import json
import logging
import sys
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizer

import tiny
from retainfirst import data, objectives
from retainfirst.errors import ShapeMismatch


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(tokenizer, example) -> list[str]:
    """The labelled tokens, as the tokenizer spells them."""
    return tokenizer.convert_ids_to_tokens([label for label in example["labels"] if label != -100])


def tokens(tokenizer, example) -> list[str]:
    return tokenizer.convert_ids_to_tokens(example["input_ids"])


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


def test_parquet(tmp_path):
    parquet, pyarrow = (pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow"))
    rows = [{"question": "who?", "answer": "ann", "text": None}, {"question": None, "answer": None, "text": "cat"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert data.read_rows(tmp_path / "rows.parquet") == rows


# Encoding


def test_text_labels_all_but_the_first_token(tokenizer):
    example = data.encode({"text": "a cat"}, tokenizer, 99)
    assert tokens(tokenizer, example) == ["a", "Ġ", "c", "a", "t"]
    assert labelled(tokenizer, example) == ["Ġ", "c", "a", "t"]
    assert example["attention_mask"] == [1] * 5


def test_text_after_a_beginning_token():
    tokenizer = tiny.tiny_tokenizer(bos=True)
    example = data.encode({"text": "cat"}, tokenizer, 99)
    assert tokens(tokenizer, example) == ["<bos>", "c", "a", "t"]
    assert labelled(tokenizer, example) == ["c", "a", "t"]


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("see", " cat", ["Ġ", "c", "a", "t"]),
        ("see ", "the", ["Ġthe"]),  # the boundary lies inside one token, which carries the completion
        ("a t", "he cat", ["Ġthe", "Ġ", "c", "a", "t"]),
        ("", "cat", ["a", "t"]),  # nothing predicts a first token
    ],
)
def test_completion_labels_begin_with_the_first_token_that_carries_it(tokenizer, prompt, completion, expected):
    example = data.encode({"prompt": prompt, "completion": completion}, tokenizer, 99)
    assert example["input_ids"] == tokenizer(prompt + completion)["input_ids"]
    assert labelled(tokenizer, example) == expected


def test_a_changed_prompt_token_is_not_labelled(tokenizer):
    """The completion changes the token before the one that spans the boundary."""
    example = data.encode({"prompt": "see: ", "completion": "the cat"}, tokenizer, 99)
    assert tokens(tokenizer, example)[:5] == ["s", "e", "e", ":", "Ġthe"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("see: ")["input_ids"])[-1] == ":Ġ"
    assert labelled(tokenizer, example) == ["Ġthe", "Ġ", "c", "a", "t"]


class SlowTokenizer(PreTrainedTokenizer):
    """The tiny tokenizer without offsets: a word is a token, a longer text is cut at the given merges."""

    def __init__(self, **options):
        self.fast = tiny.tiny_tokenizer()
        super().__init__(eos_token=tiny.EOS, unk_token=tiny.UNK, pad_token=tiny.PAD, name_or_path="slow", **options)

    @property
    def vocab_size(self):
        return len(self.fast)

    def get_vocab(self):
        return self.fast.get_vocab()

    def _tokenize(self, text, **_):
        return self.fast.convert_ids_to_tokens(self.fast(text)["input_ids"])

    def _convert_token_to_id(self, token):
        return self.fast.convert_tokens_to_ids(token)

    def _convert_id_to_token(self, index):
        return self.fast.convert_ids_to_tokens(index)

    def convert_tokens_to_string(self, tokens):
        return self.fast.convert_tokens_to_string(tokens)


class WidthlessTokenizer:
    """A fast tokenizer whose tokens end where they start, as those of Llama 3 did in some versions."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, **options):
        encoding = self.tokenizer(text, **options)
        if "offset_mapping" in encoding:
            encoding["offset_mapping"] = [(start, start) for start, _ in encoding["offset_mapping"]]
        return encoding


@pytest.mark.parametrize("kind", ["slow", "widthless"])
@pytest.mark.parametrize(
    "row",
    [
        {"text": "a cat"},
        {"prompt": "see", "completion": " cat"},
        {"prompt": "see ", "completion": "the"},
        {"prompt": "a t", "completion": "he cat"},
        {"prompt": "see: ", "completion": "the cat"},
        {"prompt": "", "completion": "cat"},
        {"question": "who?", "answer": "ann"},
        {"question": "who: ann", "answer": "ann: ann"},
    ],
)
@pytest.mark.parametrize("chat", [False, True])
def test_tokenizers_without_offsets(tokenizer, chat_tokenizer, kind, row, chat):
    expected = data.encode(row, chat_tokenizer if chat else tokenizer, 99)
    other = SlowTokenizer() if kind == "slow" else WidthlessTokenizer(chat_tokenizer if chat else tokenizer)
    if chat and kind == "slow":
        other.chat_template = tiny.CHAT_TEMPLATE
    found = data.encode(row, other, 99, chat_template="always" if chat else "auto")
    assert found["input_ids"] == expected["input_ids"]
    # A token that holds only white space of the answer may be left out.
    texts = [tokenizer.decode([i for i in one["labels"] if i != -100]) for one in (found, expected)]
    assert texts[0].strip() == texts[1].removeprefix(":").strip()


def test_question_without_a_template(tokenizer):
    example = data.encode({"question": "who?", "answer": "ann"}, tokenizer, 99)
    assert tokenizer.decode(example["input_ids"]) == "Question: who?\nAnswer: ann<eos>"
    assert labelled(tokenizer, example) == [":Ġ", "an", "n", "<eos>"]


def test_messages_without_a_template(tokenizer):
    turns = [("system", "be kind"), ("user", "hi"), ("assistant", "ho"), ("user", "who?"), ("assistant", "ann")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    example = data.encode(row, tokenizer, 200)
    whole = "System: be kind\nUser: hi\nAssistant: ho\nUser: who?\nAssistant: ann<eos>"
    assert tokenizer.decode(example["input_ids"]) == whole
    assert labelled(tokenizer, example) == [":Ġ", "an", "n", "<eos>"]


def test_question_by_the_template(chat_tokenizer):
    row = {"question": "who?", "answer": "ann"}
    example = data.encode(row, chat_tokenizer, 99)
    # One end-of-sequence token: the template ends with it already.
    assert chat_tokenizer.decode(example["input_ids"]) == "<user>who?<eos><assistant>ann<eos>"
    assert labelled(chat_tokenizer, example) == ["an", "n", "<eos>"]
    as_messages = {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "ann"}]}
    assert data.encode(as_messages, chat_tokenizer, 99) == example
    assert data.encode(row, chat_tokenizer, 99, chat_template="always") == example
    plain = data.encode(row, chat_tokenizer, 99, chat_template="never")
    assert chat_tokenizer.decode(plain["input_ids"]) == "Question: who?\nAnswer: ann<eos>"


def test_a_template_brings_its_own_beginning_token():
    tokenizer = tiny.tiny_tokenizer(bos=True, chat=True)
    example = data.encode({"question": "who?", "answer": "ann"}, tokenizer, 99)
    assert tokenizer.bos_token_id not in example["input_ids"]


def test_the_last_assistant_turn_is_labelled_and_what_follows_is_cut(chat_tokenizer):
    turns = [("user", "hi"), ("assistant", "ho"), ("user", "who?"), ("assistant", "ann"), ("user", "bye")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    example = data.encode(row, chat_tokenizer, 99)
    assert chat_tokenizer.decode(example["input_ids"]).endswith("<user>who?<eos><assistant>ann<eos>")
    assert labelled(chat_tokenizer, example) == ["an", "n", "<eos>"]
    assert len(row["messages"]) == 5


def test_a_template_with_a_date_does_not_depend_on_the_day():
    tokenizer = tiny.tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ date_string }} " + tiny.CHAT_TEMPLATE
    example = data.encode({"question": "who?", "answer": "ann"}, tokenizer, 99)
    assert tokenizer.decode(example["input_ids"]).startswith("26 Jul 2024 ")


def test_truncation_is_counted_and_rows_without_a_label_are_dropped(tokenizer, caplog):
    rows = [
        {"prompt": "xyz", "completion": "w"},  # 4 tokens: fits
        {"prompt": "xyz", "completion": "wvu"},  # cut, one label left
        {"prompt": "xyzw", "completion": "vu"},  # no label left
        {"text": "x"},  # a single token has no label either
        {"text": "xyzwvu"},
    ]
    with caplog.at_level(logging.WARNING, logger="retainfirst"):
        encoded = data.encode_rows(rows, tokenizer, 4, name="forget.jsonl")
    assert (len(encoded), encoded.truncated, encoded.dropped) == (3, 2, 2)
    assert [labelled(tokenizer, example) for example in encoded] == [["w"], ["w"], ["y", "z", "w"]]
    assert all(len(example["input_ids"]) <= 4 for example in encoded)
    assert "forget.jsonl: dropped 2 of 5 rows" in caplog.text
    assert "forget.jsonl: truncated 2 of 5 rows" in caplog.text


def test_nothing_is_reported_where_all_fits(tokenizer, caplog):
    encoded = data.encode_rows([{"text": "cat"}], tokenizer, 3)
    assert (encoded.truncated, encoded.dropped, caplog.text) == (0, 0, "")


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
