"""The table of the paper's experiments, read from their configs.

``python -m retainfirst_open_unlearning.experiments`` prints it as Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retainfirst_lab.paper import REPORTED

__all__ = ["Experiment", "experiments", "table"]

_BASE = "retainfirst_base"

NOT_THE_AUTHORS = ("rwku/retainfirst_npo_pcgrad_global", "rwku/retainfirst_simnpo_pcgrad_global")
"""Runs that the authors do not have. They use the authors' settings of PCGrad per tensor, with the global scope."""

_COMMAND = "python src/train.py --config-name=unlearn.yaml experiment={path} task_name={name}"


@dataclass(frozen=True)
class Experiment:
    """One experiment, read from its files.

    Attributes:
        path: The value of ``experiment=``.
        trainer: Its value of ``trainer=``.
        args: Its ``trainer.args``, without those of the framework's trainer config.
        method_args: Its ``trainer.method_args``, likewise.
    """

    path: str
    trainer: str
    args: dict[str, Any]
    method_args: dict[str, Any]

    @property
    def command(self) -> str:
        """The command that runs it in a checkout of open-unlearning."""
        return _COMMAND.format(path=self.path, name=self.path.rsplit("/", 1)[-1])

    @property
    def reported(self) -> str:
        """The paper's numbers for it; empty if there are none."""
        return REPORTED.get(self.path.removeprefix("unlearn/"), "")

    @property
    def hyperparameters(self) -> str:
        """Its settings as text."""
        length = (
            f"{self.args['max_steps']} steps" if "max_steps" in self.args else f"{self.args['num_train_epochs']} epochs"
        )
        batch = self.args["per_device_train_batch_size"] * self.args["gradient_accumulation_steps"]
        method = ", ".join(f"{key} {_short(value)}" for key, value in self.method_args.items())
        return f"lr {_short(self.args['learning_rate'])}, {length}, batch {batch}, {method}"


def experiments() -> list[Experiment]:
    """Return all experiments of this package."""
    folder = resources.files("retainfirst_open_unlearning.conf").joinpath("experiment", "unlearn")
    found = []
    for benchmark in ("wmdp", "rwku"):
        files = sorted(file.name for file in folder.joinpath(benchmark).iterdir() if file.name.endswith(".yaml"))
        configs = {name.removesuffix(".yaml"): _load(folder.joinpath(benchmark, name)) for name in files}
        base = configs.pop(_BASE)
        for name, config in configs.items():
            trainer: Any = OmegaConf.to_container(OmegaConf.merge(base.trainer, config.trainer))
            (chosen,) = [item["override /trainer"] for item in config.defaults if "override /trainer" in item]
            found.append(Experiment(f"unlearn/{benchmark}/{name}", chosen, trainer["args"], trainer["method_args"]))
    return found


def table() -> str:
    """Return the experiments as a Markdown table."""
    lines = ["| experiment | trainer and hyperparameters | the paper reports | command |", "| --- | --- | --- | --- |"]
    for one in experiments():
        name = one.path.removeprefix("unlearn/")
        mark = " (not the authors')" if name in NOT_THE_AUTHORS else ""
        lines.append(f"| `{name}`{mark} | {one.trainer}: {one.hyperparameters} | {one.reported} | `{one.command}` |")
    return "\n".join(lines) + "\n"


def _load(file: Any) -> DictConfig:
    config = OmegaConf.create(file.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    return config


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(table(), end="")
