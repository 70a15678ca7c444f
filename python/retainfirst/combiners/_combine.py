"""Combine without changing the inputs, for a tensor, a sequence or a mapping of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from retainfirst.combiners._base import Combiner
from retainfirst.combiners._checks import check_pair
from retainfirst.combiners._registry import resolve
from retainfirst.errors import ShapeMismatch

__all__ = ["combine"]

K = TypeVar("K")


@overload
def combine(forget: Tensor, retain: Tensor, combiner: str | Combiner, **options: Any) -> Tensor: ...
@overload
def combine(
    forget: Mapping[K, Tensor | None], retain: Mapping[K, Tensor | None], combiner: str | Combiner, **options: Any
) -> dict[K, Tensor | None]: ...
@overload
def combine(
    forget: Sequence[Tensor | None], retain: Sequence[Tensor | None], combiner: str | Combiner, **options: Any
) -> Sequence[Tensor | None]: ...
def combine(forget: Any, retain: Any, combiner: str | Combiner, **options: Any) -> Any:
    """Return the update that a combiner makes of two gradients, and leave both as they are.

    Args:
        forget: The forget gradient (of a loss that is minimised): a tensor, or a sequence or a mapping of tensors. None
            counts as zero. The keys of a mapping are parameter names, by which the scopes ``"module"`` and ``"block"`` group.
        retain: The retain gradient, of the same structure, shapes, dtypes and devices.
        combiner: A combiner, or a name with its ``options`` (:func:`retainfirst.make_combiner`).
        **options: ``alpha``, ``gamma``, and the combiner's own; only with a name.

    Returns:
        The update, in the container of the gradients (a list for a list, a tuple for a tuple, a dict for a mapping); None
        where both are None.

    Raises:
        UnknownCombiner: No combiner has that name.
        ShapeMismatch: Structures, lengths, keys or shapes differ.
        DtypeMismatch: Dtypes or devices differ or are unsupported.
        RetainFirstError: An option is unknown or out of range, or the combiner needs a moving average.

    Example:
        >>> combine(torch.tensor([-5.0, 0.5]), torch.tensor([1.0, 10.0]), "sago")
        tensor([1.0000, 0.5000])
    """
    chosen = resolve(combiner, **options)
    chosen.refuse_average()
    if isinstance(forget, Tensor) and isinstance(retain, Tensor):
        [update] = _combine_named(chosen, ["gradient"], [forget], [retain])
        return update
    if isinstance(forget, Mapping) and isinstance(retain, Mapping):
        if forget.keys() != retain.keys():
            odd = sorted(map(str, forget.keys() ^ retain.keys()))
            raise ShapeMismatch(f"{chosen.name}: keys that only one of forget and retain has: {', '.join(odd)}")
        updates = _combine_named(
            chosen, [str(key) for key in forget], list(forget.values()), [retain[key] for key in forget]
        )
        return dict(zip(forget, updates, strict=True))
    if isinstance(forget, (list, tuple)) and isinstance(retain, (list, tuple)):
        if len(forget) != len(retain):
            raise ShapeMismatch(f"{chosen.name}: {len(forget)} forget gradients but {len(retain)} retain gradients")
        updates = _combine_named(chosen, None, list(forget), list(retain))
        return tuple(updates) if isinstance(forget, tuple) else updates
    raise ShapeMismatch(
        f"{chosen.name}: forget is a {type(forget).__name__}, retain a {type(retain).__name__}; give both as a tensor, both as a"
        " list or tuple of tensors, or both as a mapping"
    )


def _combine_named(
    chosen: Combiner, names: list[str] | None, forget: list[Tensor | None], retain: list[Tensor | None]
) -> list[Tensor | None]:
    place, inputs, written = [], [], []
    for i, (f, r) in enumerate(zip(forget, retain, strict=True)):
        if f is None and r is None:
            continue
        f = torch.zeros_like(r) if f is None and isinstance(r, Tensor) else f
        r = torch.zeros_like(f) if r is None and isinstance(f, Tensor) else r
        f, r = check_pair(chosen.name, repr(names[i]) if names else f"tensor {i}", f, r)
        place.append(i)
        inputs.append(f.detach())
        written.append(r.detach().clone())
    groups = chosen.group([names[i] for i in place]) if names else chosen.group_without_names(len(place))
    chosen.combine_named_(inputs, written, groups)
    updates: list[Tensor | None] = [None] * len(forget)
    for i, update in zip(place, written, strict=True):
        updates[i] = update
    return updates
