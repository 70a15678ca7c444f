"""Options of a command: those that a class of settings gives, those that several commands share, and how texts are read."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_origin

import typer

from retainfirst.errors import RetainFirstError
from retainfirst.unlearning import Setting

__all__ = ["name_value_pairs", "numbers", "options_from", "set_options", "words"]

Command = Callable[..., None]


def words(text: str | None) -> list[str]:
    """Return the words of a text with commas between; none for None."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers of a text with commas between, each once; 1e6 is one.

    Raises:
        RetainFirstError: A word is no whole number of 1 or more, or there is none.
    """
    try:
        values = [float(word) for word in words(text)]
        if not values or any(value < 1 or value != int(value) for value in values):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise RetainFirstError(
            f"{option} needs whole numbers of 1 or more with commas between, found {text!r}."
        ) from error
    return list(dict.fromkeys(int(value) for value in values))


def name_value_pairs(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return the pairs of a repeatable option, with numbers, truth values and JSON read.

    Raises:
        RetainFirstError: A text is not NAME=VALUE.
    """
    found = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals:
            raise RetainFirstError(f"{option} needs NAME=VALUE, found {text!r}")
        found[name.replace("-", "_")] = _scalar(value)
    return found


def set_options(command: Command, parameters: Iterable[inspect.Parameter]) -> None:
    """Give a command that takes ``**options`` the signature from which typer reads its options."""
    named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    vars(command)["__signature__"] = inspect.Signature(named)
    command.__annotations__ = {one.name: one.annotation for one in named}


def options_from(settings: Iterable[Setting], notes: Mapping[str, str]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command one option for each setting.

    The command's first argument gets the settings that the user gave, by name; its other arguments stay options of their
    own. A dictionary becomes a repeatable option in the singular, such as ``--combiner-option NAME=VALUE``.

    Args:
        settings: The settings.
        notes: By the setting's name, words to put beside its range and default.
    """
    described = {one.name: one for one in settings}

    def decorate(command: Command) -> Command:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [_parameter(one, notes.get(one.name)) for one in described.values()] + own

        @functools.wraps(command)
        def read(**values: Any) -> None:
            # typer gives None, or in older versions an empty list, for an option that was not given.
            given = {name: values.pop(name) for name in described}
            command(
                {name: _read(described[name], value) for name, value in given.items() if value not in (None, [])},
                **values,
            )

        set_options(read, parameters)
        return read

    return decorate


def _parameter(setting: Setting, note: str | None) -> inspect.Parameter:
    words = (*setting.notes, note) if note else setting.notes
    text = f"{setting.help} [{'; '.join(words)}]" if words else setting.help
    if _is_dictionary(setting):
        kind: Any = list[str]
        option = typer.Option(None, _repeatable(setting), help=text, metavar="NAME=VALUE", show_default=False)
    else:
        kind, option = setting.type, typer.Option(None, help=text, show_default=False)
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _is_dictionary(setting: Setting) -> bool:
    return get_origin(setting.type) is dict


def _repeatable(setting: Setting) -> str:
    return f"--{setting.name.removesuffix('s').replace('_', '-')}"


def _read(setting: Setting, value: Any) -> Any:
    return name_value_pairs(_repeatable(setting), value) if _is_dictionary(setting) else value


def _scalar(text: str) -> Any:
    """Read true, false, a number or a JSON value; anything else is text."""
    words = {"True": True, "False": False}
    if text in words:
        return words[text]
    for read in (json.loads, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text
