"""Teach a model rows by fine-tuning, so that it has something to unlearn.

For example, no small model knows TOFU's fictitious authors. This teaches it forget and retain rows::

    python -m retainfirst_lab.tasks.implant --model models/SmolLM2 --data forget.jsonl --data retain.jsonl \
        --output models/knows

It trains all weights with AdamW and a learning rate that falls linearly to 0. Checkpoints are kept in ``models/knows.unfinished``
until the model is written; after an interruption the same command with ``--resume`` goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import typer

from retainfirst.data import Example, collate
from retainfirst.errors import RetainFirstError
from retainfirst.files import refuse_existing, whole_folder
from retainfirst.objectives import nll
from retainfirst.progress import Progress
from retainfirst.unlearning import on_interrupt
from retainfirst.weights import weights_digest
from retainfirst_lab.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["implant_rows"]

WARMUP_STEPS = 5

# The settings, which a checkpoint holds, tell one training from another by name.
_KEY = "implant"


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
        checkpoint: A file that the state is saved to at the end of every epoch, and on Ctrl-C and SIGTERM after the current step;
            a call that finds it goes on from there. It is removed once the model is written.
        progress: Show the progress on standard error.

    Returns:
        The mean loss of each epoch, in nats per labelled token.

    Raises:
        RetainFirstError: A number is out of range, the output is not free, the model or a row is invalid, or the checkpoint is
            damaged or of a call with other arguments.
        MissingDependency: transformers is not installed (extra ``hf``).
        KeyboardInterrupt: On Ctrl-C and, with a checkpoint, on SIGTERM.
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

    from retainfirst.data import encode_rows, pad_token_id, read_rows
    from retainfirst.models import keep_rope_theta, load_model, load_tokenizer

    tokenizer = load_tokenizer(str(model))
    padding = pad_token_id(tokenizer)
    sets = [
        encode_rows(read_rows(source), tokenizer, max_length, chat_template=chat_template, name=str(source))
        for source in data
    ]
    rows = [part[index] for part in sets for index in range(len(part))]
    network = load_model(str(model)).train()
    teaching = _Teaching(
        network, rows, padding, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed
    )
    if checkpoint is not None and checkpoint.exists():
        teaching.load(checkpoint)
    with Progress() as bar:

        def show(loss: float | None) -> None:
            if progress:
                note = "" if loss is None else f"loss {loss:.3f}"
                bar.show("teaching, step", teaching.finished, teaching.steps, note)

        show(None)
        teaching.run(checkpoint, show)
    try:
        with whole_folder(target) as draft:
            network.eval().save_pretrained(draft)
            keep_rope_theta(draft)
            tokenizer.save_pretrained(draft)
    except Exception as error:  # a full disk raises errors of the library that writes
        if checkpoint is None:
            raise
        raise RetainFirstError(
            f"the model cannot be written to {target}: {error}. The training is kept in {checkpoint}; resume it later"
        ) from error
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return teaching.losses


class _Teaching:
    """A training on rows that can stop after any step and go on later.

    Attributes:
        losses: The mean loss of each finished epoch.
        steps: The number of all steps.
        finished: The number of finished steps.
    """

    def __init__(
        self,
        network: Any,
        rows: Sequence[Example],
        padding: int,
        *,
        epochs: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
    ) -> None:
        self._network, self._rows, self._padding, self._batch_size = network, rows, padding, batch_size
        self._in_epoch = -(-len(rows) // batch_size)
        self.steps, self.finished = epochs * self._in_epoch, 0
        self.losses: list[float] = []
        self._total = 0.0  # of the present epoch
        self._order = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1.0) * (1 - step / self.steps)
        )
        digest = hashlib.sha256(repr([row["input_ids"] + row["labels"] for row in rows]).encode()).hexdigest()
        self._settings = {
            "model": weights_digest(network),
            "rows": digest,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
        }

    def run(self, checkpoint: Path | None, report: Callable[[float], None]) -> None:
        """Train to the end; ``report`` gets the loss of each step."""
        interrupted: list[int] = []

        def note(number: int, _: FrameType | None) -> None:
            if interrupted:
                raise KeyboardInterrupt
            interrupted.append(number)

        with nullcontext() if checkpoint is None else on_interrupt(note):
            while self.finished < self.steps:
                begun = self._order.get_state()
                shuffled = torch.randperm(len(self._rows), generator=self._order).tolist()
                for step in range(self.finished % self._in_epoch, self._in_epoch):
                    report(self._step(shuffled[step * self._batch_size : (step + 1) * self._batch_size]))
                    if checkpoint is not None and interrupted:
                        at_end = step + 1 == self._in_epoch
                        self._save(checkpoint, self._order.get_state() if at_end else begun)
                        raise KeyboardInterrupt
                if checkpoint is not None:
                    self._save(checkpoint, self._order.get_state())

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            RetainFirstError: It is damaged, or of a training with other settings.
        """
        found = load_checkpoint(checkpoint, self._network, self._optimizer, _KEY)
        if found is None:
            raise RetainFirstError(f"the checkpoint {checkpoint} is damaged; remove it and start again")
        settings = found.get("settings", {})
        differing = [
            f"{name} (was {settings.get(name)}, is {value})"
            for name, value in self._settings.items()
            if settings.get(name) != value
        ]
        if differing:
            raise RetainFirstError(
                f"the checkpoint {checkpoint} is of a training with other settings: {'; '.join(differing)}. Go on with the same,"
                " or remove it and start again"
            )
        self.losses, self.finished, self._total = found["losses"], found["finished"], found["total"]
        self._schedule.load_state_dict(found["schedule"])
        self._order.set_state(found["order"])

    def _step(self, chosen: Sequence[int]) -> float:
        loss = nll(self._network, collate([self._rows[index] for index in chosen], self._padding))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.finished += 1
        self._total += loss.item() * len(chosen)
        if self.finished % self._in_epoch == 0:
            self.losses.append(self._total / len(self._rows))
            self._total = 0.0
        return loss.item()

    def _save(self, checkpoint: Path, order: torch.Tensor) -> None:
        """Save the state; ``order`` is that of the generator which draws the order of the next step's epoch."""
        state = {
            "settings": self._settings,
            "losses": self.losses,
            "finished": self.finished,
            "total": self._total,
            "schedule": self._schedule.state_dict(),
            "order": order,
        }
        save_checkpoint(checkpoint, self._network, self._optimizer, state, _KEY)


