"""Scopes and groups: which tensors a projection combines together (PCGrad, BLUR and their kind).

A combiner sees groups and never names; parameter names decide here what belongs together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, ShapeMismatch, did_you_mean

__all__ = ["SCOPES", "Groups", "check_scope", "group_by_scope"]

# Up to and with the first numbered part: "model.layers.3.mlp.up_proj.weight" -> "model.layers.3".
_REPEATED = re.compile(r"(?:.*?\.)??\d+(?=\.|$)")

# Prefixes that torch.compile, DataParallel and PEFT add to a model's own names.
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
        scope: ``"tensor"``: each parameter is a group. ``"module"``: the parameters of one module (a weight and its bias).
            ``"block"``: one group a repeated layer (``model.layers.3``); parameters outside the layers form one group a
            top-level module (``model`` for embedding and final norm of a Llama, ``lm_head``). ``"global"``: one group.

    Returns:
        Group name to indices into ``names``, in order of first appearance; each index is in one group.

    Raises:
        RetainFirstError: The scope is unknown.
    """
    key = _KEYS[check_scope(scope)]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(key(name), []).append(i)
    return groups


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of a list of tensors.

    Attributes:
        names: One name a group.
        index: Shape ``[n]``, int64, on the CPU: the group of each tensor. None: each tensor is a group, in their order.
    """

    names: tuple[str, ...]
    index: Tensor | None = None

    @classmethod
    def of(cls, members: Mapping[str, Sequence[int]], count: int) -> Groups:
        """Make groups from lists of indices.

        Args:
            members: Group name to the indices of its tensors.
            count: The number of tensors.

        Raises:
            ShapeMismatch: An index is out of range, or not in exactly one group.
        """
        index = [-1] * count
        for g, group in enumerate(members.values()):
            for i in group:
                if not 0 <= i < count or index[i] != -1:
                    problem = "stands in two groups" if 0 <= i < count else f"does not exist (there are {count})"
                    raise ShapeMismatch(f"groups: tensor {i} {problem}; name each tensor once")
                index[i] = g
        if -1 in index:
            raise ShapeMismatch(f"groups: tensor {index.index(-1)} is in none; name each tensor once")
        if index == [*range(len(members))]:
            return cls(tuple(members))
        # NumPy converts a long list faster, and ignores torch's default device.
        return cls(tuple(members), torch.from_numpy(np.array(index, dtype=np.int64)))

    @classmethod
    def by_scope(cls, names: Sequence[str], scope: str) -> Groups:
        """Group named parameters as :func:`group_by_scope` does."""
        return cls.of(group_by_scope(names, scope), len(names))

    @classmethod
    def without_names(cls, count: int, scope: str) -> Groups:
        """Group tensors that have no names.

        Raises:
            RetainFirstError: The scope groups by names, and there are several tensors.
        """
        if count > 1 and check_scope(scope) in ("module", "block"):
            raise RetainFirstError(
                f"scope {scope!r} groups by parameter names, but the tensors have none; give them as a mapping from names,"
                " pass groups=, or use TwoTaskStep"
            )
        return _one_group(count) if scope == "global" else _each_alone(count)

    @property
    def members(self) -> list[list[int]]:
        """The indices of the tensors of each group."""
        if self.index is None:
            return [[i] for i in range(len(self.names))]
        found: list[list[int]] = [[] for _ in self.names]
        for i, group in enumerate(self.index.tolist()):
            found[group].append(i)
        return found

    def __len__(self) -> int:
        return len(self.names)


# Cached: most calls repeat the same count.
@lru_cache(maxsize=16)
def _each_alone(count: int) -> Groups:
    return Groups(tuple(map(str, range(count))))


@lru_cache(maxsize=16)
def _one_group(count: int) -> Groups:
    return Groups.of({"global": range(count)}, count)
