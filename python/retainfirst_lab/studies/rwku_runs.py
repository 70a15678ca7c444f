"""The runs of the study ``rwku``: open-unlearning's own commands, with the plugin's experiment files."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_json
from retainfirst_lab.tasks import rwku

__all__ = ["OBJECTIVES", "PROBES", "RULES", "Cell", "Design", "Framework", "Runs", "cells"]

OBJECTIVES = {"npo": "npo", "ga": "graddiff", "simnpo": "simnpo"}
"""The objectives, with their names in the plugin's experiment files; the paper's widest gap first."""

RULES = {"sum": "sum", "sago": "sago", "pcgrad": "pcgrad", "sago_keep_retain": "sago"}
"""The rules, with those whose experiment files they use."""

PROBES = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")

# As in the experiment files; Hydra takes the line breaks as they are.
_STOP = '["\n\n", "\nQuestion", "Question:"]'

Row = dict[str, Any]
Recalls = dict[str, list[float]]


@dataclass(frozen=True)
class Design:
    """The settings that all runs share. What is not here is as in the experiment files.

    Attributes:
        known: The model knows a probe if its answer has at least this recall before.
        forget_probes: Known probes that are kept in each set of what is to be forgotten, drawn at random; all if there are fewer.
        neighbor_probes: The same in each set about neighbours.
        unrelated_probes: The same of general knowledge.
        hard_probes: Adversarial probes that are asked of each of RWKU's own subjects, drawn at random.
        target: The share of the kept forget probes that is left at the point of comparison.
        steps: Optimiser steps.
        evaluate_every: Steps from one evaluation to the next.
        batch_size: Forget passages in a step, and as many retain passages.
        max_length: Tokens of a passage.
        learning_rate: Of all rules; it is constant.
        max_new_tokens: Maximum length of an answer.
    """

    known: float = 1.0
    forget_probes: int = 8
    neighbor_probes: int = 24
    unrelated_probes: int = 8
    hard_probes: int = 12
    target: float = 0.5
    steps: int = 6
    evaluate_every: int = 3
    batch_size: int = 2
    max_length: int = 64
    learning_rate: float = 2e-4
    max_new_tokens: int = 20


@dataclass(frozen=True)
class Cell:
    """A run.

    Attributes:
        objective: A key of :data:`OBJECTIVES`.
        rule: A key of :data:`RULES`.
        seed: Of the order of the batches.
    """

    objective: str
    rule: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.objective}-{self.rule}-{self.seed}"


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Return all runs; seeds are the outermost loop, so that an interrupted study has whole comparisons."""
    return [Cell(objective, rule, seed) for seed in seeds for objective in OBJECTIVES for rule in RULES]


