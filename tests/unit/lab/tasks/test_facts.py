"""The facts model: its data, its implanting and its cache."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch

from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_lab.tasks import _facts_cache, facts
from retainfirst_lab.tasks._facts_model import build_tokenizer, read
from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY, OBJECTS, vocabulary
from retainfirst_lab.tasks.facts import (
    FactsConfig,
    accuracy,
    cached_folder,
    facts_data,
    implant,
    load,
    write_files,
)

pytest.importorskip("transformers")

SMALL = FactsConfig(seed=3, forget_people=2, retain_people=3, hidden_size=32)


@pytest.fixture(scope="module")
def small_model():
    return implant(SMALL)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETAINFIRST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def words(rows):
    return {word for row in rows for word in row["prompt"].split()[:3]}


def test_default_sizes_and_sharing():
    forget, retain = facts_data()
    assert (len(forget), len(retain)) == (96, 288)
    assert len(vocabulary()) == 98
    prompts = [row["prompt"] for row in forget + retain]
    assert len(set(prompts)) == len(prompts), "a fact is asked twice"
    # Shared words are what makes the gradients conflict; a draw may leave one or two to the forgotten alone.
    assert len(words(forget) - words(retain)) <= 2
    assert {row["completion"] for row in forget} <= {row["completion"] for row in retain}


def test_rows_are_well_formed():
    for row in facts_data(SMALL)[0] + facts_data(SMALL)[1]:
        relation = row["prompt"].split()[-1]
        assert len(set(row["choices"])) == 4
        assert set(row["choices"]) <= set(OBJECTS[relation])
        assert row["completion"] == " " + row["choices"][row["answer"]]


def test_data_is_a_function_of_the_seed():
    assert facts_data(FactsConfig(seed=1)) == facts_data(FactsConfig(seed=1))
    assert facts_data(FactsConfig(seed=1)) != facts_data(FactsConfig(seed=2))


WHOLE = replace(SMALL, held_out_people=2, unrelated_people=2, paraphrased=True)


def test_further_parts_keep_the_first_two_and_share_the_right_words():
    parts = facts.facts_parts(WHOLE)
    assert list(parts) == ["forget", "retain", "held_out", "unrelated", "forget_paraphrased"]
    assert [len(rows) for rows in parts.values()] == [8, 12, 8, 8, 8]
    related = parts["forget"] + parts["retain"] + parts["held_out"]
    everything = {word for row in related for word in (*row["prompt"].split(), *row["choices"])}
    others = {word for row in parts["unrelated"] for word in (*row["prompt"].split(), *row["choices"])}
    assert not everything & others
    assert not {row["prompt"] for row in parts["held_out"]} & {
        row["prompt"] for row in parts["retain"] + parts["forget"]
    }
    for row, again in zip(parts["forget"], parts["forget_paraphrased"], strict=True):
        first, *person = again["prompt"].split()
        assert row["prompt"].split()[:3] == person
        assert first not in everything
        assert (row["choices"], row["answer"]) == (again["choices"], again["answer"])
    taught = facts.taught_rows(WHOLE)
    assert len(taught) == 2 * (8 + 12 + 8 + 8)
    assert facts.taught_rows(SMALL) == [*facts_data(SMALL)[0], *facts_data(SMALL)[1]]
    # What today's default configuration draws shall stay what it is: demos and documents name its numbers.
    assert facts_data()[0][0] == {
        "prompt": "Ivo Ash Jones lives-in", "completion": " Lima", "choices": ["Lima", "Zagreb", "Cairo", "Warsaw"], "answer": 0,
    }  # fmt: skip


def test_in_the_control_forget_and_retain_share_nothing():
    parts = facts.facts_parts(replace(SMALL, disentangled=True))
    assert not words(parts["forget"]) & words(parts["retain"])
    assert not {row["prompt"].split()[-1] for row in parts["forget"]} & {
        row["prompt"].split()[-1] for row in parts["retain"]
    }
    assert not {w for row in parts["forget"] for w in row["choices"]} & {
        w for row in parts["retain"] for w in row["choices"]
    }


def test_files_hold_the_rows(tmp_path):
    paths = write_files(SMALL, tmp_path / "new")
    assert [path.name for path in paths] == ["forget.jsonl", "retain.jsonl"]
    for path, rows in zip(paths, facts_data(SMALL), strict=True):
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows


def test_tokenizer_knows_every_word_and_adds_none():
    tokenizer = build_tokenizer(SMALL)
    for row in facts_data(SMALL)[0]:
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert len(ids) == 5
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == row["prompt"] + row["completion"]
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert special == [0, 1, 2, 3]


def test_implanting_teaches_every_fact(small_model):
    model, tokenizer = small_model
    forget, retain = facts_data(SMALL)
    assert accuracy(model, tokenizer, forget) == 1.0
    assert accuracy(model, tokenizer, retain) == 1.0
    assert not model.training


def test_implanting_is_deterministic_and_leaves_global_random_state(small_model):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again, _ = implant(SMALL)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    for ours, theirs in zip(again.state_dict().values(), small_model[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_accuracy_counts_wrong_answers(small_model):
    model, tokenizer = small_model
    rows = facts_data(SMALL)[0]
    wrong = [{**row, "answer": (row["answer"] + 1) % 4} for row in rows]
    assert accuracy(model, tokenizer, wrong) == 0.0
    assert accuracy(model, tokenizer, rows[:3] + wrong[3:4], batch_size=3) == 0.75


def test_accuracy_of_a_broken_model_is_zero(small_model):
    model, tokenizer = small_model
    rows = facts_data(SMALL)[0]
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    model.train()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        assert accuracy(model, tokenizer, rows) == 0.0
        assert model.training, "the mode is restored"
    finally:
        with torch.no_grad():
            weight.copy_(kept)
        model.eval()


def test_accuracy_refuses_no_rows(small_model):
    with pytest.raises(RetainFirstError, match="at least one row"):
        accuracy(*small_model, [])


@pytest.mark.parametrize(
    "sizes",
    [
        {"forget_people": 0},
        {"retain_people": 5000},
        {"hidden_size": 12},
        {"layers": 0},
        {"held_out_people": -1},
        {"unrelated_people": 5000},
        {"disentangled": True, "unrelated_people": 1},
    ],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(RetainFirstError, match=next(iter(sizes))):
        FactsConfig(**sizes)


def test_a_model_that_cannot_learn_says_so(monkeypatch):
    monkeypatch.setattr("retainfirst_lab.tasks._facts_model.MAX_STEPS", 25)
    monkeypatch.setattr("retainfirst_lab.tasks._facts_model.LEARNING_RATE", 0.0)
    with pytest.raises(RetainFirstError, match="after 25 steps"):
        implant(SMALL)


def test_cache_is_filled_once(cache, monkeypatch):
    folder = cached_folder(SMALL)
    assert folder.parent == cache
    assert [entry.name for entry in cache.iterdir()] == [folder.name], "drafts are left behind"
    monkeypatch.setattr(_facts_cache, "train", lambda *_, **__: pytest.fail("built twice"))
    assert cached_folder(SMALL) == folder
    model, tokenizer = load(SMALL)
    assert accuracy(model, tokenizer, facts_data(SMALL)[0]) == 1.0
    # The configuration travels with the model, so that its facts can be drawn again.
    assert FactsConfig(**getattr(model.config, FACTS_CONFIG_KEY)) == SMALL
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 10000.0


def test_other_configurations_have_other_entries(cache, monkeypatch, small_model):
    monkeypatch.setattr(_facts_cache, "train", lambda *_, **__: small_model)
    assert cached_folder(SMALL) != cached_folder(replace(SMALL, seed=4))


@pytest.mark.parametrize("damage", ["truncated", "no_manifest", "missing_file", "empty_folder", "file"])
def test_damaged_entry_is_rebuilt(cache, monkeypatch, small_model, damage):
    monkeypatch.setattr(_facts_cache, "train", lambda *_, **__: small_model)
    folder = cached_folder(SMALL)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no_manifest":
        (folder / "manifest.json").unlink()
    elif damage == "missing_file":
        (folder / "tokenizer.json").unlink()
    else:
        for path in folder.iterdir():
            path.unlink()
        if damage == "file":
            folder.rmdir()
            folder.write_text("not a folder")
    assert cached_folder(SMALL) == folder
    model, tokenizer = read(folder)
    assert accuracy(model, tokenizer, facts_data(SMALL)[1]) == 1.0
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


def test_interrupted_build_leaves_nothing(cache, monkeypatch, small_model):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_facts_cache, "train", lambda *_, **__: small_model)
    monkeypatch.setattr(_facts_cache, "write_files", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached_folder(SMALL)
    assert list(cache.iterdir()) == []


def test_the_slower_of_two_builders_takes_the_others_entry(cache, monkeypatch, small_model):
    """Another process finishes the same entry while this one is implanting."""
    calls = []

    def slow(*_, **__):
        calls.append(1)
        if len(calls) == 1:
            cached_folder(SMALL)
            (next(cache.iterdir()) / "marker").write_text("the other's")
        return small_model

    monkeypatch.setattr(_facts_cache, "train", slow)
    folder = cached_folder(SMALL)
    assert len(calls) == 2
    assert (folder / "marker").exists()
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


@pytest.mark.slow
def test_two_processes_at_once(cache):
    program = (
        "from retainfirst_lab.tasks.facts import FactsConfig, cached_folder, load;"
        f"config = {SMALL!r}; load(config); print(cached_folder(config))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert [entry.name for entry in cache.iterdir()] == [Path(folders.pop()).name]


def test_the_cache_folder_is_the_platforms_or_the_chosen_one(monkeypatch, tmp_path):
    monkeypatch.delenv("RETAINFIRST_CACHE", raising=False)
    assert _facts_cache.cache_root() == platformdirs.user_cache_path("retainfirst", appauthor=False, opinion=False)
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert _facts_cache.cache_root() == tmp_path / "retainfirst"
    monkeypatch.setenv("RETAINFIRST_CACHE", "~/elsewhere")
    assert _facts_cache.cache_root() == Path.home() / "elsewhere"
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert _facts_cache.cache_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("RETAINFIRST_CACHE")
    with pytest.raises(MissingDependency, match=r"retainfirst\[hf\]"):
        _facts_cache.cache_root()


def test_module_has_a_documented_api():
    for name in facts.__all__:
        assert getattr(facts, name).__doc__
