"""What every rule would do with the same two gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retainfirst.geometry import FIELDS
from retainfirst_lab.reproduce.design import RULES, Cell
from retainfirst_lab.reproduce.losses import Loss

__all__ = ["same_state"]


def same_state(
    model: Any, losses: tuple[Loss, Loss], pair: Sequence[Mapping[str, Tensor]], cell: Cell
) -> dict[str, Any]:
    """Take the two gradients once, and combine copies of them by every rule, with the cell's weights.

    Args:
        model: At the state in question; left as it is.
        losses: Forget and retain loss.
        pair: The forget batch and the retain batch.
        cell: Gives the weights.

    Returns:
        ``cos_forget_retain``; ``agreement_bound``, theorem T5's ``b / p``: SAGO is tighter than global PCGrad wherever gamma /
        alpha is at least this (None without conflict, or where no coordinate agrees); and ``rules``: for each label the cosines
        of its update with the retain and the forget gradient.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    forget, retain = (
        torch.autograd.grad(loss(model, batch), parameters, allow_unused=True, materialize_grads=True)
        for loss, batch in zip(losses, pair, strict=True)
    )
    rules, conflict = {}, math.nan
    for label, rule in RULES.items():
        combiner = rule.make(cell.alpha, cell.gamma)
        update = [gradient.clone() for gradient in retain]
        geometry = combiner.combine_named_(list(forget), update, combiner.group(names))
        conflict = geometry.cos_forget_retain
        rules[label] = {name: getattr(geometry, name) for name in FIELDS[1:3]}
    return {
        "cos_forget_retain": conflict,
        "agreement_bound": _agreement_bound(forget, retain),
        "rules": rules,
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
