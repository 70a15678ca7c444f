"""Names for parameters that come without a model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from retainfirst.errors import RetainFirstError

__all__ = ["by_name"]


def by_name(
    parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
) -> dict[str, nn.Parameter]:
    """Name parameters without names by their position; a parameter that comes twice (tied weights) counts once.

    Raises:
        RetainFirstError: The argument is no list of parameters, or two of them have one name.
    """
    wanted = "give a model, its parameters() or its named_parameters()"
    try:
        items = list(parameters)
    except TypeError as error:
        raise RetainFirstError(
            f"TwoTaskStep: {parameters!r} is neither a model nor a list of parameters; {wanted}"
        ) from error
    named: dict[str, nn.Parameter] = {}
    seen: set[nn.Parameter] = set()
    for i, item in enumerate(items):
        name, parameter = item if isinstance(item, tuple) and len(item) == 2 else (f"parameter{i}", item)
        if not isinstance(parameter, nn.Parameter):
            raise RetainFirstError(f"TwoTaskStep: {parameter!r} is not a parameter; {wanted}")
        if parameter in seen:
            continue
        if name in named:
            raise RetainFirstError(
                f"TwoTaskStep: two different parameters are named {name!r}; give each a name of its own"
            )
        seen.add(parameter)
        named[name] = parameter
    return named
