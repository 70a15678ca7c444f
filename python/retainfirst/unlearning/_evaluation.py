"""The full evaluation at the end of a run: of the saved model, against the one before."""

from __future__ import annotations

from pathlib import Path

from retainfirst.data import set_pad_token
from retainfirst.evaluation import (
    Evaluation,
    RowOptions,
    evaluate_rows,
    read_files,
    run_facts,
    table_markdown,
    verdicts,
    write_report,
)
from retainfirst.files import write_whole
from retainfirst.models import load_model, load_tokenizer
from retainfirst.unlearning._config import UnlearnConfig

__all__ = ["evaluate_result"]

_BITS, _RELEARN = (8, 4), 10

_PLACE = "## Use\n"


def evaluate_result(config: UnlearnConfig, device: str) -> None:
    """Evaluate the model in the output folder, and add the report and a part of the model card to it.

    The attacks are quantisation to 8 and 4 bits, 10 steps of relearning (given two forget rows), and other prompts.

    Args:
        config: The run's settings; its ``evaluate_rows`` first rows of each set are measured.
        device: Where to measure.

    Raises:
        MissingDependency: scipy or rouge-score is not installed (extra ``eval``).
        RetainFirstError: As :func:`retainfirst.evaluation.evaluate`.
    """
    folder = Path(config.output)
    files = {"forget": config.forget, "retain": config.retain}
    rows = read_files(files)
    enough = min(len(rows["forget"]), config.evaluate_rows) > 1
    options = RowOptions(
        files, limit=config.evaluate_rows, batch_size=config.batch_size, max_length=config.max_length,
        chat_template=config.chat_template, quantize=_BITS, relearn=_RELEARN if enough else None, prompt_attacks=True,
    )  # fmt: skip
    tokenizer = load_tokenizer(config.output)
    if config.pad_token is not None:
        set_pad_token(tokenizer, config.pad_token)
    model, before = (load_model(name).to(device) for name in (config.output, config.model))
    found = evaluate_rows(options, rows, config.output, model, tokenizer, before)
    write_report(found, run_facts(config.output, model, config.model, before, options), folder)
    card = folder / "README.md"
    head, place, rest = card.read_text(encoding="utf-8").partition(_PLACE)
    write_whole(card, f"{head}{_section(found)}\n{place}{rest}")


def _section(found: Evaluation) -> str:
    """Return the card's part: the verdicts and the table."""
    judged = "\n".join(f"- {one.question} **{one.answer}**. {one.text}" for one in verdicts(found))
    return f"""## Evaluation

{judged}

{table_markdown(found)}

`evaluation.html` has the intervals and the answers; the verdicts are about these rows and these attacks.
"""
