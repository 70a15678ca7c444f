"""Classes of settings: a field's name, type, default, range and help text stand once, in the class.

The constructor's checks (by pydantic), the class's docstring and the command's options come from there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
import pydantic.dataclasses
from pydantic.fields import FieldInfo

from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst.schedule import parse_weight

__all__ = ["Setting", "one_of", "settings", "settings_of", "weight"]

T = TypeVar("T")

_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a class of settings.

    Attributes:
        name: The field's name.
        type: Its type, without None; str where a number or a text is taken.
        help: Its help text.
        notes: Its range and its default in words, such as ``("at least 1", "default: 4")``, as far as it has them.
        flags: The rest of its annotation.
    """

    name: str
    type: Any
    help: str
    notes: tuple[str, ...]
    flags: tuple[Any, ...]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose constructor checks names, types and ranges.

    A field reads ``name: Annotated[type, Field(description=..., ge=...)] = default``. Numbers must be finite. The docstring
    gets an ``Args`` section with all fields.

    Args:
        cls: The class. Its ``__post_init__`` may raise :class:`RetainFirstError` for what fields alone cannot say.

    Returns:
        The dataclass. Its constructor raises :class:`RetainFirstError` with the setting's name, the rule and the value.
    """
    config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    described = settings_of(made)
    check = made.__init__

    @functools.wraps(check)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            check(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise _explained(error, [one.name for one in described]) from None

    made.__init__ = construct
    made.__doc__ = _with_arguments(made.__doc__, described)
    return made  # type: ignore[no-any-return]


def settings_of(cls: type) -> tuple[Setting, ...]:
    """Return the fields of a class of settings, in their order."""
    types, annotations = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        _, *flags = get_args(annotations[field.name])
        info = next(flag for flag in flags if isinstance(flag, FieldInfo))
        bounds = {key: value for bound in info.metadata for key, value in dataclasses.asdict(bound).items()}
        notes = [_range(bounds)] if bounds else []
        if not any(field.default is nothing for nothing in (dataclasses.MISSING, None, False)):
            notes.append(f"default: {field.default}")
        found.append(
            Setting(field.name, _of_options(types[field.name]), info.description or "", tuple(notes), tuple(flags))
        )
    return tuple(found)


def one_of(names: Iterable[str]) -> pydantic.AfterValidator:
    """Return a check for a field that takes some names only."""
    known = tuple(names)

    def check(value: str, info: pydantic.ValidationInfo) -> str:
        if value not in known:
            raise RetainFirstError(f"Unknown {info.field_name} {value!r}. {did_you_mean(value, known)}")
        return value

    return pydantic.AfterValidator(check)


def _parsed(value: Any, info: pydantic.ValidationInfo) -> float | str:
    if isinstance(value, float) and not math.isfinite(value):
        raise RetainFirstError(f"{info.field_name}: input should be a finite number, found {value!r}")
    try:
        parsed = parse_weight(value)
    except RetainFirstError as error:
        raise RetainFirstError(f"{info.field_name}: {error}") from error
    return str(value) if callable(parsed) else float(parsed)


weight = pydantic.BeforeValidator(_parsed)
"""A check for a field that takes a number, or the text of a weight that changes (:func:`parse_weight`)."""


def _with_arguments(doc: str, described: Iterable[Setting]) -> str:
    """Return a docstring with an ``Args`` section before its ``Raises``."""
    lines = ["    Args:"]
    for one in described:
        text = f"{one.name}: {one.help}" + (f" ({'; '.join(one.notes)})" if one.notes else "")
        lines.append(textwrap.fill(text, 120, initial_indent=" " * 8, subsequent_indent=" " * 12))
    head, raises, tail = doc.partition("    Raises:")
    return head + "\n".join(lines) + "\n\n" + raises + tail


def _of_options(kind: Any) -> Any:
    """Return a type without None, and str where a number or a text is taken."""
    others = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return str if str in others else others[0]


def _range(bounds: Mapping[str, float]) -> str:
    if set(bounds) == {"ge", "le"}:
        return f"{bounds['ge']:.15g} to {bounds['le']:.15g}"
    return ", ".join(f"{_BOUNDS[key]} {value:.15g}" for key, value in bounds.items())


def _explained(error: pydantic.ValidationError, names: list[str]) -> RetainFirstError:
    texts = []
    for one in error.errors():
        own = one.get("ctx", {}).get("error")
        if isinstance(own, RetainFirstError):
            return own
        name = str(one["loc"][0])
        match one["type"]:
            case "missing":
                texts.append(f"{name} must be given")
            case "unexpected_keyword_argument":
                texts.append(f"Unknown setting {name!r}. {did_you_mean(name, names)}")
            case "greater_than" | "greater_than_equal" | "less_than_equal":
                texts.append(f"{name} must be {_range(one['ctx'])}, found {one['input']!r}")
            case _:
                texts.append(f"{name}: {one['msg'][0].lower()}{one['msg'][1:]}, found {one['input']!r}")
    return RetainFirstError("; ".join(texts))
