"""Unlearn, then ask whether it is gone: what the model says, after 4-bit quantisation, and after relearning.

The report is a page that opens in a browser::

    python examples/evaluate_and_attack.py --output outputs/attacked
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from retainfirst import evaluation
from retainfirst.data import read_rows
from retainfirst.unlearning import UnlearnConfig, unlearn
from retainfirst_lab.tasks import facts


def main(
    output: Annotated[Path, typer.Option(help="A new folder.")],
    rows: Annotated[int, typer.Option(help="Rows of each set to measure.")] = 32,
    relearn: Annotated[int, typer.Option(help="Steps of the relearning attack.")] = 20,
) -> None:
    """Unlearn the built-in facts into a new folder, and write evaluation.html beside the model."""
    folder = facts.cached_folder(progress=True)
    files = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}
    config = UnlearnConfig(
        model=str(folder), forget=files["forget"], retain=files["retain"], output=str(output), combiner="sago",
        objective="ga", gamma=4.0, learning_rate=3e-4, batch_size=32, max_steps=200, stop_at_forget_probability=0.05,
        evaluate_every=5, save_every=0,
    )  # fmt: skip
    unlearn(config)

    tokenizer = AutoTokenizer.from_pretrained(output)
    before, after = (AutoModelForCausalLM.from_pretrained(name).eval() for name in (folder, output))
    sets = {
        name: evaluation.make_set(name, read_rows(file), tokenizer, 512, limit=rows) for name, file in files.items()
    }
    attacks = [
        *evaluation.by_quantization(4, sets),
        *evaluation.by_relearning(relearn, sets, tokenizer, learning_rate=1e-4),
    ]
    how = evaluation.Measuring(batch_size=32, max_new_tokens=4)
    found = evaluation.evaluate(after, tokenizer, sets, before=before, attacks=attacks, how=how)
    for verdict in evaluation.verdicts(found):
        print(f"{verdict.question} {verdict.answer}. {verdict.text}")

    options = evaluation.RowOptions(files, limit=rows, quantize=(4,), relearn=relearn, relearn_rate=1e-4)
    evaluation.write_report(found, evaluation.run_facts(str(output), after, str(folder), before, options), output)
    print(f"report: {output / 'evaluation.html'}")


if __name__ == "__main__":
    typer.run(main)
