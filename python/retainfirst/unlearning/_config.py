"""What a run is told, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retainfirst.combiners import Combiner, make_combiner
from retainfirst.data import CHAT_TEMPLATE_MODES, PAIRINGS
from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.objectives import get_objective

__all__ = ["DEVICES", "DTYPES", "UnlearnConfig"]

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu")
OFFLOADS = ("none", "cpu")


@dataclass(frozen=True)
class UnlearnConfig:
    """The settings of one unlearning run.

    Args:
        model: A folder or hub id of a causal language model with its tokenizer.
        forget: The forget set: a JSON-lines file or a hub name (:mod:`retainfirst.data`).
        retain: The retain set, likewise.
        output: The folder to write to: new, empty, or (with ``resume``) that of an interrupted run.
        objective: Forget objective: ``"ga"``, ``"npo"`` or ``"simnpo"``.
        retain_loss: Retain objective: ``"nll"`` or ``"kl"`` (to the model before unlearning).
        combiner: A name of :func:`retainfirst.available_combiners`.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``, for the combiners that have one; None: its default.
        alpha: Weight of retain, above 0.
        gamma: Weight of forget, at least 0.
        beta: Of ``npo`` and ``simnpo``, above 0; None: the objective's default.
        delta: Of ``simnpo``; None: the objective's default.
        max_steps: Optimiser steps; None: as many as ``epochs`` takes.
        epochs: Passes over the longer of the two sets.
        batch_size: Forget rows and retain rows a micro-batch.
        accumulate: Micro-batches an optimiser step.
        learning_rate: Of AdamW, constant.
        max_grad_norm: Length to which the combined gradient is clipped; 0: not at all.
        max_length: Tokens a row is cut to.
        chat_template: ``"auto"``, ``"always"`` or ``"never"``.
        pairing: How the shorter set is stretched: ``"cycle"`` or ``"sample"``.
        pad_token: A token of the vocabulary to pad with, for tokenizers without one.
        stop_at_forget_probability: Stop once the mean forget measure is at most this, in [0, 1]; None: never early.
        evaluate_every: Steps between two looks at the forget set, where there is something to stop at.
        evaluate_rows: Rows of each set that are measured before and after.
        save_every: Steps between checkpoints to resume from; 0: only when interrupted.
        lora_rank: Train a LoRA adapter of this rank; 0: train the model's own weights.
        dtype: ``"float32"``; ``"bfloat16"``: computed in bfloat16 over float32 weights, since small steps vanish in bfloat16
            weights; with LoRA ``"bfloat16"`` or ``"float16"`` is the format of the frozen weights.
        device: ``"auto"`` (the accelerator, if there is one) or ``"cpu"``.
        offload: ``"cpu"``: the waiting one of the two gradients lies in the host's memory, not on the device; or ``"none"``.
        seed: Of data order and pairing.
        resume: Go on with the interrupted run in ``output``.
        report_to: Where the trainer logs to as well (``"tensorboard"``, ``"wandb"``, ...), or ``"none"``.

    Raises:
        RetainFirstError: A value is out of its range or a name unknown; the text names it.
    """

    model: str
    forget: str
    retain: str
    output: str
    objective: str = "simnpo"
    retain_loss: str = "nll"
    combiner: str = "sago"
    scope: str | None = None
    alpha: float = 1.0
    gamma: float = 1.0
    beta: float | None = None
    delta: float | None = None
    max_steps: int | None = None
    epochs: float = 5.0
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-5
    max_grad_norm: float = 1.0
    max_length: int = 512
    chat_template: str = "auto"
    pairing: str = "cycle"
    pad_token: str | None = None
    stop_at_forget_probability: float | None = None
    evaluate_every: int = 10
    evaluate_rows: int = 100
    save_every: int = 50
    lora_rank: int = 0
    dtype: str = "float32"
    device: str = "auto"
    offload: str = "none"
    seed: int = 0
    resume: bool = False
    report_to: str = "none"

    def __post_init__(self) -> None:
        self.make_combiner()
        get_objective("forget", self.objective)
        get_objective("retain", self.retain_loss)
        self._check_range("batch_size", least=1)
        self._check_range("accumulate", least=1)
        self._check_range("max_length", least=2)
        self._check_range("evaluate_every", least=1)
        self._check_range("evaluate_rows", least=1)
        self._check_range("save_every", least=0)
        self._check_range("lora_rank", least=0)
        self._check_range("max_grad_norm", least=0)
        self._check_range("epochs", above=0)
        self._check_range("learning_rate", above=0)
        self._check_range("max_steps", least=1)
        self._check_range("beta", above=0)
        self._check_range("delta")
        self._check_range("seed", least=0, most=2**32 - 1)
        self._check_range("stop_at_forget_probability", least=0, most=1)
        for option, of in (("beta", ("npo", "simnpo")), ("delta", ("simnpo",))):
            if getattr(self, option) is not None and self.objective not in of:
                raise RetainFirstError(
                    f"objective {self.objective!r} has no {option}; it belongs to {' and '.join(of)}"
                )
        for name, known in (
            ("dtype", DTYPES),
            ("chat_template", CHAT_TEMPLATE_MODES),
            ("pairing", PAIRINGS),
            ("device", DEVICES),
            ("offload", OFFLOADS),
        ):
            if getattr(self, name) not in known:
                raise RetainFirstError(
                    f"Unknown {name} {getattr(self, name)!r}. {did_you_mean(getattr(self, name), known)}"
                )

        if self.dtype == "float16" and not self.lora_rank:
            raise RetainFirstError(
                "dtype 'float16' cannot train a model's own weights: the optimiser's steps vanish in it. Take 'bfloat16' or"
                " 'float32', or a LoRA adapter (lora_rank) over float16 weights"
            )

    def make_combiner(self) -> Combiner:
        """Return the combiner that the settings name."""
        scope = {} if self.scope is None else {"scope": self.scope}
        return make_combiner(self.combiner, alpha=self.alpha, gamma=self.gamma, **scope)

    def objective_options(self) -> dict[str, float]:
        """Return ``beta`` and ``delta`` where they were given."""
        given = {"beta": self.beta, "delta": self.delta}
        return {name: value for name, value in given.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them, without where the results go."""
        settings = asdict(self)
        del settings["output"], settings["resume"]
        return settings

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share for one to go on where the other stopped.

        The data count by their content, since a file may have changed in between; where the results go does not count.
        """
        settings = self.as_dict()
        for name in ("report_to", "save_every", "device", "offload"):
            del settings[name]
        for name in ("forget", "retain"):
            path = Path(settings[name])
            if path.is_file():
                settings[name] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        return settings

    def _check_range(
        self, name: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
    ) -> None:
        value = getattr(self, name)
        if value is None or (math.isfinite(value) and least <= value <= most and value > above):
            return
        bounds = [f"above {above}"] if above > -math.inf else []
        bounds += [f"at least {least}"] if least > -math.inf else []
        bounds += [f"at most {most}"] if most < math.inf else []
        raise RetainFirstError(f"{name} must be a finite number {' and '.join(bounds)}".rstrip() + f", not {value}")
