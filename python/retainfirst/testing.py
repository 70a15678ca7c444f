"""Check any combiner against the theorem book: the statements that it promises must be true of its stored updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from retainfirst.theory import Statement, statement
from retainfirst.theory.arrays import FORMATS, as_array, as_tensor
from retainfirst.theory.search import search
from retainfirst.theory.sums import GradientPair

__all__ = ["StatementViolated", "check_combiner"]


def check_combiner(
    fn: Callable[[Tensor, Tensor], Tensor] | Combiner | str,
    statements: Sequence[str | Statement] = ("T1", "T2"),
    dtype: str | torch.dtype = "float32",
    max_examples: int = 200,
    *,
    alpha: float = 1.0,
    gamma: float = 1.0,
    seed: int = 0,
) -> None:
    """Check that a combiner keeps statements of the theorem book, on pairs of gradients that are drawn to break them.

    The exact oracle judges signs and orders of the stored update, without tolerance. ``docs/theory.md`` and
    :data:`retainfirst.theory.STATEMENTS` list the statements. Any combiner can promise T1, T2 and X2 (T2 at any ratio of the
    lengths). T5 to T8 compare an update with PCGrad's. T3 and T4 describe SAGO and PCGrad themselves. T2 excludes the
    pairs for which rounding could take all of the ``alpha |r|^2`` that PCGrad keeps. A combiner with ``<u, r> = 0`` by design,
    such as GRU or a projection of the sum, can break it by one rounding.

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

    Raises:
        StatementViolated: A pair breaks a statement. The text and the attributes give the simplest such pair that was found.
        ShapeMismatch: The update has another shape than the gradients.
        DtypeMismatch: The update is not a tensor, or has another dtype.
        NonFiniteGradient: The update of two finite gradients contains NaN or infinity.
        RetainFirstError: ``fn`` changes its inputs, or gives different updates for the same pair; a statement or dtype is
            unknown; or none of the drawn pairs met a statement's hypothesis.
        MissingDependency: hypothesis is not installed (extra ``verify``).

    Example:
        >>> check_combiner("sago", statements=("T1", "T2", "X2"), dtype="bfloat16")
        >>> check_combiner(lambda forget, retain: forget + retain, statements=("T2",))
        Traceback (most recent call last):
        retainfirst.errors.StatementViolated: T2 (Never against retention) does not hold for <lambda> in float32: ...
    """
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
