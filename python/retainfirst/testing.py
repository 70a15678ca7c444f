"""Check any combiner against the theorem book: the statements that it promises must be true of its stored updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retainfirst.combiners import Combiner, combine, resolve
from retainfirst.errors import (
    DtypeMismatch,
    NonFiniteGradient,
    RetainFirstError,
    ShapeMismatch,
    StatementViolated,
    did_you_mean,
)
from retainfirst.extension import require_extension
from retainfirst.theory import Statement, statement
from retainfirst.theory.arrays import FORMATS, as_array, as_tensor
from retainfirst.theory.runs import Run
from retainfirst.theory.search import search
from retainfirst.theory.sums import GradientPair

__all__ = ["StatementViolated", "check_combiner"]

_AT_THE_STEP = {"T1": "T10", "T2": "X3"}
"""What T1 and T2 say of an update, said of the step that an optimiser makes of it."""


def check_combiner(
    fn: Callable[[Tensor, Tensor], Tensor] | Combiner | str,
    statements: Sequence[str | Statement] = ("T1", "T2"),
    dtype: str | torch.dtype = "float32",
    max_examples: int = 200,
    *,
    alpha: float = 1.0,
    gamma: float = 1.0,
    seed: int = 0,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    steps: int = 3,
) -> None:
    """Check that a combiner keeps statements of the theorem book, on pairs of gradients that are drawn to break them.

    The exact oracle judges signs and orders of the stored update, without tolerance. ``docs/theory.md`` and
    :data:`retainfirst.theory.STATEMENTS` list the statements. Any combiner can promise T1, T2 and X2 (T2 at any ratio of the
    lengths). T5 to T8 compare an update with PCGrad's. T3 and T4 describe SAGO and PCGrad themselves. T2 excludes the
    pairs for which rounding could take all of the ``alpha |r|^2`` that PCGrad keeps. A combiner with ``<u, r> = 0`` by design,
    such as GRU or a projection of the sum, can break it by one rounding.

    With ``optimizer`` the statements are judged on the step ``d`` that it makes of the updates: does the combiner's promise
    survive this optimiser? T1 then stands for T10 (``d_i r_i <= 0`` in every coordinate) and T2 for X3 (``<d, r> <= 0``); T9 to
    T12, X3 and X4 can be named too, T11 and T12 with their guards. For each drawn pair a fresh optimiser of two matrices takes
    ``steps`` steps. The steps before the last have the pair's numbers at other coordinates, every other one with ``-r``, so that
    momentum shows. The parameters begin with numbers from -2 to 0.5, so that weight decay shows. The last step is judged: its
    signs as stored, ``<d, r>`` without rounding. A step that is not finite is not judged.

    Args:
        fn: A combiner, built in or your own; the name of a registered one; or a function of a forget and a retain gradient (CPU
            tensors of shape ``[n]``, n from 1 to some thousands) that returns the update as a new tensor of the same shape and
            dtype.
        statements: Numbers of statements, or statements of your own.
        dtype: ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``, or torch's.
        max_examples: Pairs to judge for each statement.
        alpha: The weight that ``fn`` gives the retain gradient; for a function or a name. A combiner has its own.
        gamma: The weight that ``fn`` gives the forget gradient, likewise.
        seed: The same seed gives the same pairs.
        optimizer: A class such as ``torch.optim.AdamW``, or a function from a list of parameters to an optimiser.
        steps: The number of steps with ``optimizer``; 1 judges its first step.

    Raises:
        StatementViolated: A pair breaks a statement. The text and the attributes give the simplest such pair that was found; with
            an optimiser also the parameters ``before`` and ``after`` the step, and the gradients of the steps ``earlier``.
        ShapeMismatch: The update has another shape than the gradients.
        DtypeMismatch: The update is not a tensor, or has another dtype.
        NonFiniteGradient: The update of two finite gradients contains NaN or infinity.
        RetainFirstError: ``fn`` changes its inputs, or gives different updates for the same pair; a statement or dtype is
            unknown; none of the drawn pairs met a statement's hypothesis; ``optimizer`` makes no optimiser of the parameters, or
            one that needs a closure; or a statement is not about steps.
        MissingDependency: hypothesis is not installed (extra ``verify``), or the compiled extension is missing.

    Example:
        >>> check_combiner("sago", statements=("T1", "T2", "X2"), dtype="bfloat16")
        >>> check_combiner(lambda forget, retain: forget + retain, statements=("T2",))
        Traceback (most recent call last):
        retainfirst.errors.StatementViolated: T2 (Never against retention) does not hold for <lambda> in float32: ...
        >>> check_combiner("sago", optimizer=torch.optim.Adam, steps=1)
        >>> check_combiner("pcgrad", statements=("T2",), optimizer=torch.optim.Adam, steps=1)
        Traceback (most recent call last):
        retainfirst.errors.StatementViolated: X3 (...) does not hold for pcgrad with Adam in float32: <d, r> = ...
    """
    require_extension("retainfirst.testing.check_combiner")
    if isinstance(statements, str):
        raise RetainFirstError(f"check_combiner: statements must be a sequence, such as ({statements!r},)")
    if not isinstance(max_examples, int) or max_examples < 1:
        raise RetainFirstError(f"check_combiner: max_examples must be a whole number from 1 on, not {max_examples!r}")
    kind = str(dtype).removeprefix("torch.")
    if kind not in FORMATS:
        raise DtypeMismatch(f"check_combiner: unknown dtype {dtype!r}. {did_you_mean(kind, FORMATS)}")
    if not statements:
        raise RetainFirstError("check_combiner: statements is empty; name at least one, such as 'T1'")
    chosen = [one if isinstance(one, Statement) else statement(one) for one in statements]
    name, call, weights = _resolve(fn, alpha, gamma)
    if optimizer is not None:
        chosen = [_at_the_step(one, optimizer, steps) for one in chosen]
    for one in chosen:
        found = search(
            one, lambda pair: _update(name, call, pair), kind, max_examples, weights=weights, seed=seed, name=name
        )
        if found.violation is not None:
            update = found.violation.update
            if update is not None and not update.isfinite().all():
                raise NonFiniteGradient(str(found.violation)) from found.violation
            raise found.violation from None
        if found.judged == 0:
            raise RetainFirstError(
                f"check_combiner: none of the drawn pairs met the hypothesis of {one.id} ({one.title}) at alpha={weights[0]},"
                f" gamma={weights[1]} in {kind}; raise max_examples or change the weights"
            )


def _resolve(
    fn: Callable[[Tensor, Tensor], Tensor] | Combiner | str, alpha: float, gamma: float
) -> tuple[str, Callable[[Tensor, Tensor], Any], tuple[float, float]]:
    if isinstance(fn, (str, Combiner)):
        combiner = resolve(fn, **({"alpha": alpha, "gamma": gamma} if isinstance(fn, str) else {}))
        return combiner.name, lambda f, r: combine(f, r, combiner), (combiner.alpha, combiner.gamma)
    if not callable(fn):
        raise RetainFirstError(f"check_combiner: give a function, a combiner or a combiner's name, not {fn!r}")
    if isinstance(fn, type) and issubclass(fn, Combiner):
        raise RetainFirstError(f"check_combiner: give a combiner, such as {fn.__name__}(), not its class")
    weighted = resolve("sum", alpha=alpha, gamma=gamma)  # raises if a weight is out of range
    named = getattr(fn, "func", fn)  # a functools.partial has its function there
    return getattr(named, "__name__", type(named).__name__), fn, (weighted.alpha, weighted.gamma)


def _at_the_step(one: Statement, optimizer: Any, steps: int) -> Statement:
    """Return a statement about steps of the given optimiser."""
    if isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise RetainFirstError(
            f"check_combiner: optimizer is a made {kind}; give what makes it, such as torch.optim.{kind} or"
            f" lambda parameters: torch.optim.{kind}(parameters, lr=1e-3)"
        )
    if not callable(optimizer):
        raise RetainFirstError(
            f"check_combiner: optimizer must be a class or a function from parameters to an optimiser, not {optimizer!r}"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise RetainFirstError(f"check_combiner: steps must be a whole number from 1 on, not {steps!r}")
    if one.id in _AT_THE_STEP:
        one = statement(_AT_THE_STEP[one.id])
    if not one.runs:
        raise RetainFirstError(
            f"check_combiner: {one.id} is about updates, not about steps; with an optimizer give T1, T2, T9 to T12, X3 or X4"
        )
    named = getattr(optimizer, "func", optimizer)  # a functools.partial has its function there
    name = getattr(named, "__name__", type(named).__name__)

    def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return _checked(optimizer(parameters), parameters, name)

    return replace(one, runs=(Run(name, name, make, steps, one.runs[0].guard, only_matrices=True),))


def _checked(made: Any, parameters: list[Tensor], name: str) -> torch.optim.Optimizer:
    if not isinstance(made, torch.optim.Optimizer):
        raise RetainFirstError(
            f"check_combiner: optimizer ({name}) returned a {type(made).__name__}; it must return a torch.optim.Optimizer"
        )
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not held >= {id(parameter) for parameter in parameters}:
        raise RetainFirstError(f"check_combiner: optimizer ({name}) leaves out parameters; give it all of the list")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise RetainFirstError(
            f"check_combiner: {type(made).__name__} needs a closure, which evaluates the gradient several times in a step; only"
            " optimisers that step along .grad can be checked"
        )
    return made


def _update(name: str, call: Callable[[Tensor, Tensor], Any], pair: GradientPair) -> NDArray[Any]:
    """Return the combiner's update of a pair; raise an error if it is not a valid update."""
    forget, retain = as_tensor(pair.forget), as_tensor(pair.retain)
    try:
        update = call(forget, retain)
    except Exception as error:
        error.add_note(f"{name} raised this for forget = {pair.forget.tolist()}, retain = {pair.retain.tolist()}")
        raise
    for task, given, before in (("forget", forget, pair.forget), ("retain", retain, pair.retain)):
        if as_array(given).tobytes() != before.tobytes():
            raise RetainFirstError(f"{name}: changes its {task} gradient; it must not write into its inputs")
    if isinstance(update, np.ndarray):
        found, shape, kind = update, update.shape, update.dtype.name
    elif isinstance(update, Tensor):
        found, shape, kind = None, tuple(update.shape), str(update.dtype).removeprefix("torch.")
    else:
        raise DtypeMismatch(f"{name}: returned a {type(update).__name__}; it must return the update as a tensor")
    if shape != pair.retain.shape:
        raise ShapeMismatch(f"{name}: the update has shape {tuple(shape)}, the gradients {pair.retain.shape}")
    if kind != pair.retain.dtype.name:
        raise DtypeMismatch(f"{name}: the update is {kind}, the gradients {pair.retain.dtype.name}")
    return as_array(update) if found is None else np.ascontiguousarray(found)