@dataclass(frozen=True)
class Framework:
    """A checkout of open-unlearning, and the Python that runs it.

    Attributes:
        home: The checkout.
        python: A Python whose environment has what the framework needs, and the plugin.
    """

    home: Path
    python: str

    def run(self, log: Path, script: str, *arguments: str) -> None:
        """Run a script of the framework in its folder.

        Args:
            log: A file for its output.
            script: Such as ``src/train.py``.
            *arguments: Of the script.

        Raises:
            RetainFirstError: There is no such script, or it failed; the text has the end of its output.
        """
        if not (self.home / script).is_file():
            raise RetainFirstError(f"{self.home} has no {script}: give the folder of a checkout of open-unlearning")
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [self.python, script, *arguments],
                cwd=self.home,
                env=os.environ | offline,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
            raise RetainFirstError(
                f"{script} of {self.home} ended with {done.returncode}; see {log}. Its last lines:\n{end}"
            )

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that run it."""
        code = "import json, torch, transformers as t; print(json.dumps([torch.__version__, t.__version__]))"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RetainFirstError(f"{self.python} cannot import torch and transformers: {done.stderr.strip()}")
        return dict(zip(("torch", "transformers"), json.loads(done.stdout.splitlines()[-1]), strict=True))


class Runs:
    """The runs in one output folder: those that are finished are not run again.

    Args:
        folder: The output folder; made if absent.
        model: The folder of the model.
        framework: Where the runs happen.
        design: The settings; they must be those that the folder was begun with.
        data: A folder with RWKU's own subjects; None: the subjects of :mod:`retainfirst_lab.tasks.rwku`.
        device: ``"cpu"``, or ``"cuda"``.

    Raises:
        RetainFirstError: The folder is of another design, or cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        framework: Framework,
        design: Design,
        data: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.folder, self.design, self._device = folder.resolve(), design, device
        self._model, self._framework, self._data = model.resolve(), framework, data
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "design.json"
        if not file.exists():
            write_json(file, asdict(design))
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != asdict(design):
            raise RetainFirstError(
                f"{self.folder} is of another design, {found}. Give another folder, or remove this one."
            )

    def ask_before(self) -> None:
        """Ask the model all probes, unless that is done, and write those that are kept to the folder ``kept``."""
        everything, before, kept = (self.folder / name for name in ("all", "before", "kept"))
        if (kept / "passage.json").exists():
            return
        made = rwku.rows(rwku.subjects()) if self._data is None else rwku.rows_of(self._data, self.design.hard_probes)
        rwku.write(everything, made)
        before.mkdir(exist_ok=True)
        self._framework.run(
            self.folder / "before.log", "src/eval.py", "--config-name=eval.yaml", "model=Llama-3-8B-Instruct",
            "eval=retainfirst_rwku", "task_name=before", f"model.model_args.device_map={self._device}", *self._of_model(),
            f"paths.output_dir={before}", f"eval.rwku.path={everything}", "eval.rwku.answer_cue=user",
            f"eval.rwku.max_new_tokens={self.design.max_new_tokens}", f"eval.rwku.stop={_STOP}",
        )  # fmt: skip
        kept.mkdir(exist_ok=True)
        for probe, rows in self.asked().items():
            known = [row for row in rows if row["before"] >= self.design.known]
            write_json(kept / f"{probe}.json", self._drawn(known, probe), indent=1)
        write_json(kept / "passage.json", _read(everything / "passage.json"), indent=1)

    def asked(self) -> dict[str, list[Row]]:
        """Return all probes by set, with the recall of the model's answer ``before``."""
        recalls = _recalls(self.folder / "before" / "RWKU_EVAL.json")
        return {
            probe: [
                {**row, "before": value}
                for row, value in zip(_read(self.folder / "all" / f"{probe}.json"), recalls[probe], strict=True)
            ]
            for probe in PROBES
        }

    def kept(self) -> dict[str, list[Row]]:
        """Return the kept probes, by set."""
        return {probe: _read(self.folder / "kept" / f"{probe}.json") for probe in PROBES}

    def _drawn(self, known: Sequence[Row], probe: str) -> list[Row]:
        """Return the known probes of a set that are kept, in their order."""
        one = self.design
        most = {
            False: one.forget_probes if probe.startswith("forget") else one.neighbor_probes,
            True: one.unrelated_probes,
        }
        chosen = []
        for unrelated, count in most.items():
            places = [n for n, row in enumerate(known) if (row["subject"] == rwku.UNRELATED) == unrelated]
            chosen += random.Random(0).sample(places, min(count, len(places)))
        return [known[n] for n in sorted(chosen)]

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return the results of a run, ``cell``, ``seconds``, ``points`` and ``training``; None if it is not finished."""
        file = self.folder / "cells" / f"{cell.name}.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def run(self, cell: Cell) -> dict[str, Any]:
        """Run a cell from its start and store its results; its model is removed.

        Raises:
            RetainFirstError: The framework failed.
        """
        output = self.folder / "cells" / cell.name
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        start = time.perf_counter()
        log = self.folder / "cells" / f"{cell.name}.log"
        self._framework.run(log, "src/train.py", "--config-name=unlearn.yaml", *self.overrides(cell, output))
        results = {"cell": asdict(cell), "seconds": time.perf_counter() - start, **_collect(output)}
        write_json(self.folder / "cells" / f"{cell.name}.json", results, indent=None)
        shutil.rmtree(output)
        return results

    def overrides(self, cell: Cell, output: Path) -> list[str]:
        """Return the settings of a run, beside those of its experiment file."""
        one = self.design
        passages = _read(self.folder / "kept" / "passage.json")
        names = {role: [row["subject"] for row in passages if row["role"] == role] for role in ("forget", "retain")}
        args = {
            "optim": "adamw_torch", "bf16": "false", "bf16_full_eval": "false", "warmup_epochs": "null",
            "report_to": "none", "logging_steps": 1, "eval_strategy": "steps", "seed": cell.seed,
            "learning_rate": one.learning_rate, "per_device_train_batch_size": one.batch_size,
            "gradient_accumulation_steps": 1,
        }  # fmt: skip
        added = {
            "use_cpu": str(self._device == "cpu").lower(),
            "lr_scheduler_type": "constant",
            "max_steps": one.steps,
            "eval_steps": one.evaluate_every,
        }
        return [
            f"experiment=unlearn/rwku/retainfirst_{OBJECTIVES[cell.objective]}_{RULES[cell.rule]}",
            f"trainer.method_args.combiner={cell.rule}", f"task_name={cell.name}", f"paths.output_dir={output}",
            *self._of_model(), f"rwku_path={self.folder / 'kept'}", "eval.rwku.subjects=null",
            f"eval.rwku.max_new_tokens={one.max_new_tokens}",
            *(f"{role}_subjects={json.dumps(names[role])}" for role in names),
            *(f"data.{role}.RWKU_{role}.args.max_length={one.max_length}" for role in names),
            *(f"trainer.args.{name}={value}" for name, value in args.items()),
            *(f"++trainer.args.{name}={value}" for name, value in added.items()),
        ]  # fmt: skip

    def _of_model(self) -> list[str]:
        return [
            f"model.model_args.pretrained_model_name_or_path={self._model}",
            f"model.tokenizer_args.pretrained_model_name_or_path={self._model}",
            "model.model_args.attn_implementation=sdpa",
            "model.model_args.torch_dtype=float32",
        ]


def _collect(output: Path) -> dict[str, Any]:
    """Return every probe's recall at each evaluation of a run, and what it logged."""
    evaluations = {int(folder.name.rpartition("-")[2]): folder for folder in output.glob("checkpoint-*")}
    points = [
        {"step": step, "recalls": _recalls(folder / "evals" / "RWKU_EVAL.json")}
        for step, folder in sorted(evaluations.items())
    ]
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {"points": points, "training": [log for log in history if "forget_loss" in log]}


def _recalls(file: Path) -> Recalls:
    logs: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    found = {}
    for probe in PROBES:
        values = logs[f"{probe}_rouge"]["value_by_index"]
        found[probe] = [float(values[str(index)]["rougeL_recall"]) for index in range(len(values))]
    return found


def _read(file: Path) -> list[Row]:
    return list(json.loads(file.read_text(encoding="utf-8")))
