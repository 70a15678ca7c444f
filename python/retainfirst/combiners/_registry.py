"""Combiners by name. A new rule is one file and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from retainfirst.combiners._base import Combiner
from retainfirst.combiners._blur import BLUR
from retainfirst.combiners._pcgrad import PCGrad
from retainfirst.combiners._sago import SAGO
from retainfirst.combiners._sum import Sum
from retainfirst.combiners._torchjd import TorchJD
from retainfirst.errors import RetainFirstError, UnknownCombiner, did_you_mean

__all__ = ["available_combiners", "make_combiner"]

_REGISTRY: dict[str, Callable[..., Combiner]] = {
    "sum": Sum,
    "pcgrad": PCGrad,
    "sago": partial(SAGO, keep_retain=False),
    "sago_keep_retain": partial(SAGO, keep_retain=True),
    "blur": BLUR,
}

# Made by name as well, but not from numbers and words alone, and so not for a command line or a configuration file.
_WITH_AN_OBJECT: dict[str, Callable[..., Combiner]] = {"torchjd": TorchJD}


def available_combiners() -> tuple[str, ...]:
    """Return the names that :func:`make_combiner` takes without any option.

    ``"torchjd"`` is not among them: it needs an aggregator and another library (:class:`retainfirst.TorchJD`).
    """
    return tuple(_REGISTRY)


def make_combiner(name: str, **options: Any) -> Combiner:
    """Make a combiner by name.

    Args:
        name: One of :func:`available_combiners`, or ``"torchjd"``.
        **options: Its options: ``alpha`` and ``gamma`` for all, ``scope`` for ``pcgrad``, ``blur`` and ``torchjd``,
            ``round_toward_retain`` for ``pcgrad``, ``aggregator`` for ``torchjd``.

    Returns:
        The combiner.

    Raises:
        UnknownCombiner: The name is not known; the text gives the nearest one.
        MissingDependency: The rule needs a library that is not installed.
        RetainFirstError: The rule has no such option, or an option is missing or out of its range.

    Example:
        >>> make_combiner("pcgrad", scope="global", gamma=0.5)
        PCGrad(alpha=1.0, gamma=0.5, scope='global', round_toward_retain=False)
    """
    makers = _REGISTRY | _WITH_AN_OBJECT
    if not isinstance(name, str) or name not in makers:
        raise UnknownCombiner(f"Unknown combiner {name!r}. {did_you_mean(str(name), makers)}")
    factory = makers[name]
    fixed = factory.keywords if isinstance(factory, partial) else {}
    known = [option for option in inspect.signature(factory).parameters if option not in fixed]
    for option in options:
        if option not in known:
            raise RetainFirstError(f"{name} has no option {option!r}. {did_you_mean(option, known)}")
    return factory(**options)
