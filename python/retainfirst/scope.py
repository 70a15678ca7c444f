"""Scopes: how parameters are grouped for the rules that look at a whole group (PCGrad, BLUR).

A rule sees a group and never a name; what belongs together is decided here, from parameter names alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from retainfirst.errors import RetainFirstError, did_you_mean

__all__ = ["SCOPES", "check_scope", "group_by_scope"]

# Up to and with the first numbered part: "model.layers.3.mlp.up_proj.weight" -> "model.layers.3".
_REPEATED = re.compile(r"(?:.*?\.)??\d+(?=\.|$)")


# What torch.compile, DataParallel and PEFT put before a model's own names.
_WRAPPER = re.compile(r"(?:_orig_mod\.|module\.|base_model\.model\.)+")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _block(name: str) -> str:
    name = _WRAPPER.sub("", name, count=1) if _WRAPPER.match(name) else name
    match = _REPEATED.match(name)
    return match.group() if match else name.partition(".")[0]


_KEYS: dict[str, Callable[[str], str]] = {
    "tensor": lambda name: name,
    "module": _module,
    "block": _block,
    "global": lambda _: "global",
}
SCOPES = tuple(_KEYS)


def check_scope(scope: str) -> str:
    """Return ``scope`` if it is one of :data:`SCOPES`.

    Raises:
        RetainFirstError: It is not; the text gives the nearest name.
    """
    if not isinstance(scope, str) or scope not in _KEYS:
        raise RetainFirstError(f"Unknown scope {scope!r}. {did_you_mean(str(scope), SCOPES)}")
    return scope


def group_by_scope(names: Sequence[str], scope: str) -> dict[str, list[int]]:
    """Group parameters by name.

    Args:
        names: Dotted parameter names, as from ``model.named_parameters()``.
        scope: ``"tensor"``: each parameter by itself. ``"module"``: the parameters of one module (a weight and its bias).
            ``"block"``: one group a repeated layer (``model.layers.3``); what stands outside the layers is one group a
            top-level module (``model`` for embedding and final norm of a Llama, ``lm_head``). ``"global"``: all together.

    Returns:
        Group name to indices into ``names``, in order of first appearance; each index stands in one group.

    Raises:
        RetainFirstError: The scope is unknown.
    """
    key = _KEYS[check_scope(scope)]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(key(name), []).append(i)
    return groups
