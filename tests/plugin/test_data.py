"""Chunks, draws and masks of the authors' fork, on stand-ins for the framework's classes."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import tiny
from retainfirst.errors import RetainFirstError
from retainfirst_open_unlearning.data import make_collator, make_dataset, make_pairs
from retainfirst_open_unlearning.register import extend


class PretrainingDataset:
    def __init__(self, texts, tokenizer, max_length):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.chunks = self._chunk_raw_text(texts)

    def _chunk_raw_text(self, raw_text):
        raise AssertionError("replaced")

    def __len__(self):
        return len(self.chunks)

    def __getitem__(self, index):
        return self.chunks[index]


class ForgetRetainDataset:
    def __init__(self, forget, retain, anchor="forget"):
        self.forget, self.retain, self.anchor = forget, retain, anchor

    def __getitem__(self, index):
        return {"forget": self.forget[index], "retain": self.retain[torch.randint(0, len(self.retain), (1,)).item()]}


class DataCollatorForSupervisedDataset:
    padding_side = "left"

    def __call__(self, instances):
        if "forget" in instances[0]:
            return {task: self([one[task] for one in instances]) for task in ("forget", "retain")}
        ids = torch.stack([one["input_ids"] for one in instances])
        return {"input_ids": ids, "attention_mask": ids.ne(0)}


BASES = {one.__name__: one for one in (PretrainingDataset, DataCollatorForSupervisedDataset)}


def texts_of(letters, max_length=4):
    made = make_dataset("RetainFirstPretrainingDataset", BASES)
    return made([f"{letter} text" for letter in letters], tiny.tiny_tokenizer(), max_length)


def test_whole_chunks_of_texts_that_are_tokenised_one_by_one():
    tokenizer, texts = tiny.tiny_tokenizer(), ["one text", "another", "a third one."]
    tokens = [token for text in texts for token in tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]]
    assert len(tokens) % 4, "the last chunk is not whole"
    made = make_dataset("RetainFirstPretrainingDataset", BASES)(texts, tokenizer, 4)
    assert list(made) == [tokenizer.decode(tokens[i : i + 4]) for i in range(0, len(tokens) - 3, 4)]


def test_texts_shorter_than_a_chunk_are_refused():
    with pytest.raises(
        RetainFirstError, match=r"RetainFirstPretrainingDataset: the texts have \d+ tokens, fewer than one chunk"
    ):
        texts_of("a", max_length=1000)


@pytest.mark.parametrize("anchor", ["forget", "retain"])
def test_partners_are_drawn_by_rank(anchor, monkeypatch):
    pairs = make_pairs(ForgetRetainDataset)(texts_of("abcdefgh"), texts_of("ijklmnopq"), anchor)
    drawn = {}
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        drawn[rank] = [pairs[index] for index in range(6)]
    monkeypatch.undo()
    monkeypatch.setenv("RANK", "1")  # in a data loader's worker
    torch.manual_seed(0)
    assert [pairs[index] for index in range(6)] == drawn[1]
    other = {"forget": "retain", "retain": "forget"}[anchor]
    assert [one[anchor] for one in drawn[0]] == [one[anchor] for one in drawn[1]] == getattr(pairs, anchor).chunks[:6]
    assert [one[other] for one in drawn[0]] != [one[other] for one in drawn[1]]


def test_other_data_sets_are_paired_as_before():
    made = []
    for kind in (ForgetRetainDataset, make_pairs(ForgetRetainDataset)):
        torch.manual_seed(0)
        pairs = kind(["a", "b"], list(range(100)))
        made.append([pairs[index % 2] for index in range(9)])
    assert made[0] == made[1]


@pytest.mark.parametrize(("side", "last"), [("left", True), ("right", False)])
def test_the_last_token_of_a_row_padded_on_the_left_is_attended_to(side, last):
    collator = make_collator("RetainFirstDataCollatorForSupervisedDataset", BASES)()
    collator.padding_side = side
    row = {"input_ids": torch.tensor([0, 0, 5, 0])}  # the padding token is the end token
    batch = collator([{"forget": row, "retain": row}])
    assert batch["retain"]["attention_mask"].tolist() == [[False, False, True, last]]


def test_the_frameworks_class_of_pairs_is_replaced_once():
    module = ModuleType("data")
    module.DATASET_REGISTRY, module.COLLATOR_REGISTRY, module.ForgetRetainDataset = (
        dict(BASES),
        dict(BASES),
        ForgetRetainDataset,
    )
    extend(module)
    extend(module)
    assert module.ForgetRetainDataset.__mro__[1] is ForgetRetainDataset
    assert module.DATASET_REGISTRY.get("RetainFirstPretrainingDataset").__mro__[2] is PretrainingDataset
    assert issubclass(
        module.COLLATOR_REGISTRY.get("RetainFirstDataCollatorForSupervisedDataset"), DataCollatorForSupervisedDataset
    )


def test_unknown_names_and_bases():
    with pytest.raises(RetainFirstError, match="no collator 'RetainFirstCollator'"):
        make_collator("RetainFirstCollator", BASES)
    with pytest.raises(RetainFirstError, match="has no collator 'DataCollatorForSupervisedDataset' to build on"):
        make_collator("RetainFirstDataCollatorForSupervisedDataset", {})
    with pytest.raises(RetainFirstError, match="has no _chunk_raw_text to replace"):
        make_dataset("RetainFirstPretrainingDataset", {"PretrainingDataset": object})
