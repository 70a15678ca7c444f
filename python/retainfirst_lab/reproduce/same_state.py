"""The update of every combiner for the same two gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retainfirst.geometry import FIELDS
from retainfirst_lab.reproduce.design import VARIANTS, Cell
from retainfirst_lab.reproduce.losses import Loss

__all__ = ["same_state"]


def same_state(
    model: Any, losses: tuple[Loss, Loss], pair: Sequence[Mapping[str, Tensor]], cell: Cell
) -> dict[str, Any]:
    """Compute the two gradients once, and combine them with every combiner and the cell's weights.

    Args:
        model: The model; it is left unchanged.
        losses: Forget and retain loss.
        pair: The forget batch and the retain batch.
        cell: Gives the weights.

    Returns:
        - ``cos_forget_retain``.
        - ``agreement_bound``: ``b / p`` of theorem T5. SAGO is tighter than global PCGrad if gamma / alpha is at least this. None
          if the gradients do not conflict, or agree in no coordinate.
        - ``variants``: by label, the cosines of the update with the retain and the forget gradient.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    forget, retain = (
        torch.autograd.grad(loss(model, batch), parameters, allow_unused=True, materialize_grads=True)
        for loss, batch in zip(losses, pair, strict=True)
    )
    variants, conflict = {}, math.nan
    for label, variant in VARIANTS.items():
        combiner = variant.make(cell.alpha, cell.gamma)
        update = [gradient.clone() for gradient in retain]
        geometry = combiner.combine_named_(list(forget), update, combiner.group(names))
        conflict = geometry.cos_forget_retain
        variants[label] = {name: getattr(geometry, name) for name in FIELDS[1:3]}
    return {
        "cos_forget_retain": conflict,
        "agreement_bound": _agreement_bound(forget, retain),
        "variants": variants,
    }


def _agreement_bound(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> float | None:
    dot = p = b = 0.0
    for f, r in zip(forget, retain, strict=True):
        products = f.double() * r.double()
        agree = f.sign() * r.sign() >= 0
        dot += float(products.sum())
        p += float(products[agree].sum())
        b += float(r[agree].double().square().sum())
    return b / p if dot < 0 < p and math.isfinite(b / p) else None
