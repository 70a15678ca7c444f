"""Which tensors of a batch belong to which task, and which of them a forward call of the model holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.user_code import run_file, split_file_and_name

__all__ = ["IGNORE", "ONLY_FORGETS", "TASKS", "Parts", "check_parts", "find_parts", "shares_memory", "tensors_in"]

TASKS = ("forget", "retain")
IGNORE = "ignore"
ONLY_FORGETS = "If the trainer only forgets, give batches to retain on: retain=batches, or --retain FILE"

Parts = str | Sequence[str] | Mapping[str, str] | Callable[[Any], Mapping[str, Any]]
"""How to tell a batch's parts: see :func:`retainfirst.hf.split_trainer`."""


def check_parts(parts: Parts | None) -> Parts | None:
    """Check what the user says about a batch's parts, and read it if it is a text.

    Args:
        parts: As in :func:`retainfirst.hf.split_trainer`.

    Returns:
        None, a tuple of tasks, a mapping from keys to tasks, or a function.

    Raises:
        RetainFirstError: A name is no task, a task has no part, or a file has no such function.
    """
    if parts is None or (callable(parts) and not isinstance(parts, type)):
        return parts
    if isinstance(parts, str):
        if found := split_file_and_name(parts):
            return _function(*found)
        parts = _read(parts)
    if isinstance(parts, Mapping):
        parts, names = dict(parts), list(parts.values())
    elif isinstance(parts, Sequence):
        parts, names = tuple(parts), list(parts)
    else:
        raise RetainFirstError(
            f"parts={parts!r} is no list of names, no mapping from the batch's keys to names, and no function"
        )
    for name in names:
        if name not in (*TASKS, IGNORE):
            raise RetainFirstError(
                f"parts: {name!r} is no task. {did_you_mean(str(name), (*TASKS, IGNORE))} For example: forget,forget,retain"
            )
    for task in TASKS:
        if task not in names:
            raise RetainFirstError(f"parts={parts!r} names no {task} part")
    return parts


def find_parts(inputs: Any, parts: Parts | None) -> dict[str, list[Tensor]]:
    """Return the tensors of each task of a batch.

    Args:
        inputs: The batch.
        parts: From :func:`check_parts`.

    Returns:
        ``"forget"`` and ``"retain"``, each with its tensors.

    Raises:
        RetainFirstError: The parts must be named, do not fit the batch, or are empty.
    """
    found: dict[str, list[Any]]
    if parts is not None and callable(parts):
        given = parts(inputs)
        if not isinstance(given, Mapping) or not set(TASKS) <= given.keys():
            raise RetainFirstError(
                'parts: the function must return {"forget": tensors, "retain": tensors} of a batch, not '
                + _describe(given)
            )
        found = {task: [given[task]] for task in TASKS}
    elif isinstance(parts, Mapping):
        if not isinstance(inputs, Mapping) or not parts.keys() <= inputs.keys():
            raise RetainFirstError(f"parts names the keys {sorted(parts)}, and the batch is {_describe(inputs)}")
        found = {task: [inputs[key] for key, name in parts.items() if name == task] for task in TASKS}
    elif parts is None and isinstance(inputs, Mapping) and set(TASKS) <= inputs.keys():
        found = {task: [inputs[task]] for task in TASKS}
    else:
        names = TASKS if parts is None else tuple(parts)
        if isinstance(inputs, Mapping | Tensor) or not isinstance(inputs, Sequence) or len(inputs) != len(names):
            said = "" if parts is None else f"; parts names {len(names)}: {','.join(names)}"
            raise RetainFirstError(
                f"which part of the batch is for which task? The batch is {_describe(inputs)}{said}. Name its parts in order,"
                ' such as parts="forget,forget,retain", by key, such as parts="a=forget,b=retain", or by a function. '
                + ONLY_FORGETS
            )
        found = {task: [part for part, name in zip(inputs, names, strict=True) if name == task] for task in TASKS}
    tensors = {task: list(tensors_in(found[task])) for task in TASKS}
    for task in TASKS:
        if not tensors[task]:
            hint = f". {ONLY_FORGETS}" if task == "retain" else ""
            raise RetainFirstError(f"the batch has no {task} part: there is no tensor in it{hint}")
    return tensors


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested mappings, lists, tuples and dataclasses."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        yield from tensors_in(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for one in nested:
            yield from tensors_in(one)
    elif dataclasses.is_dataclass(nested) and not isinstance(nested, type):
        yield from tensors_in([getattr(nested, field.name) for field in dataclasses.fields(nested)])


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have an element in common, as a tensor and its views do."""
    if one.device != other.device or {one.layout, other.layout} != {torch.strided}:
        return False
    try:
        return np.shares_memory(np.asarray(_Place(one)), np.asarray(_Place(other)))
    except RuntimeError:  # a tensor without memory of its own, such as a DTensor
        return False


class _Place:
    """Where a tensor lies, as numpy wants to know it; the memory itself, perhaps a GPU's, is not read."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), True),
            "shape": tuple(tensor.shape),
            "strides": tuple(step * size for step in tensor.stride()),
            "typestr": f"|V{size}",
            "version": 3,
        }


def _function(file: Path, name: str) -> Callable[[Any], Mapping[str, Any]]:
    function: Any = getattr(run_file(file), name, None)
    if not callable(function):
        raise RetainFirstError(f"parts: the file {file} has no function {name}")
    return cast(Callable[[Any], Mapping[str, Any]], function)


def _read(text: str) -> tuple[str, ...] | dict[str, str]:
    words = [word.strip() for word in text.split(",")]
    if not any("=" in word for word in words):
        return tuple(words)
    pairs = [word.partition("=") for word in words]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise RetainFirstError(f"parts={text!r}: name all parts by key, such as a=forget,b=retain, or none")
    return {key.strip(): task.strip() for key, _, task in pairs}


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with the keys {sorted(map(str, batch))}"
    if isinstance(batch, Tensor):
        return f"one tensor of shape {list(batch.shape)}"
    if isinstance(batch, Sequence):
        return f"a {type(batch).__name__} of {len(batch)} parts"
    return f"a {type(batch).__name__}"
