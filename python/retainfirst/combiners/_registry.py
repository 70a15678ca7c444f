"""Combiners by name: built in, registered by a program, or found in installed packages and files."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from retainfirst.combiners._base import Combiner
from retainfirst.errors import RetainFirstError, UnknownCombiner, did_you_mean
from retainfirst.schedule import Weight, ends, weight_at
from retainfirst.user_code import run_file, split_file_and_name

__all__ = [
    "ENTRY_POINTS",
    "available_combiners",
    "check_schedule",
    "combiner_options",
    "make_combiner",
    "register",
    "resolve",
    "resolve_scheduled",
]

ENTRY_POINTS = "retainfirst.combiners"
"""The entry-point group in which packages list their combiners."""

Factory = TypeVar("Factory", bound=Callable[..., Combiner])

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class _Entry:
    """A registered combiner.

    Attributes:
        make: The class, or a function that returns a combiner.
        fixed: Options that the name fixes.
        argument: The option that the text after a colon in the name sets; it is required. None: the name takes no such text.
    """

    make: Callable[..., Combiner]
    fixed: dict[str, Any] = field(default_factory=dict)
    argument: str | None = None

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self.make).parameters
        return {name: one for name, one in parameters.items() if name not in self.fixed}


_ENTRIES: dict[str, _Entry] = {}
_BROKEN: dict[str, Exception] = {}


def register(name: str, *, argument: str | None = None, **fixed: Any) -> Callable[[Factory], Factory]:
    """Make a combiner known by name to :func:`make_combiner`, the trainers, the command and the open-unlearning plugin.

    A program registers its combiner before it uses the name. A package lists it in its entry points, and needs no import::

        [project.entry-points."retainfirst.combiners"]
        my_combiner = "my_package.combiners:MyCombiner"

    A combiner in a file is found by ``"path/to/file.py:my_combiner"``.

    Args:
        name: Letters, digits, ``_``, ``-`` and ``.``.
        argument: The option that ``"name:text"`` sets. The combiner then needs it, and is not among
            :func:`available_combiners`.
        **fixed: Options that this name fixes.

    Returns:
        A decorator for a combiner's class, or for a function that takes options and returns a combiner.

    Raises:
        RetainFirstError: The name has other characters or is taken, or the class lacks its formula.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RetainFirstError(f"register: {name!r} is no name; use letters, digits, '_', '-' and '.'")

    def decorate(make: Factory) -> Factory:
        known = _ENTRIES.get(name)
        if known is not None and _origin(known.make) != _origin(make):
            raise RetainFirstError(f"register: the name {name!r} is taken by {'.'.join(_origin(known.make))}")
        if not callable(make):
            raise RetainFirstError(f"register: {name!r} needs a combiner's class or a function, not {make!r}")
        if isinstance(make, type):
            if not issubclass(make, Combiner):
                raise RetainFirstError(
                    f"register: {make.__name__} must derive from ElementwiseCombiner or ProjectionCombiner"
                )
            if missing := sorted(getattr(make, "__abstractmethods__", ())):
                raise RetainFirstError(f"register: {make.__name__} lacks the method {' and '.join(missing)}")
            make.registered_name = name
        _ENTRIES[name] = _Entry(make, fixed, argument)
        return make

    return decorate


def available_combiners() -> tuple[str, ...]:
    """Return the names that :func:`make_combiner` takes without an argument, those of installed packages included.

    ``"torchjd"`` is not among them: it needs an aggregator and another library (:class:`retainfirst.TorchJD`).
    """
    _load_entry_points()
    for name, error in _BROKEN.items():
        warnings.warn(
            f"retainfirst: the combiner {name!r} of an installed package cannot be loaded: {error}", stacklevel=2
        )
    return tuple(sorted(name for name, entry in _ENTRIES.items() if entry.argument is None))


