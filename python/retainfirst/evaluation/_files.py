"""From files and models to an evaluation, as ``retainfirst evaluate`` and ``retainfirst unlearn --evaluate full`` do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

from retainfirst import __version__
from retainfirst.data import EncodedSet, pad_token_id, read_rows
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation._attacks import Attack, by_prompts, by_quantization, by_relearning
from retainfirst.evaluation._evaluate import Evaluation, evaluate
from retainfirst.evaluation._measure import Measuring
from retainfirst.evaluation._sets import EvaluationSet, check_disjoint, make_set
from retainfirst.models import check_causal, check_not_quantized, check_vocabulary
from retainfirst.progress import Progress
from retainfirst.weights import weights_digest

__all__ = ["UNRELATED", "RowOptions", "check_same_tokenizer", "evaluate_rows", "read_files", "run_facts", "software"]

UNRELATED = "unrelated"
"""The name of the rows to fine-tune on that have nothing to do with the forget rows."""


@dataclass(frozen=True)
class RowOptions:
    """How to measure rows.

    Attributes:
        files: The source of each set, by its name, and under :data:`UNRELATED` that of further rows to fine-tune on.
        limit: Take the first rows of each set only; None: all.
        batch_size: Rows in a forward pass.
        max_length: Rows are cut at so many tokens.
        max_new_tokens: The longest answer.
        chat_template: As in :func:`retainfirst.data.encode_rows`.
        quantize: Bits to quantise to, and ``"nf4"`` for bitsandbytes.
        relearn: Steps of fine-tuning; None: none.
        relearn_rate: Its learning rate.
        prompt_attacks: Ask in other words too.
    """

    files: Mapping[str, str]
    limit: int | None = None
    batch_size: int = 16
    max_length: int = 512
    max_new_tokens: int = 200
    chat_template: str = "auto"
    quantize: tuple[int | Literal["nf4"], ...] = ()
    relearn: int | None = None
    relearn_rate: float = 2e-5
    prompt_attacks: bool = False


def read_files(files: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of each set.

    Raises:
        RetainFirstError: A file is missing or bad; the text names it.
    """
    return {name: read_rows(source) for name, source in files.items()}


def evaluate_rows(
    options: RowOptions,
    rows: Mapping[str, list[dict[str, Any]]],
    name: str,
    model: Any,
    tokenizer: Any,
    before: Any,
) -> Evaluation:
    """Measure a model on its device, and the one before.

    Args:
        options: The options.
        rows: Of :func:`read_files`.
        name: The model's, for error texts.
        model: The model.
        tokenizer: Its tokenizer.
        before: The model before unlearning, or None.

    Raises:
        RetainFirstError: A set, the tokenizer, the model or an option is bad; the text names it.
    """
    check_causal(name, model)
    if before is not None:
        check_causal("--before", before)
    if options.quantize or options.relearn is not None:
        check_not_quantized(name, model, "neither --quantize nor --relearn can change such weights")
    pad_token_id(tokenizer)
    sets = {
        part: make_set(
            part, taken, tokenizer, options.max_length, source=options.files[part], limit=options.limit,
            chat_template=options.chat_template, model=model,
        )
        for part, taken in rows.items()
    }  # fmt: skip
    for one in {id(model): model, id(before): before}.values():
        if one is not None:
            check_vocabulary(one, (each.examples for each in sets.values()), pad_token_id(tokenizer))
    if "held_out" in sets:
        check_disjoint(sets["forget"], sets["held_out"].examples, "the model was trained on them")
    unrelated = sets.pop(UNRELATED, None)
    attacks = _attacks(options, sets, None if unrelated is None else unrelated.examples, tokenizer)
    how = Measuring(batch_size=options.batch_size, max_new_tokens=options.max_new_tokens)
    with Progress() as bar:

        def show(condition: str, done: int, total: int) -> None:
            bar.show("evaluating", done, total, condition)

        return evaluate(model, tokenizer, sets, before=before, attacks=attacks, how=how, progress=show)


def _attacks(
    options: RowOptions, sets: Mapping[str, EvaluationSet], unrelated: EncodedSet | None, tokenizer: Any
) -> list[Attack]:
    found = [attack for bits in dict.fromkeys(options.quantize) for attack in by_quantization(bits, sets)]
    if options.relearn is not None:
        found += by_relearning(
            options.relearn, sets, tokenizer, unrelated=unrelated, learning_rate=options.relearn_rate
        )
    if options.prompt_attacks:
        found += by_prompts(sets, tokenizer, options.max_length, chat_template=options.chat_template)
    return found


def check_same_tokenizer(one: Any, other: Any, before: str) -> None:
    """Refuse two models that number their tokens differently.

    Raises:
        RetainFirstError: Their vocabularies differ.
    """
    if one.get_vocab() != other.get_vocab():
        raise RetainFirstError(
            f"--before {before}: its tokenizer is another one ({len(other.get_vocab())} tokens, the model's has "
            f"{len(one.get_vocab())}), so the two models cannot be compared. Give the model that was unlearned"
        )


def software() -> dict[str, str]:
    """Return the versions of the libraries that compute the numbers."""
    names = ("torch", "transformers", "lm_eval", "rouge_score", "scipy", "bitsandbytes")
    return {"retainfirst": __version__} | {name: version(name) for name in names if find_spec(name) is not None}


def run_facts(model: str, network: Any, before: str | None, former: Any, options: RowOptions) -> dict[str, Any]:
    """Return what an auditor needs to repeat the run: the models and their digests, the settings, the versions.

    Args:
        model: The model's name.
        network: The model.
        before: The name of the model before, or None.
        former: The model before, or None.
        options: The options.
    """
    settings = {
        name: value for name, value in asdict(options).items() if name != "files" and value not in (None, (), False)
    }
    return {
        "model": model,
        "model sha256": weights_digest(network),
        **({} if former is None else {"before": before, "before sha256": weights_digest(former)}),
        "settings": settings,
        "versions": software(),
    }
