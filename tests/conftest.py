"""Fixtures that every test may use. Nothing here reaches a network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

import tiny
from retainfirst.combiners import _registry

# Before transformers or datasets is imported: a test that would ask a hub fails at once instead.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Two threads on small tensors cost more than they save, and `make test` has a worker for each core.
torch.set_num_threads(1)

# How many pairs the property tests draw: `pytest --hypothesis-profile=ci`.
for profile, examples in (("quick", 20), ("ci", 60), ("deep", 2000)):
    settings.register_profile(
        profile, max_examples=examples, deadline=None, database=None, derandomize=profile != "deep"
    )
settings.load_profile("quick")

# The device of the combiners' tests: `RETAINFIRST_TEST_DEVICE=cuda pytest tests/unit/combiners`.
DEVICE = os.environ.get("RETAINFIRST_TEST_DEVICE", "cpu")

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


# Folders whose files take longest. Workers take whole files, so a long one must not be the last.
LONG = ("end_to_end", "distributed", "meta", "property", "plugin")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the facts model between runs in pytest's own cache, where it is not in the user's way."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ.setdefault("RETAINFIRST_CACHE", str(config.cache.mkdir("retainfirst")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long files where several workers share the tests."""

    def place(item: pytest.Item) -> int:
        folders = item.path.relative_to(config.rootpath).parts
        return min((LONG.index(name) for name in folders if name in LONG), default=len(LONG))

    if hasattr(config, "workerinput"):
        items.sort(key=place)


def pytest_collection_finish() -> None:
    """Exempt what was imported from garbage collection: each trainer collects at its end, for some tenths of a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries report at exit what is left in memory


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Forget after each test the combiners that it registered."""
    before = dict(_registry._ENTRIES)
    yield
    _registry._ENTRIES.clear()
    _registry._ENTRIES.update(before)


@pytest.fixture(autouse=True)
def own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after each test the precision that older TrainingArguments leave in the environment for all later trainers."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.fixture
def default_device() -> Iterator[torch.device]:
    """What tensors are made on by default during the test."""
    with torch.device(DEVICE) as device:
        yield device


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A fresh tiny random Llama in eval mode."""
    return tiny.tiny_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Pad and eos tokens, no chat template. Shared: do not change it."""
    return tiny.tiny_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """As ``tokenizer``, with a chat template. Shared: do not change it."""
    return tiny.tiny_tokenizer(chat=True)


@pytest.fixture
def tokenizer_without_pad() -> PreTrainedTokenizerFast:
    """Fresh, with no pad token set; ``<pad>`` is in its vocabulary."""
    return tiny.tiny_tokenizer(pad=False)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and tokenizer (pad, no chat template). Shared: do not write into it."""
    return tiny.save_tiny(tmp_path_factory.mktemp("tiny-llama"))
