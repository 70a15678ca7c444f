"""A tiny random Llama and tiny tokenizers: real Hugging Face objects, no download, milliseconds to make.

Tests import it as ``from tiny import ...``; ``conftest.py`` has the same things as fixtures.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, BOS, UNK, USER, ASSISTANT = "<pad>", "<eos>", "<bos>", "<unk>", "<user>", "<assistant>"
SPECIAL = (PAD, EOS, BOS, UNK, USER, ASSISTANT)

# Some real merges: a merge that begins with a space or spans a prompt's end shows boundary mistakes.
MERGES = (("t", "h"), ("th", "e"), ("a", "n"), ("Ġ", "t"), ("Ġ", "th"), ("Ġ", "the"), (":", "Ġ"), ("o", "n"))

# Each turn ends in the end-of-sequence token, as in the templates of ChatML models.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<user>' if m['role'] == 'user' else '<assistant>' if m['role'] == 'assistant' else '<bos>' }}"
    "{{ m['content'] + '<eos>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tiny_vocabulary() -> dict[str, int]:
    """Special tokens, printable ASCII and newline in byte-level spelling, and the merges: 110 tokens."""
    letters = [c for c in string.printable if c.isprintable() and c != " "]
    tokens = [*SPECIAL, *letters, "Ġ", "Ċ", *("".join(pair) for pair in MERGES)]
    return {token: i for i, token in enumerate(tokens)}


def tiny_tokenizer(*, pad: bool = True, chat: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over ASCII; other bytes become ``<unk>``.

    pad: with a pad token, or (``False``) with none set although ``<pad>`` is in the vocabulary.
    chat: with a chat template.
    bos: begins every sequence with ``<bos>`` where special tokens are asked for, as Llama's does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = tiny_vocabulary()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES), unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
        )
    names = {"eos_token": EOS, "bos_token": BOS, "unk_token": UNK, **({"pad_token": PAD} if pad else {})}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path="tiny",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
        **names,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [PAD, USER, ASSISTANT]})
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(*, seed: int = 0, dtype: torch.dtype = torch.float32, tied: bool = False) -> LlamaForCausalLM:
    """A random Llama (2 layers, width 32, 110 tokens, 128 positions; about 26,000 parameters) in eval mode.

    Weights depend on the seed alone; the global random state is left as it was.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = tiny_vocabulary()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=vocabulary[PAD],
        bos_token_id=vocabulary[BOS],
        eos_token_id=vocabulary[EOS],
        tie_word_embeddings=tied,
        # Wide enough that logits differ visibly between tokens; 0.02 makes them nearly uniform.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.to(dtype).eval()


def save_tiny(folder: Path, *, chat: bool = False, pad: bool = True, seed: int = 0) -> Path:
    """Save a tiny model with its tokenizer, as ``--model DIR`` reads it."""
    tiny_llama(seed=seed).save_pretrained(folder)
    tiny_tokenizer(chat=chat, pad=pad).save_pretrained(folder)
    return folder


def tiny_batch(
    lengths: tuple[int, ...] = (9, 6, 12), *, prompt: int = 3, seed: int = 0, vocabulary: int = 110
) -> dict[str, torch.Tensor]:
    """A right-padded batch of random tokens; the first ``prompt`` tokens of each row have no label."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    shape = (len(lengths), max(lengths))
    input_ids = torch.randint(len(SPECIAL), vocabulary, shape, generator=generator)
    positions = torch.arange(max(lengths)).expand(shape)
    attention_mask = (positions < torch.tensor(lengths)[:, None]).long()
    input_ids = torch.where(attention_mask.bool(), input_ids, 0)
    labels = torch.where(attention_mask.bool() & (positions >= prompt), input_ids, -100)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
