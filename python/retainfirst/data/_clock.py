"""A fixed time for chat templates that read the clock."""

from __future__ import annotations

from datetime import datetime

from retainfirst.errors import require

__all__ = ["CLOCK_VARIABLE", "DEFAULT_NOW", "clock_formats", "with_fixed_clock"]

DEFAULT_NOW = datetime(2024, 7, 26)
"""The time that templates see unless another is given: the default date in the templates of Llama 3.1."""

CLOCK_VARIABLE = "retainfirst_clock"

# Transformers gives templates a function of this name; a macro of the same name hides it. Recent versions accept only plain data
# as template variables, so the formatted times are passed as a dictionary. Jinja's trim_blocks removes the line break at the end.
_MACRO = (
    "{% macro strftime_now(format) %}"
    "{% if format not in " + CLOCK_VARIABLE + " %}"
    "{{ raise_exception('strftime_now is called with a format that is no literal string of the template') }}"
    "{% endif %}"
    "{{ " + CLOCK_VARIABLE + "[format] }}"
    "{% endmacro %}\n"
)


def with_fixed_clock(template: str) -> str | None:
    """Return the template with ``strftime_now`` replaced by a look-up, or None if it never reads the clock."""
    return _MACRO + template if "strftime_now" in template else None


def clock_formats(template: str, now: datetime) -> dict[str, str]:
    """Format ``now`` by each string literal of the template that may be a time format."""
    jinja2 = require("jinja2", "hf")
    # The lexer, not the parser: it knows nothing of tags, so transformers' own tags cannot stop it.
    strings = {value[1:-1] for _, kind, value in jinja2.Environment().lex(template) if kind == "string"}
    return {string: now.strftime(string) for string in strings if "%" in string}
