"""Unlearn in a training loop of your own, with a guard on the optimiser.

The model is the small built-in one, which knows invented facts. A GPU is used if there is one::

    python examples/own_loop.py
    python examples/own_loop.py --combiner sum --no-guard
"""

from __future__ import annotations

import itertools

import torch
import typer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

import retainfirst as rf
from retainfirst.data import PairedCollator, load_pairs, pad_token_id
from retainfirst.objectives import gradient_ascent, nll
from retainfirst_lab.tasks import facts


def main(combiner: str = "sago", guard: bool = True, steps: int = 200) -> None:
    """Unlearn the built-in facts until the model answers no better than by chance."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    folder = facts.cached_folder(progress=True)
    model = AutoModelForCausalLM.from_pretrained(folder).to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    forget_rows, retain_rows = facts.facts_data()

    # Each batch is {"forget": {...}, "retain": {...}}, with input_ids, attention_mask and labels.
    pairs = load_pairs(folder / "forget.jsonl", folder / "retain.jsonl", tokenizer)
    loader = DataLoader(pairs, batch_size=32, shuffle=True, collate_fn=PairedCollator(pad_token_id(tokenizer)))
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    step = rf.TwoTaskStep(model, combiner, gamma=4.0)
    # The combiner's promise is about the update in .grad. The guard keeps it for the step that AdamW makes of the update.
    watch = step.guard(optimizer, enforce=guard)

    print(f"{combiner} on {device}, {'with' if guard else 'without'} the guard")
    for number, batch in enumerate(itertools.islice(batches, steps), start=1):
        batch = {task: {name: x.to(device) for name, x in half.items()} for task, half in batch.items()}
        with step.forget():
            gradient_ascent(model, batch["forget"]).backward()  # type: ignore[no-untyped-call]
        with step.retain():
            nll(model, batch["retain"]).backward()  # type: ignore[no-untyped-call]
        geometry = step.combine()  # the update is in .grad now
        optimizer.step()
        optimizer.zero_grad()
        if number % 10 == 0 and watch.geometry is not None:
            forget, retain = (facts.accuracy(model, tokenizer, rows) for rows in (forget_rows, retain_rows))
            print(
                f"step {number:3}: accuracy forget {forget:.2f}, retain {retain:.2f}; cosine with retain:"
                f" update {geometry.cos_update_retain:+.2f}, step {watch.geometry.cos_step_retain:+.2f}"
            )
            if forget <= 0.3:  # chance is 0.25
                break


if __name__ == "__main__":
    typer.run(main)