def main(
    model: Annotated[str, typer.Option(help="Folder or hub name of the model to teach.")],
    data: Annotated[list[str], typer.Option(help="File or hub name of rows; repeat it for several.")],
    output: Annotated[Path, typer.Option(help="The folder to make; absent or empty.")],
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="The largest learning rate; it falls linearly to 0.")] = 2e-4,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 8,
    max_length: Annotated[int, typer.Option(help="Rows are cut to so many tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the order of the rows.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run of the same output.")
    ] = False,
) -> None:
    """Teach a model rows by fine-tuning."""
    checkpoint = output.with_name(f"{output.name}.unfinished")
    try:
        if checkpoint.exists() and not resume:
            raise RetainFirstError(f"{checkpoint} is of an unfinished run; add --resume to go on with it, or remove it")
        if resume and not checkpoint.exists():
            raise RetainFirstError(f"there is no {checkpoint}, so there is nothing to resume; start without --resume")
        losses = implant_rows(
            model,
            data,
            output,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            checkpoint=checkpoint,
            progress=True,
        )
    except RetainFirstError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        kept = f"go on with --resume (the training is kept in {checkpoint})"
        typer.echo(f"interrupted; {kept if checkpoint.exists() else 'nothing was written'}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"loss by epoch: {', '.join(f'{loss:.3f}' for loss in losses)}; the model is at {output}")


if __name__ == "__main__":
    typer.run(main)
