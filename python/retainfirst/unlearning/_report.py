"""The report of a run: ``unlearning.json``, ``curves.png`` and the model card."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import retainfirst
from retainfirst.errors import require
from retainfirst.files import finite
from retainfirst.geometry import FIELDS

__all__ = ["make_report", "versions", "write_card", "write_curves"]

Report = dict[str, Any]


def make_report(
    settings: Mapping[str, Any],
    log_history: list[dict[str, float]],
    before: Mapping[str, float],
    after: Mapping[str, float],
    data: Mapping[str, int],
    warnings: Sequence[str],
) -> Report:
    """Return the content of ``unlearning.json``.

    Args:
        settings: The run's settings, with the values that were used where none were given.
        log_history: The trainer's log, with one entry per step.
        before: The measurements before the first step.
        after: The measurements after the last step.
        data: Numbers of rows: used, truncated and dropped.
        warnings: What a reader should know before using the model.

    Returns:
        A dictionary for JSON. None stands for numbers that are not finite, such as a cosine with a zero vector.
    """
    steps = [
        {
            "step": int(entry["step"]),
            "forget_loss": entry["forget_loss"],
            "retain_loss": entry["retain_loss"],
            "geometry": {name: entry[name] for name in FIELDS},
        }
        | ({"cos_step_retain": entry["cos_step_retain"]} if "cos_step_retain" in entry else {})
        for entry in log_history
        if "forget_loss" in entry
    ]
    opposed = [entry["step_opposes_retain"] for entry in log_history if "step_opposes_retain" in entry]
    evaluations = [
        {"step": int(entry["step"]), "forget": entry["forget_measure"]}
        for entry in log_history
        if "forget_measure" in entry
    ]
    report = {
        "config": dict(settings),
        "versions": versions(),
        "seed": settings["seed"],
        "data": dict(data),
        "warnings": list(warnings),
        "steps": steps,
        # Each step is logged, so that each share is 0 or 1.
        "steps_against_retention": round(sum(opposed)) if opposed else None,
        "evaluations": evaluations,
        "before": dict(before),
        "after": dict(after),
    }
    return dict(finite(report))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute the numbers."""
    names = ("torch", "transformers", "accelerate", "peft")
    found = {name: metadata.version(name) for name in names if _installed(name)}
    return {"retainfirst": retainfirst.__version__, "python": platform.python_version(), **found}


def write_curves(report: Report, path: Path) -> None:
    """Plot the losses and the cosines over the steps."""
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    losses, cosines = figure.subplots(2, 1, sharex=True)
    x = [step["step"] for step in report["steps"]]
    for name in ("forget_loss", "retain_loss"):
        losses.plot(x, _drawable(step[name] for step in report["steps"]), label=name.replace("_", " "))
    for name in FIELDS[:3]:
        values = _drawable(step["geometry"][name] for step in report["steps"])
        cosines.plot(x, values, label=name.replace("cos_", "").replace("_", " and "))
    if any("cos_step_retain" in step for step in report["steps"]):
        values = _drawable(step.get("cos_step_retain") for step in report["steps"])
        cosines.plot(x, values, label="parameter step and minus retain", linestyle="--")
    cosines.axhline(0, color="0.7", linewidth=0.8)
    losses.set_ylabel("loss, as minimised")
    cosines.set_ylabel("cosine")
    cosines.set_ylim(-1.05, 1.05)
    cosines.set_xlabel("step")
    config = report["config"]
    losses.set_title(f"{config['objective']} + {config['retain_loss']}, {config['combiner']}")
    for axes in (losses, cosines):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def write_card(report: Report, path: Path) -> None:
    """Write the model card: Hugging Face's front matter, results, a caution, how to load the model, and the settings."""
    config = report["config"]
    local = Path(config["model"]).exists()
    base = Path(config["model"]).resolve().name if local else config["model"]
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {_number(report['before'][name])} | {_number(report['after'][name])} |"
        for name in report["before"]
    )
    settings = "\n".join(
        f"| {key} | {_setting(value)} |" for key, value in config.items() if key != "model" and value not in (None, {})
    )
    warnings = "".join(f"**Warning:** {text}.\n\n" for text in report["warnings"])
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    note = "  # a folder here; put the model's name on the hub before you upload this" if local else ""
    path.write_text(
        f"""---
library_name: transformers
base_model: {json.dumps(base)}{note}
tags: [unlearning, retainfirst]
---

# {base.rpartition("/")[2]}, unlearned

Made from `{base}` by `retainfirst unlearn` in {len(report["steps"])} steps. The forget gradient and the retain gradient were
computed separately and combined by `{config["combiner"]}`.{_against_retention(report)}

| measured on the training files | before | after |
| --- | --- | --- |
{rows}

{warnings}A probability is that of the labelled answer: the geometric mean over its tokens, averaged over rows. It tells how
likely the model is to give these answers to these prompts. It does not tell that the knowledge is gone. Paraphrases, other
languages or a few steps of fine-tuning may bring it back: test for that before you rely on the model.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
```
{_adapter_use(config) if config["lora_rank"] else ""}
## Settings

| setting | value |
| --- | --- |
{settings}

Data: {", ".join(f"{value} {key.replace('_', ' ')}" for key, value in report["data"].items())}.

Software: {software}. The losses and the gradient geometry of every step are in `unlearning.json` and plotted in `curves.png`.
""",
        encoding="utf-8",
    )


def _against_retention(report: Report) -> str:
    count = report["steps_against_retention"]
    if count is None:
        return ""
    how = ", where the guard had put back what worked against it" if report["config"]["guard"] == "enforce" else ""
    return f" In {count} of the steps the parameters moved against the retain gradient{how}."


def _adapter_use(config: Mapping[str, Any]) -> str:
    return f"""
The LoRA adapter is merged into these weights. It is in `adapter` by itself too, for the model from which it was trained:

```python
from peft import PeftModel

base = AutoModelForCausalLM.from_pretrained({config["model"]!r})
model = PeftModel.from_pretrained(base, f"{{folder}}/adapter")
```
"""


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _drawable(values: Any) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _setting(value: Any) -> str:
    text = ", ".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else str(value)
    return text.replace("|", "\\|").replace("<", "\\<")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
