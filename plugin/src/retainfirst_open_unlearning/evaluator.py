"""An evaluator for the framework: the metrics and attacks of ``retainfirst evaluate``, also on several processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean
from retainfirst.evaluation import (
    SETS,
    UNRELATED,
    Evaluation,
    RowOptions,
    check_same_tokenizer,
    evaluate_rows,
    read_files,
    report_data,
    run_facts,
    write_report,
)
from retainfirst.files import finite, write_json
from retainfirst.hf import tokenizer_of
from retainfirst.models import load_model, load_tokenizer
from retainfirst_open_unlearning.metrics import with_prefix
from retainfirst_open_unlearning.rwku import RWKUEvaluator

__all__ = ["RowsEvaluator", "make_evaluator", "measure_everywhere"]

_logger = logging.getLogger("evaluator")  # the framework's

_HERE = "eval.retainfirst"
_OWN = {"handler", "output_dir", "before", "report", UNRELATED, *SETS}
_OPTIONS = {one.name for one in fields(RowOptions)} - {"files"}


def make_evaluator(name: str, registry: Mapping[str, Any]) -> type:
    """Return the evaluator of that name.

    Args:
        name: ``"RetainFirstRows"`` or ``"RetainFirstRWKU"``.
        registry: The framework's evaluators by name.

    Raises:
        RetainFirstError: There is no such evaluator.
    """
    ours = {"RetainFirstRows": RowsEvaluator, "RetainFirstRWKU": RWKUEvaluator}
    if name not in ours:
        raise RetainFirstError(f"retainfirst has no evaluator {name!r}. {did_you_mean(name, [*ours, *registry])}")
    return ours[name]


class RowsEvaluator:
    """Measures a model on files of rows. It has the interface of the framework's evaluators.

    Every process of a training with DistributedDataParallel computes the same numbers from all rows; the first one writes.

    Args:
        eval_cfg: See ``conf/eval/retainfirst.yaml``.
        **kwargs: Other arguments of the framework; not used.

    Raises:
        RetainFirstError: An unknown option, no forget rows, or a file that cannot be read.
        MissingDependency: ``report`` without matplotlib.
    """

    name = "RETAINFIRST"

    def __init__(self, eval_cfg: Any, **kwargs: Any) -> None:
        del kwargs
        read: Any = OmegaConf.to_container(eval_cfg, resolve=True) if OmegaConf.is_config(eval_cfg) else eval_cfg
        given = dict(read)
        for option in given:
            if option not in _OWN | _OPTIONS:
                raise RetainFirstError(f"{_HERE}.{option}: {did_you_mean(str(option), sorted(_OWN | _OPTIONS))}")
        files = {name: str(given[name]) for name in (*SETS, UNRELATED) if given.get(name)}
        if "forget" not in files:
            raise RetainFirstError(f"{_HERE}.forget: give a file of rows, as for retainfirst evaluate --forget")
        if UNRELATED in files and given.get("relearn") is None:
            raise RetainFirstError(f"{_HERE}.{UNRELATED}: give {_HERE}.relearn too, the number of steps on these rows")
        chosen = {name: given[name] for name in _OPTIONS if given.get(name) is not None}
        chosen["quantize"] = tuple(chosen.get("quantize", ()))
        self.report = bool(given.get("report", True))
        if self.report and find_spec("matplotlib") is None:
            raise MissingDependency(
                f"{_HERE}.report needs matplotlib, which is not installed: pip install matplotlib, or {_HERE}.report=false"
            )
        self.options, self.before = RowOptions(files, **chosen), given.get("before")
        self.output_dir: str | None = given.get("output_dir")
        self.rows = read_files(files)

    def evaluate(
        self,
        model: nn.Module,
        output_dir: str | None = None,
        tokenizer: Any = None,
        *,
        write: bool = True,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Measure, and write ``RETAINFIRST_SUMMARY.json``, ``evaluation.json`` and, on request, ``evaluation.html``.

        Args:
            model: A causal language model.
            output_dir: The folder; None: ``eval.retainfirst.output_dir``.
            tokenizer: The model's.
            write: Whether this process writes.
            **kwargs: Other arguments of the framework; not used.

        Returns:
            ``<set>_<metric>``, and ``<set>_<metric>/<attack>``; all but those of attacks are there once more as ``eval_...``,
            for ``trainer.args.metric_for_best_model``.

        Raises:
            RetainFirstError: There is no tokenizer, or as :func:`retainfirst.evaluation.evaluate_rows`.
        """
        del kwargs
        if tokenizer is None:
            raise RetainFirstError("the retainfirst evaluator needs tokenizer=")
        name = str(getattr(model.config, "_name_or_path", "") or "the model")
        _logger.info(
            "retainfirst: measuring %s", ", ".join(f"{key} ({len(rows)} rows)" for key, rows in self.rows.items())
        )
        former = self._load_before(model, tokenizer)
        training = model.training
        found = evaluate_rows(self.options, self.rows, name, model, tokenizer, former)
        model.train(training)
        summary = _summary(found)
        if write:
            folder = Path(output_dir or self.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            facts = run_facts(name, model, self.before, former, self.options)
            if self.report:
                write_report(found, facts, folder)
            else:
                write_json(folder / "evaluation.json", finite(report_data(found, facts)))
            write_json(folder / f"{self.name}_SUMMARY.json", finite(summary))
        return with_prefix({key: value for key, value in summary.items() if "/" not in key}) | summary

    def _load_before(self, model: nn.Module, tokenizer: Any) -> Any:
        if self.before is None:
            return None
        check_same_tokenizer(tokenizer, load_tokenizer(self.before), self.before)
        return load_model(self.before).to(next(model.parameters()).device)


def _summary(found: Evaluation) -> dict[str, float]:
    summary: dict[str, float] = {}
    for condition in found.conditions:
        if condition.kind == "before":
            continue
        attack = "" if condition.kind == "after" else f"/{condition.name}"
        for part, metrics in condition.measured.estimates.items():
            summary |= {f"{part}_{metric}{attack}": float(one.value) for metric, one in metrics.items()}
    return summary


def measure_everywhere(trainer: Any, evaluators: Mapping[str, Any]) -> dict[str, float]:
    """Run those of a trainer's evaluators that work on several processes, on each of them.

    Args:
        trainer: A trainer of the framework.
        evaluators: Its evaluators by name.

    Returns:
        Their metrics, the same on every process.

    Raises:
        RetainFirstError: The model is sharded.
    """
    ours = [one for one in evaluators.values() if isinstance(one, RowsEvaluator)]
    if ours and any(hasattr(one, mark) for one in trainer.model.parameters() for mark in ("device_mesh", "ds_id")):
        raise RetainFirstError(
            f"{_HERE}: the model is sharded (FSDP or ZeRO 3), so that no process has it whole; evaluate the saved model instead"
        )
    folder = Path(trainer._get_output_dir(trial=None), f"checkpoint-{trainer.state.global_step}", "evals")
    tokenizer = tokenizer_of(trainer)
    metrics: dict[str, float] = {}
    for one in ours:
        metrics |= one.evaluate(trainer.model, str(folder), tokenizer, write=trainer.accelerator.is_main_process)
    if metrics:
        trainer.log(dict(metrics))
    return metrics
