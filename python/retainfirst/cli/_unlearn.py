"""``retainfirst unlearn``: a model, two files, an output folder."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retainfirst.combiners import available_combiners
from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import DTYPES, UnlearnConfig

__all__ = ["unlearn"]

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(UnlearnConfig)}

# The small facts model needs other settings than a language model: those under which the effect was measured.
_FACTS = {
    "objective": "ga",
    "gamma": 4.0,
    "learning_rate": 3e-4,
    "batch_size": 32,
    "max_steps": 400,
    "stop_at_forget_probability": 0.30,
    "evaluate_every": 2,
    "save_every": 0,
}

Option = typer.Option
_RULES, _OBJECTIVES = ", ".join(available_combiners()), "ga, npo, simnpo"


def unlearn(
    context: typer.Context,
    model: Annotated[
        str | None, Option(help="Model folder or hub id. Without it: the built-in facts model, to try things out.")
    ] = None,
    forget: Annotated[
        str | None, Option(help="Forget set: a JSON-lines file, or a hub name such as locuslab/TOFU:forget10.")
    ] = None,
    retain: Annotated[str | None, Option(help="Retain set, likewise.")] = None,
    output: Annotated[Path | None, Option(help="Output folder: new or empty. Needed with --model.")] = None,
    objective: Annotated[str, Option(help=f"Forget objective: {_OBJECTIVES}.")] = _DEFAULT["objective"],
    retain_loss: Annotated[str, Option(help="Retain loss: nll, or kl to the model before unlearning.")] = _DEFAULT[
        "retain_loss"
    ],
    combiner: Annotated[str, Option(help=f"How the two gradients become one: {_RULES}.")] = _DEFAULT["combiner"],
    scope: Annotated[str | None, Option(help="For pcgrad and blur: tensor, module, block or global.")] = None,
    alpha: Annotated[float, Option(help="Weight of the retain gradient.")] = _DEFAULT["alpha"],
    gamma: Annotated[float, Option(help="Weight of the forget gradient.")] = _DEFAULT["gamma"],
    beta: Annotated[float | None, Option(help="Of npo (0.1 if not given) and simnpo (4.5 if not given).")] = None,
    delta: Annotated[float | None, Option(help="Of simnpo (0 if not given).")] = None,
    max_steps: Annotated[int | None, Option(help="Optimiser steps; over --epochs.")] = None,
    epochs: Annotated[float, Option(help="Passes over the longer of the two sets.")] = _DEFAULT["epochs"],
    batch_size: Annotated[int, Option(help="Forget rows, and retain rows, a micro-batch.")] = _DEFAULT["batch_size"],
    accumulate: Annotated[int, Option(help="Micro-batches a step.")] = _DEFAULT["accumulate"],
    learning_rate: Annotated[float, Option(help="Of AdamW, constant.")] = _DEFAULT["learning_rate"],
    max_grad_norm: Annotated[float, Option(help="Clip the combined gradient to this length; 0: never.")] = _DEFAULT[
        "max_grad_norm"
    ],
    max_length: Annotated[int, Option(help="Tokens a row is cut to.")] = _DEFAULT["max_length"],
    chat_template: Annotated[str, Option(help="For questions and messages: auto, always or never.")] = _DEFAULT[
        "chat_template"
    ],
    pairing: Annotated[str, Option(help="How the shorter set is stretched: cycle or sample.")] = _DEFAULT["pairing"],
    pad_token: Annotated[str | None, Option(help="Token to pad with, for tokenizers that have none.")] = None,
    stop_at_forget_probability: Annotated[
        float | None, Option(help="Stop once the forget answers are at most this probable on average.")
    ] = None,
    evaluate_every: Annotated[
        int, Option(help="Steps between two looks at the forget set, if there is something to stop at.")
    ] = _DEFAULT["evaluate_every"],
    evaluate_rows: Annotated[int, Option(help="Rows of each set measured before and after.")] = _DEFAULT[
        "evaluate_rows"
    ],
    save_every: Annotated[int, Option(help="Steps between checkpoints to resume from; 0: only on Ctrl-C.")] = _DEFAULT[
        "save_every"
    ],
    lora_rank: Annotated[int, Option(help="Train a LoRA adapter of this rank; 0: the model's own weights.")] = _DEFAULT[
        "lora_rank"
    ],
    dtype: Annotated[str, Option(help=f"{', '.join(DTYPES)}.")] = _DEFAULT["dtype"],
    device: Annotated[str, Option(help="auto or cpu.")] = _DEFAULT["device"],
    offload: Annotated[
        str, Option(help="cpu: the waiting gradient lies in the host's memory, not the GPU's.")
    ] = _DEFAULT["offload"],
    seed: Annotated[int, Option(help="Of data order and pairing.")] = _DEFAULT["seed"],
    resume: Annotated[bool, Option(help="Go on with the interrupted run in --output.")] = False,
    report_to: Annotated[str, Option(help="Log to tensorboard, wandb, ... as well.")] = _DEFAULT["report_to"],
    as_json: Annotated[bool, Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Make a language model forget one set of examples and keep another.

    The forget gradient and the retain gradient are taken apart and combined so that forgetting does not work against
    retaining. The output folder gets the model and its tokenizer, unlearning.json (settings, versions, losses and gradient
    geometry of every step, measurements before and after), curves.png and a model card.

    Rows have one of four forms: {"text"}, {"prompt", "completion"}, {"question", "answer"} or {"messages"}.

    Examples:
    retainfirst unlearn

    retainfirst unlearn --model ./model --forget forget.jsonl --retain retain.jsonl --output ./unlearned

    retainfirst unlearn --model ./model --forget forget.jsonl --retain retain.jsonl --output ./unlearned --objective npo
    --combiner pcgrad --scope module --stop-at-forget-probability 0.1 --lora-rank 16
    """
    # By the source's name, since recent versions of typer carry their own copy of click and its classes.
    given: dict[str, Any] = {
        name: context.params[name]
        for name in _DEFAULT
        if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    }
    if model is None:
        _try_facts(given, combiner, output, as_json)
        return
    missing = [f"--{name}" for name in ("forget", "retain", "output") if given.get(name) is None]
    if missing:
        raise RetainFirstError(f"--model needs {', '.join(missing)} too")
    reports = {combiner: _run({**given, "output": str(output)})}
    _show(reports, as_json)
    if not as_json:
        Console().print(f"Model, unlearning.json, curves.png and model card: {output}")


