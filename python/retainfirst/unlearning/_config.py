"""The settings of a run, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from retainfirst.combiners import Combiner, combiner_options, resolve_scheduled
from retainfirst.data import CHAT_TEMPLATE_MODES, PAIRINGS
from retainfirst.errors import RetainFirstError
from retainfirst.models import find_device
from retainfirst.objectives import FORGET_OBJECTIVES, RETAIN_OBJECTIVES, get_objective
from retainfirst.schedule import parse_weight
from retainfirst.step import GUARD_MODES
from retainfirst.unlearning._settings import one_of, settings, settings_of, weight

__all__ = ["DTYPES", "OFFLOADS", "UnlearnConfig"]

DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("none", "cpu")
EVALUATIONS = ("quick", "full")

# Configuration, weights and tokenizer; logs and cards may change while a run is interrupted.
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py")


class _Resume(Enum):
    """Flags for settings; a resumed run must have the same value of every setting without one."""

    UNRECORDED = "it is about the output folder and is not recorded"
    FREE = "it may differ in the resumed run"
    CONTENT = "it may name a file, whose content must be the same"
    FOLDER = "it may name a folder, whose model must be the same"


def _any_of(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


_Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


def _compiles(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise RetainFirstError(f"where {value!r} is no regular expression: {error}") from error
    return value


_regular_expression = AfterValidator(_compiles)


def _is_here(device: str) -> str:
    if device != "auto":
        find_device(device)
    return device


@settings
class UnlearnConfig:
    """The settings of one unlearning run.

    Raises:
        RetainFirstError: A name is unknown or a value out of its range; the text names the setting.
    """

    model: Annotated[
        _Text, Field(description="Folder or hub id of a causal language model with its tokenizer."), _Resume.FOLDER
    ]
    forget: Annotated[
        _Text,
        Field(
            description="Forget set: a JSON-lines, CSV or Parquet file, or a hub name such as locuslab/TOFU:forget10."
        ),
        _Resume.CONTENT,
    ]
    retain: Annotated[_Text, Field(description="Retain set, likewise."), _Resume.CONTENT]
    output: Annotated[
        _Text,
        Field(description="Output folder: new or empty, or that of the interrupted run to resume."),
        _Resume.UNRECORDED,
    ]
    objective: Annotated[
        str, Field(description=f"Forget objective: {_any_of(FORGET_OBJECTIVES)}."), one_of(FORGET_OBJECTIVES)
    ] = "simnpo"
    retain_loss: Annotated[
        str, Field(description="Retain loss: nll, or kl to the model before unlearning."), one_of(RETAIN_OBJECTIVES)
    ] = "nll"
    combiner: Annotated[
        str,
        Field(
            description="How the two gradients become one: sago, sago_keep_retain, pcgrad, orthogonal, gru, agem, ngdiff, blur, "
            "sum or the name of an installed combiner; with an argument, as torchjd:UPGrad; or one of your own, as FILE.py:NAME."
        ),
        _Resume.CONTENT,
    ] = "sago"
    combiner_options: Annotated[dict[str, Any], Field(description="Further options of the combiner, by name.")] = field(
        default_factory=dict
    )
    scope: Annotated[
        str | None,
        Field(description="Which gradients a projecting combiner takes together: tensor, module, block or global."),
    ] = None
    alpha: Annotated[
        float | str,
        Field(
            description="Weight of the retain gradient, above 0; START:END:STEPS moves it linearly within that many steps."
        ),
        weight,
    ] = 1.0
    gamma: Annotated[
        float | str,
        Field(description="Weight of the forget gradient, at least 0; or START:END:STEPS."),
        weight,
    ] = 1.0
    beta: Annotated[
        float | None, Field(gt=0, description="Sharpness of npo (0.1 if not given) and simnpo (4.5 if not given).")
    ] = None
    delta: Annotated[float | None, Field(description="Margin of simnpo (0 if not given).")] = None
    max_steps: Annotated[int | None, Field(ge=1, description="Optimiser steps, in place of epochs.")] = None
    epochs: Annotated[float, Field(gt=0, description="Passes over the longer of the two sets.")] = 5.0
    batch_size: Annotated[int, Field(ge=1, description="Forget rows, and retain rows, in a microbatch.")] = 4
    accumulate: Annotated[int, Field(ge=1, description="Microbatches in an optimiser step.")] = 1
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate of AdamW, constant.")] = 1e-5
    max_grad_norm: Annotated[float, Field(ge=0, description="Clip the combined gradient to this norm; 0: never.")] = 1.0
    max_length: Annotated[int, Field(ge=2, description="Cut rows to this many tokens.")] = 512
    chat_template: Annotated[
        str, Field(description="For questions and messages: auto, always or never."), one_of(CHAT_TEMPLATE_MODES)
    ] = "auto"
    pairing: Annotated[
        str,
        Field(description="How the shorter set is repeated: cycle (in order) or sample (drawn)."),
        one_of(PAIRINGS),
    ] = "cycle"
    pad_token: Annotated[str | None, Field(description="Token to pad with, for tokenizers that have none.")] = None
    stop_at_forget_probability: Annotated[
        float | None, Field(ge=0, le=1, description="Stop once the mean probability of the forget answers is this low.")
    ] = None
    evaluate_every: Annotated[int, Field(ge=1, description="Steps between two measurements of that probability.")] = 10
    evaluate_rows: Annotated[int, Field(ge=1, description="Rows of each set to measure before and after.")] = 100
    evaluate: Annotated[
        str,
        Field(
            description="quick: answer probabilities before and after; full: then evaluate the saved model, with attacks, and "
            "write evaluation.html and evaluation.json."
        ),
        one_of(EVALUATIONS),
        _Resume.FREE,
    ] = "quick"
    save_every: Annotated[
        int,
        Field(ge=0, description="Steps between checkpoints to resume from; 0: only on Ctrl-C or SIGTERM."),
        _Resume.FREE,
    ] = 50
    lora_rank: Annotated[
        int, Field(ge=0, description="Train a LoRA adapter of this rank; 0: train the model's own weights.")
    ] = 0
    dtype: Annotated[
        str,
        Field(
            description=f"Arithmetic: {_any_of(DTYPES)}. bfloat16 computes over float32 weights; with LoRA, the frozen weights "
            "have this dtype."
        ),
        one_of(DTYPES),
    ] = "float32"
    device: Annotated[
        str,
        Field(description="auto (the accelerator, if there is one), or one device, such as cpu or cuda:1."),
        AfterValidator(_is_here),
        _Resume.FREE,
    ] = "auto"
    where: Annotated[
        str | None,
        Field(
            description="Combine by the combiner only the parameters whose names this regular expression finds; all others get "
            "the weighted sum."
        ),
        _regular_expression,
    ] = None
    guard: Annotated[
        str,
        Field(
            description="off; measure: in how many steps the parameters moved against retention; or enforce: put back each "
            "coordinate of the optimiser's step that works against the retain gradient."
        ),
        one_of(GUARD_MODES),
    ] = "off"
    offload: Annotated[
        str,
        Field(description="cpu keeps the idle task's gradient in host memory; or none."),
        one_of(OFFLOADS),
        _Resume.FREE,
    ] = "none"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Seed of data order and pairing.")] = 0
    force: Annotated[
        bool,
        Field(
            description="Train although all forget rows are retain rows too, the model does not know them, or the stop target is "
            "met already."
        ),
        _Resume.FREE,
    ] = False
    resume: Annotated[
        bool, Field(description="Resume the interrupted run in the output folder."), _Resume.UNRECORDED
    ] = False
    report_to: Annotated[
        str, Field(description="Also log to tensorboard, wandb or another of transformers' trackers."), _Resume.FREE
    ] = "none"

    def __post_init__(self) -> None:
        self.make_combiner()
        try:
            json.dumps(self.combiner_options)
        except TypeError as error:
            raise RetainFirstError(
                f"combiner_options: {error}, so it cannot be recorded. Take numbers, truth values and texts; an aggregator of"
                " TorchJD is given by its name, as in combiner='torchjd:UPGrad'"
            ) from error
        for option, objectives in (("beta", ("npo", "simnpo")), ("delta", ("simnpo",))):
            if getattr(self, option) is not None and self.objective not in objectives:
                raise RetainFirstError(
                    f"objective {self.objective!r} has no {option}; it belongs to {' and '.join(objectives)}"
                )
        if self.dtype == "float16" and not self.lora_rank:
            raise RetainFirstError(
                "dtype 'float16' cannot train a model's own weights: the optimiser's steps vanish in it. Take 'bfloat16' or"
                " 'float32', or a LoRA adapter (lora_rank) over float16 weights"
            )

    def make_combiner(self) -> Combiner:
        """Return the combiner that the settings name, with the weights of the first step."""
        return resolve_scheduled(self.combiner, **self.trainer_options())[0]

    def trainer_options(self) -> dict[str, Any]:
        """Return the combiner's options as the trainers take them: a weight that changes is a function of the step."""
        own: dict[str, Any] = {"alpha": parse_weight(self.alpha), "gamma": parse_weight(self.gamma)}
        own |= {} if self.scope is None else {"scope": self.scope}
        for name in own.keys() & self.combiner_options.keys():
            raise RetainFirstError(
                f"{name} is a setting of its own: give it there, and not among the combiner's options"
            )
        return own | self.combiner_options

    def objective_options(self) -> dict[str, float]:
        """Return ``beta`` and ``delta`` where they were given."""
        given = {"beta": self.beta, "delta": self.delta}
        return {name: value for name, value in given.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them, without those about the output folder."""
        unrecorded = _flagged(_Resume.UNRECORDED)
        return {name: value for name, value in asdict(self).items() if name not in unrecorded}

    def with_defaults(self) -> dict[str, Any]:
        """Return :meth:`as_dict` with the defaults of the objective and the combiner in place of None."""
        found = self.as_dict()
        objective = inspect.signature(get_objective("forget", self.objective)).parameters
        for name in ("beta", "delta"):
            if found[name] is None and name in objective:
                found[name] = objective[name].default
        options = _defaults(combiner_options(self.combiner)) | self.combiner_options
        found["scope"] = self.scope or options.get("scope")
        found["combiner_options"] = {name: options[name] for name in options if name not in ("alpha", "gamma", "scope")}
        return found

    def identity(self) -> dict[str, Any]:
        """Return the settings that two runs must share for one to go on where the other stopped.

        A file and a model's folder are compared by their content, since they may have changed in between.

        Raises:
            RetainFirstError: A file cannot be read.
        """
        shared = self.as_dict()
        for name in _flagged(_Resume.FREE):
            del shared[name]
        for name in _flagged(_Resume.CONTENT):
            shared[name] = _by_content(shared[name])
        for name in _flagged(_Resume.FOLDER):
            shared[name] = _by_files(shared[name])
        return shared


def _by_content(value: str) -> str:
    """Replace the path in ``PATH`` or ``PATH:NAME`` by the file's hash, if there is such a file."""
    path, _, name = (value, "", "") if Path(value).is_file() else value.rpartition(":")
    if not Path(path).is_file():
        return value
    return f"sha256:{_hash(Path(path))}" + (name and f":{name}")


def _by_files(folder: str) -> str:
    """Replace a folder, if there is one, by a hash of the names and contents of its files that transformers reads."""
    if not Path(folder).is_dir():
        return folder
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file())
    listed = "\n".join(f"{path.name} {_hash(path)}" for path in files)
    return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RetainFirstError(f"{path} cannot be read: {error.strerror or error}") from error


def _defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the defaults that JSON takes, without None."""
    plain = (bool, int, float, str, list, dict)
    return {name: one.default for name, one in parameters.items() if isinstance(one.default, plain)}


def _flagged(flag: _Resume) -> list[str]:
    return [one.name for one in settings_of(UnlearnConfig) if flag in one.flags]
