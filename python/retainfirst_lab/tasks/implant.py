"""Teach a model rows by fine-tuning, so that it has something to unlearn.

For example, no small model knows TOFU's fictitious authors. This teaches it forget and retain rows::

    python -m retainfirst_lab.tasks.implant --model models/SmolLM2 --data forget.jsonl --data retain.jsonl \
        --output models/knows

It trains all weights with AdamW and a learning rate that falls linearly to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from retainfirst.errors import RetainFirstError
from retainfirst.files import refuse_existing, whole_folder

__all__ = ["implant_rows"]

WARMUP_STEPS = 5


def implant_rows(
    model: str | Path,
    data: Sequence[str | Path],
    output: str | Path,
    *,
    epochs: int = 4,
    learning_rate: float = 2e-4,
    batch_size: int = 8,
    max_length: int = 512,
    seed: int = 0,
    chat_template: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = False,
) -> list[float]:
    """Fine-tune ``model`` on all rows of ``data`` and write it, with its tokenizer, to ``output``.

    Args:
        model: Folder or hub name of a causal language model; its tokenizer needs a pad token.
        data: Files or hub names, as ``retainfirst.data.read_rows`` takes them.
        output: The folder to make; absent or empty. It is written whole or not at all.
        epochs: Passes over the rows, at least 1.
        learning_rate: The largest learning rate, above 0; it falls linearly to 0.
        batch_size: Rows per step, at least 1.
        max_length: Rows are cut to so many tokens.
        seed: Of the order of the rows.
        chat_template: For questions and messages: ``"auto"``, ``"always"`` or ``"never"``.
        checkpoint: A file that every epoch is saved to; an interrupted call resumes from it. It is removed at the end. One of
            another model, other rows or other settings is not used.
        progress: Show a progress bar on standard error.

    Returns:
        The mean loss of each epoch, in nats per labelled token.

    Raises:
        RetainFirstError: A number is out of range, the output is not free, or the model or a row is invalid.
        MissingDependency: transformers is not installed (extra ``hf``).
    """
    target = Path(output)
    refuse_existing(target)
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("learning_rate", learning_rate, 0),
    ):
        if not value >= least or value == 0:
            raise RetainFirstError(f"{name} must be {'above 0' if least == 0 else 'at least 1'}, found {value}.")
    if not data:
        raise RetainFirstError("There is nothing to implant: give at least one source of rows.")

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from retainfirst.data import collate, encode_rows, pad_token_id, read_rows
    from retainfirst.models import keep_rope_theta, load_model, load_tokenizer
    from retainfirst.objectives import nll
    from retainfirst_lab.checkpoint import load_checkpoint, save_checkpoint, training_key

    tokenizer = load_tokenizer(str(model))
    padding = pad_token_id(tokenizer)
    sets = [
        encode_rows(read_rows(source), tokenizer, max_length, chat_template=chat_template, name=str(source))
        for source in data
    ]
    rows = [part[index] for part in sets for index in range(len(part))]
    network = load_model(str(model)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1.0) * (1 - step / steps)
    )
    losses: list[float] = []
    key = training_key(network, [rows, epochs, learning_rate, batch_size, seed])
    if found := load_checkpoint(checkpoint, network, optimizer, key):
        losses = found["losses"]
        schedule.load_state_dict(found["schedule"])
        order.set_state(found["order"])
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("implanting", total=steps, completed=steps * len(losses) // epochs)
        for _ in range(len(losses), epochs):
            total = 0.0
            shuffled = torch.randperm(len(rows), generator=order).tolist()
            for start in range(0, len(rows), batch_size):
                batch = [rows[index] for index in shuffled[start : start + batch_size]]
                loss = nll(network, collate(batch, padding))
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                total += loss.item() * len(batch)
                bar.update(task, advance=1, description=f"implanting, loss {loss.item():.3f}")
            losses.append(total / len(rows))
            if checkpoint is not None:
                state = {"losses": losses, "schedule": schedule.state_dict(), "order": order.get_state()}
                save_checkpoint(checkpoint, network, optimizer, state, key)
    with whole_folder(target) as draft:
        network.eval().save_pretrained(draft)
        keep_rope_theta(draft)
        tokenizer.save_pretrained(draft)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return losses


def main(
    model: Annotated[str, typer.Option(help="Folder or hub name of the model to teach.")],
    data: Annotated[list[str], typer.Option(help="File or hub name of rows; repeat it for several.")],
    output: Annotated[Path, typer.Option(help="The folder to make; absent or empty.")],
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="The largest learning rate; it falls linearly to 0.")] = 2e-4,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 8,
    max_length: Annotated[int, typer.Option(help="Rows are cut to so many tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the order of the rows.")] = 0,
) -> None:
    """Teach a model rows by fine-tuning."""
    try:
        losses = implant_rows(
            model,
            data,
            output,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            progress=True,
        )
    except RetainFirstError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"loss by epoch: {', '.join(f'{loss:.3f}' for loss in losses)}; the model is at {output}")


if __name__ == "__main__":
    typer.run(main)
