"""Options of a step: values that cannot work are refused, and ``where`` becomes a function."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from retainfirst.combiners import Combiner
from retainfirst.errors import RetainFirstError

__all__ = ["check_guard_options", "check_memory_options", "selection"]


def check_memory_options(combiner: Combiner, offload: object, stream: object) -> None:
    """Refuse values of ``offload`` and ``stream`` of :class:`TwoTaskStep` that cannot work.

    Raises:
        RetainFirstError: An unknown value, or streaming with a combiner that needs the whole gradient.
    """
    if offload not in (None, "cpu"):
        raise RetainFirstError(f'offload must be "cpu" or None, not {offload!r}')
    if not isinstance(stream, bool):
        raise RetainFirstError(f"stream must be True or False, not {stream!r}")
    if stream and combiner.scope == "global":
        raise RetainFirstError(
            f"{combiner.name} with scope 'global' needs the whole gradient before it can combine any of it, so that stream=True"
            " would save nothing; choose another scope, or leave stream out"
        )


def check_guard_options(enforce: object, every: object) -> None:
    """Refuse values of ``enforce`` and ``every`` of :meth:`retainfirst.TwoTaskStep.guard` that cannot work.

    Raises:
        RetainFirstError: ``enforce`` is no truth value, or ``every`` no whole number from 0 on.
    """
    if not isinstance(enforce, bool):
        raise RetainFirstError(f"step.guard(): enforce must be True or False, not {enforce!r}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 0:
        raise RetainFirstError(f"step.guard(): every must be a whole number, 0 or more, not {every!r}")


def selection(where: str | Callable[[str, nn.Parameter], bool] | None) -> Callable[[str, nn.Parameter], bool]:
    """Return the function that says whether a parameter, by name, is combined by the combiner.

    Raises:
        RetainFirstError: ``where`` is no regular expression.
    """
    if where is None:
        return lambda name, parameter: True  # noqa: ARG005
    if callable(where):
        return where
    try:
        pattern = re.compile(where)
    except (re.error, TypeError) as error:
        raise RetainFirstError(f"TwoTaskStep: where={where!r} is no regular expression: {error}") from error
    return lambda name, _: pattern.search(name) is not None
