"""Unlearn with the Trainer of transformers and LoRA adapters, from two files of JSON lines.

Without options it takes the small built-in model and its files::

    python examples/lora_trainer.py
    python examples/lora_trainer.py --model MODEL --forget forget.jsonl --retain retain.jsonl --output unlearned
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from retainfirst.data import PairedCollator, load_pairs, pad_token_id
from retainfirst.evaluation import AnswerProbability
from retainfirst.hf import StopAtForget, TwoTaskTrainer
from retainfirst_lab.tasks import facts


def main(
    model: str | None = None,
    forget: str = "forget.jsonl",
    retain: str = "retain.jsonl",
    output: Path | None = None,
    learning_rate: float = 3e-3,
    steps: int = 150,
) -> None:
    """Train adapters that forget, and save them merged into the model."""
    if model is None:
        folder = facts.cached_folder(progress=True)
        model, forget, retain = str(folder), str(folder / "forget.jsonl"), str(folder / "retain.jsonl")
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model),
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    pairs = load_pairs(forget, retain, tokenizer, max_length=512)
    padding = pad_token_id(tokenizer)
    # The mean probability that the model gives the answers, of the first 64 rows of each file.
    measure = AnswerProbability(pairs, padding, rows=64, batch_size=32)
    print(f"before: forget {measure.forget(network):.3f}, retain {measure.retain(network):.3f}")

    with tempfile.TemporaryDirectory() as scratch:
        trainer = TwoTaskTrainer(
            model=network,
            args=TrainingArguments(
                output_dir=scratch,
                learning_rate=learning_rate,
                per_device_train_batch_size=32,
                max_steps=steps,
                logging_steps=10,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=pairs,
            data_collator=PairedCollator(padding),
            combiner="sago",
            combiner_options={"gamma": 4.0},
            objective="ga",
            callbacks=[StopAtForget(measure, at_most=0.1, every=5)],
        )
        trainer.train()
    print(
        f"after {trainer.state.global_step} steps: forget {measure.forget(network):.3f}, retain {measure.retain(network):.3f}"
    )
    if output is not None:
        network.merge_and_unload().save_pretrained(output)
        tokenizer.save_pretrained(output)
        print(f"the model is in {output}")


if __name__ == "__main__":
    typer.run(main)