def _run(settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    from retainfirst.unlearning import unlearn as run

    return run(UnlearnConfig(**settings), **options)


def _try_facts(given: dict[str, Any], combiner: str, output: Path | None, as_json: bool) -> None:
    """Unlearn the built-in facts with the chosen rule, and beside it with plain addition."""
    from retainfirst.files import whole_folder
    from retainfirst.unlearning import Interrupted
    from retainfirst_lab.tasks import facts

    for name in ("forget", "retain", "resume"):
        if name in given:
            raise RetainFirstError(
                f"--{name} needs --model; without it the built-in facts model unlearns its own facts"
            )
    given.pop("output", None)
    folder = facts.cached_folder(progress=True)
    data = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}
    reports = {}
    try:
        with whole_folder(output) if output else tempfile.TemporaryDirectory() as draft:
            for rule in dict.fromkeys([combiner, "sum"]):
                settings = {
                    **_FACTS,
                    **given,
                    **data,
                    "model": str(folder),
                    "combiner": rule,
                    "output": str(Path(draft) / rule),
                }
                if rule == "sum":
                    settings.pop("scope", None)
                reports[rule] = _run(settings, measure=_Accuracy, label=rule)
    except Interrupted:
        raise Interrupted("interrupted; nothing was written") from None
    _show(reports, as_json)
    if not as_json:
        console = Console()
        console.print("Accuracy is over four choices: chance is 0.25. sum is plain addition of the two gradients.")
        if output is not None:
            console.print(f"Models, unlearning.json, curves.png and model cards: {output}")


class _Accuracy:
    """Accuracy on the facts model's own questions."""

    name = "accuracy"

    def __init__(self, tokenizer: Any) -> None:
        from retainfirst_lab.tasks import facts

        self._tokenizer, self._score = tokenizer, facts.accuracy
        self._forget, self._retain = facts.facts_data()

    def forget(self, model: Any) -> float:
        return self._score(model, self._tokenizer, self._forget)

    def retain(self, model: Any) -> float:
        return self._score(model, self._tokenizer, self._retain)


def _show(reports: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        summary = {
            rule: {"steps": len(report["steps"]), "before": report["before"], "after": report["after"]}
            for rule, report in reports.items()
        }
        print(json.dumps(summary, indent=2))
        return
    table = Table()
    for column in ("combiner", "steps", "measured", "before", "after"):
        table.add_column(column, justify="left" if column in ("combiner", "measured") else "right")
    for rule, report in reports.items():
        lead = (rule, str(len(report["steps"])))
        for name, before in report["before"].items():
            table.add_row(*lead, name.replace("_", " "), f"{before:.3f}", _value(report["after"][name]))
            lead = ("", "")
        table.add_section()
    Console().print(table)


def _value(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.3f}"
