"""Hold any combiner against the theorem book: what it promises must be true of what it stores."""

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
    """Check that a combiner keeps the promises that some statements make, on pairs of gradients made to break them.

    Signs and orders are judged by the exact oracle, without tolerance, on the update as it is stored. What the statements
    say is in ``docs/theory.md`` and in :data:`retainfirst.theory.STATEMENTS`: T1 and T2 (and X2, which is T2 at any ratio of
    the lengths) are promises that any combiner may make; T5 to T8 compare with PCGrad; T3 and T4 say what SAGO and PCGrad are.
    T2 leaves out where rounding could use up PCGrad's ``alpha |r|^2``; a rule whose ``<u, r>`` is 0 by design, such as a
    projection of the sum, may fail it by one rounding.

    Args:
        fn: A function of a forget and a retain gradient (CPU tensors of shape ``[n]``, n from 1 to some thousands) that returns
            the update, of the same shape and dtype, and leaves both as they are; or a combiner; or a combiner's name.
        statements: Their numbers, or statements of your own.
        dtype: ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``, or torch's.
        max_examples: Pairs to case for each statement.
        alpha: The weight that ``fn`` gives retain, for the statements that speak of it; a combiner brings its own.
        gamma: The weight that ``fn`` gives forget, likewise.
        seed: The same seed gives the same pairs.

    Raises:
        StatementViolated: A pair breaks a statement. The text and the attributes have the simplest such pair that was found.
        ShapeMismatch: The update has another shape.
        DtypeMismatch: The update is no tensor, or has another dtype.
        NonFiniteGradient: The update of two finite gradients holds NaN or infinity.
        RetainFirstError: ``fn`` changes its inputs, or gave two updates where a violation was to be shown again; a statement or
            dtype is unknown; or none of the drawn pairs met a statement's hypothesis.
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
    weighted = resolve("sum", alpha=alpha, gamma=gamma)  # refuses weights out of range
    named = getattr(fn, "func", fn)  # of functools.partial
    return getattr(named, "__name__", type(named).__name__), fn, (weighted.alpha, weighted.gamma)


def _update(name: str, call: Callable[[Tensor, Tensor], Any], pair: GradientPair) -> NDArray[Any]:
    """Call the combiner and refuse what is no update."""
    forget, retain = as_tensor(pair.forget), as_tensor(pair.retain)
    try:
        update = call(forget, retain)
    except Exception as error:
        error.add_note(f"{name} raised this for forget = {pair.forget.tolist()}, retain = {pair.retain.tolist()}")
        raise
    for task, given, before in (("forget", forget, pair.forget), ("retain", retain, pair.retain)):
        if as_array(given).tobytes() != before.tobytes():
            raise RetainFirstError(f"{name}: changes its {task} gradient; it must leave its inputs as they are")
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
