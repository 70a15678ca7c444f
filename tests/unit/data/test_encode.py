"""Rows as tokens and labels."""

from __future__ import annotations

import logging

import pytest
from transformers import PreTrainedTokenizer

import tiny
from retainfirst import data
from retainfirst.errors import RetainFirstError


def labelled(tokenizer, example) -> list[str]:
    """The labelled tokens, as the tokenizer spells them."""
    return tokenizer.convert_ids_to_tokens([label for label in example["labels"] if label != -100])


def tokens(tokenizer, example) -> list[str]:
    return tokenizer.convert_ids_to_tokens(example["input_ids"])


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


def test_a_boundary_that_cannot_be_found_is_refused(monkeypatch):
    """Without offsets, with a prompt whose tokens change, and decoding that loses the text."""
    tokenizer = SlowTokenizer()
    monkeypatch.setattr(tokenizer, "_tokenize", lambda text, **_: list(text) if len(text) < 9 else ["an", *text[1:]])
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: "?" * len(ids))
    rows = [{"prompt": "see", "completion": "it"}, {"prompt": "a cat is", "completion": "it"}]
    with pytest.raises(RetainFirstError, match=r"rows, row 2: the tokens of the answer cannot be told .*use_fast=True"):
        data.encode_rows(rows, tokenizer, 99)


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