def combiner_options(name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a combiner by name, ``alpha`` and ``gamma`` among them.

    Args:
        name: As in :func:`make_combiner`.

    Raises:
        UnknownCombiner: The name is not known.
    """
    return _find(name)[1].options


def make_combiner(name: str, /, **options: Any) -> Combiner:
    """Make a combiner by name.

    Args:
        name: One of :func:`available_combiners`; a name with an argument such as ``"torchjd:UPGrad"``; or a file with one of
            its combiners, ``"path/to/file.py:name"``, which is run.
        **options: Its options: ``alpha`` and ``gamma`` for all, ``scope`` for projections, and those of its class
            (:func:`combiner_options`).

    Returns:
        The combiner.

    Raises:
        UnknownCombiner: The name is not known; the text gives the nearest one.
        MissingDependency: The combiner needs a library that is not installed.
        RetainFirstError: The combiner has no such option, an option is missing or out of its range, or its file or package
            cannot be loaded.

    Example:
        >>> make_combiner("pcgrad", scope="global", gamma=0.5)
        PCGrad(alpha=1.0, gamma=0.5, scope='global', round_toward_retain=False)
    """
    short, entry, argument = _find(name)
    if argument is not None:
        if entry.argument is None:
            raise RetainFirstError(f"{short} takes no argument after a colon, but {argument!r} was given")
        if entry.argument in options:
            raise RetainFirstError(f"{short}: {entry.argument} is given twice, in the name {name!r} and as an option")
        options = {**options, entry.argument: argument}
    known = entry.options
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        for option in options:
            if option not in known:
                raise RetainFirstError(f"{short} has no option {option!r}. {did_you_mean(option, known)}")
    try:
        combiner = entry.make(**options, **entry.fixed)
    except TypeError as error:
        raise RetainFirstError(f"{short} cannot be made with {options}: {error}") from error
    if not isinstance(combiner, Combiner):
        raise RetainFirstError(f"{short}: what was registered returned {combiner!r}, which is no combiner")
    return combiner


def resolve(combiner: str | Combiner, **options: Any) -> Combiner:
    """Return a combiner from a name with options, or the combiner itself.

    Raises:
        RetainFirstError: A combiner came with options, or see :func:`make_combiner`.
    """
    if isinstance(combiner, Combiner):
        if options:
            raise RetainFirstError(
                f"Options {sorted(options)} go with a combiner's name; {combiner!r} has its own already"
            )
        return combiner
    return make_combiner(combiner, **options)


def resolve_scheduled(combiner: str | Combiner, **options: Any) -> tuple[Combiner, dict[str, Any]]:
    """Do the same as :func:`resolve`, where ``alpha`` and ``gamma`` may be functions of the number of finished steps.

    Returns:
        The combiner with the weights of the first step, and the functions by weight.

    Raises:
        RetainFirstError: A function begins or, if its end is known, ends outside the weight's range; or see :func:`resolve`.
    """
    schedule = {name: options.pop(name) for name in ("alpha", "gamma") if callable(options.get(name))}
    first = {name: weight_at(weight, 0) for name, weight in schedule.items()}
    # A stranger's combiner may need its weights to be made.
    chosen = resolve(combiner, **options, **({} if isinstance(combiner, Combiner) else first)).with_weights(**first)
    for name, weight in schedule.items():
        check_schedule(chosen, name, weight)
    return chosen, schedule


def check_schedule(combiner: Combiner, name: str, weight: Weight) -> None:
    """Refuse a changing weight that a combiner would refuse at a step.

    Args:
        combiner: The combiner.
        name: ``"alpha"`` or ``"gamma"``.
        weight: The weight; of a function only what is known of it before a run (:func:`retainfirst.schedule.ends`).

    Raises:
        RetainFirstError: It begins or ends outside the range.
    """
    for value in ends(weight):
        try:
            combiner.with_weights(**{name: value})
        except RetainFirstError as error:
            raise RetainFirstError(f"{error}, as {weight!r} has it") from None


def _find(name: object) -> tuple[str, _Entry, str | None]:
    """Return the name in the registry, its entry, and the text after the colon."""
    if not isinstance(name, str):
        raise UnknownCombiner(f"Unknown combiner {name!r}. {did_you_mean(str(name), _ENTRIES)}")
    if found := split_file_and_name(name):
        file, name = found
        run_file(file)
    short, colon, argument = name.partition(":")
    if short not in _ENTRIES:
        _load_entry_points()
    if short in _BROKEN:
        raise RetainFirstError(f"the combiner {short!r} cannot be loaded from its package: {_BROKEN[short]}")
    if short not in _ENTRIES:
        raise UnknownCombiner(f"Unknown combiner {short!r}. {did_you_mean(short, _ENTRIES)}")
    return short, _ENTRIES[short], argument if colon else None


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        try:
            found = point.load()
            if point.name not in _ENTRIES:
                register(point.name)(found)
            elif _origin(_ENTRIES[point.name].make) != _origin(found):
                raise RetainFirstError(f"its name is taken by {'.'.join(_origin(_ENTRIES[point.name].make))}")
        except Exception as error:  # a stranger's package must not keep the others from working
            if point.name in _ENTRIES:
                warnings.warn(f"retainfirst: {point.value} is not loaded as {point.name!r}: {error}", stacklevel=3)
            else:
                _BROKEN[point.name] = error


def _origin(make: Any) -> tuple[str, str]:
    return getattr(make, "__module__", ""), getattr(make, "__qualname__", repr(make))
