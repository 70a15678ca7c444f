"""``retainfirst unlearn``: a model, two files, an output folder."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retainfirst.cli._evaluate_rows import report_files, show_verdicts
from retainfirst.cli._options import options_from
from retainfirst.cli._worth_opening import worth_opening
from retainfirst.errors import RetainFirstError
from retainfirst.files import json_text
from retainfirst.unlearning import Interrupted, UnlearnConfig, settings_of

__all__ = ["unlearn"]

# Under these settings docs/reproduction.md compares combiners on the facts model; a language model needs others.
_FACTS: dict[str, Any] = {
    "objective": "ga",
    "gamma": 4.0,
    "learning_rate": 3e-4,
    "batch_size": 32,
    "max_steps": 400,
    "stop_at_forget_probability": 0.3,
    "evaluate_every": 2,
}

_WITH_MODEL = ("forget", "retain", "evaluate", "evaluate_rows", "save_every", "resume")
"""Settings that do nothing without a model: its files, and what belongs to measuring them and to resuming."""

_NOTES = {name: f"without --model: {value}" for name, value in _FACTS.items()} | {
    "model": "without it: the built-in facts model, to try the command",
    **dict.fromkeys(("forget", "retain", "output"), "needed with --model"),
    **dict.fromkeys(("evaluate", "evaluate_rows", "save_every", "resume"), "only with --model"),
    "epochs": "without --model: only if given, in place of the steps",
    "stop_at_forget_probability": f"without --model: {_FACTS['stop_at_forget_probability']}, of the accuracy",
}


@options_from(settings_of(UnlearnConfig), _NOTES)
def unlearn(
    given: dict[str, Any], as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False
) -> None:
    """Make a language model forget one set of examples and keep another.

    The forget gradient and the retain gradient are computed separately and combined so that forgetting does not work against
    retaining. The output folder gets the model and its tokenizer, unlearning.json (settings, versions, losses and gradient
    geometry of every step, measurements before and after), curves.png and a model card.

    Rows have one of four forms: {"text"}, {"prompt", "completion"}, {"question", "answer"} or {"messages"}.

    Without --model, the command unlearns the facts of a small built-in model with the chosen combiner and with plain addition.
    It builds that model once and keeps it in the user's cache folder (on Linux ~/.cache/retainfirst), or in $RETAINFIRST_CACHE.

    Examples:

        retainfirst unlearn

        retainfirst unlearn --model ./model --forget forget.jsonl --retain retain.jsonl --output ./unlearned

        retainfirst unlearn --model ./model --forget forget.jsonl --retain retain.jsonl --output ./unlearned --objective npo
        --combiner pcgrad --scope module --combiner-option round_toward_retain=true --stop-at-forget-probability 0.1
    """  # noqa: D412 - the command's help text, not Google sections
    if "model" not in given:
        _try_facts(given, as_json)
        return
    missing = [f"--{name}" for name in ("forget", "retain", "output") if name not in given]
    if missing:
        raise RetainFirstError(f"--model needs {', '.join(missing)} too")
    config = UnlearnConfig(**given)
    _show({config.combiner: _run(config)}, as_json)
    if not as_json:
        folder = Path(config.output)
        if config.evaluate == "full":
            show_verdicts(json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["verdicts"])
        Console(soft_wrap=True).print(f"The model is in {folder}.", highlight=False, markup=False)
        evaluation = report_files(folder) if config.evaluate == "full" else {}
        worth_opening(dict(list(evaluation.items())[:1]) | _files_of(folder))


def _run(config: UnlearnConfig, **options: Any) -> dict[str, Any]:
    from retainfirst.unlearning import unlearn as run

    return run(config, **options)


def _try_facts(given: dict[str, Any], as_json: bool) -> None:
    """Unlearn the built-in facts with the chosen combiner, and beside it with plain addition."""
    from retainfirst.files import refuse_existing, whole_folder
    from retainfirst_lab.tasks import facts

    for name in _WITH_MODEL:
        if name in given:
            raise RetainFirstError(
                f"--{name.replace('_', '-')} needs --model; without it the built-in facts model unlearns its own facts"
            )
    output = Path(given["output"]) if "output" in given else None
    if output is not None:
        refuse_existing(output)
    places = ("model", "forget", "retain", "output")
    defaults = _FACTS | ({"max_steps": None} if "epochs" in given else {})
    # Refuses before the model is built. Nothing can be resumed here, so no checkpoints are needed.
    chosen = UnlearnConfig(**{**defaults, "save_every": 0, **given, **dict.fromkeys(places, "")})
    folder = facts.cached_folder(progress=True)
    chosen = replace(
        chosen, model=str(folder), forget=str(folder / "forget.jsonl"), retain=str(folder / "retain.jsonl")
    )
    plain = replace(chosen, combiner="sum", combiner_options={}, scope=None)
    reports = {}
    try:
        with whole_folder(output) if output else tempfile.TemporaryDirectory() as draft:
            for combiner, config in {chosen.combiner: chosen, plain.combiner: plain}.items():
                target = Path(draft) / _folder_of(combiner)
                reports[combiner] = _run(replace(config, output=str(target)), measure=_Accuracy, label=combiner)
    except Interrupted:
        raise Interrupted("interrupted; nothing was written") from None
    _show(reports, as_json)
    if not as_json:
        console = Console(soft_wrap=True, highlight=False)
        console.print("Accuracy is over four choices: chance is 0.25. sum is plain addition of the two gradients.")
        if output is None:
            console.print("Nothing was written; --output FOLDER keeps the models, their curves and their cards.")
        else:
            console.print(f"The models are in {output}.", markup=False)
            worth_opening(_files_of(output / _folder_of(chosen.combiner)))


def _folder_of(combiner: str) -> str:
    """Return a combiner's name without the signs that a path in it would have."""
    return combiner.replace("/", "_").replace(":", "_")


def _files_of(folder: Path) -> dict[Path, str]:
    return {
        folder / "README.md": "the model card: results, warnings, settings",
        folder / "curves.png": "losses and cosines over the steps",
        folder / "unlearning.json": "every step, with settings and versions",
    }


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
            combiner: {"steps": len(report["steps"])} | {key: report[key] for key in ("before", "after", "warnings")}
            for combiner, report in reports.items()
        }
        print(json_text(summary))
        return
    table = Table()
    for column in ("combiner", "steps", "measured", "before", "after"):
        table.add_column(column, justify="left" if column in ("combiner", "measured") else "right")
    for combiner, report in reports.items():
        lead = (combiner, str(len(report["steps"])))
        for name, before in report["before"].items():
            table.add_row(*lead, name.replace("_", " "), f"{before:.3f}", _value(report["after"][name]))
            lead = ("", "")
        table.add_section()
    console = Console()
    console.print(table)
    for combiner, report in reports.items():
        for text in report["warnings"]:
            console.print(f"warning ({combiner}): {text}", style="yellow", markup=False)


def _value(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.3f}"
