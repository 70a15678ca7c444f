"""The paper's experiments, as a table that is read from the configs themselves.

``python -m retainfirst_open_unlearning.experiments`` prints it as Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["REPORTED", "Experiment", "experiments", "table"]

_BASE = "retainfirst_base"

NOT_THE_AUTHORS = ("rwku/retainfirst_npo_pcgrad_global", "rwku/retainfirst_simnpo_pcgrad_global")
"""Runs that the authors do not have: their settings of PCGrad per tensor, with the global scope."""

_COMMAND = "python src/train.py --config-name=unlearn.yaml experiment={path} task_name={name}"

_BIO, _CYBER, _RWKU = "WMDP Bio {}, MMLU {}", "MMLU {}", "Neighbor {}"

REPORTED: dict[str, str] = {
    "wmdp/retainfirst_simnpo_sum_bio": _BIO.format(26.1, 26.7),
    "wmdp/retainfirst_simnpo_pcgrad_bio": _BIO.format(28.7, 56.4),
    "wmdp/retainfirst_simnpo_sago_bio": _BIO.format(28.2, 57.4),
    "wmdp/retainfirst_npo_sum_bio": _BIO.format(30.5, 38.2),
    "wmdp/retainfirst_npo_sago_bio": _BIO.format("30.0", "56.0"),
    "wmdp/retainfirst_graddiff_sum_bio": _BIO.format(24.7, 25.1),
    "wmdp/retainfirst_graddiff_sago_bio": _BIO.format("26.0", 54.1),
    "wmdp/retainfirst_graddiff_pcgrad_bio": _BIO.format(24.5, "53.0"),
    "wmdp/retainfirst_graddiff_pcgrad_global_bio": _BIO.format(24.8, "51.0"),
    "wmdp/retainfirst_simnpo_sum_cyber": _CYBER.format(51.4),
    "wmdp/retainfirst_simnpo_pcgrad_cyber": _CYBER.format(57.9),
    "wmdp/retainfirst_simnpo_sago_cyber": _CYBER.format(58.3),
    "wmdp/retainfirst_npo_sum_cyber": _CYBER.format(46.8),
    "wmdp/retainfirst_npo_sago_cyber": _CYBER.format(58.5),
    "wmdp/retainfirst_graddiff_sum_cyber": _CYBER.format(55.6),
    "wmdp/retainfirst_graddiff_sago_cyber": _CYBER.format(59.7),
    "rwku/retainfirst_simnpo_sum": _RWKU.format(44.9),
    "rwku/retainfirst_simnpo_pcgrad": _RWKU.format(53.5),
    "rwku/retainfirst_simnpo_sago": _RWKU.format(56.9),
    "rwku/retainfirst_npo_sum": _RWKU.format(13.1),
    "rwku/retainfirst_npo_sago": _RWKU.format(41.7),
    "rwku/retainfirst_graddiff_sum": _RWKU.format(15.5),
    "rwku/retainfirst_graddiff_sago": _RWKU.format(32.1),
}
"""What the paper reports (arXiv 2604.14808; target model: WMDP Bio 64.4, MMLU 59.8, Neighbor 85.1), in per cent."""


@dataclass(frozen=True)
class Experiment:
    """One experiment, as its files have it.

    Attributes:
        path: What to give as ``experiment=``.
        trainer: What it gives as ``trainer=``.
        args: ``trainer.args``, without what the framework's own trainer config adds.
        method_args: ``trainer.method_args``, likewise.
    """

    path: str
    trainer: str
    args: dict[str, Any]
    method_args: dict[str, Any]

    @property
    def command(self) -> str:
        """What runs it, in a checkout of open-unlearning."""
        return _COMMAND.format(path=self.path, name=self.path.rsplit("/", 1)[-1])

    @property
    def reported(self) -> str:
        """What the paper has for it; empty if nothing."""
        return REPORTED.get(self.path.removeprefix("unlearn/"), "")

    @property
    def hyperparameters(self) -> str:
        """What tells it from the others, in words."""
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
