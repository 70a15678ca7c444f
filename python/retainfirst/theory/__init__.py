"""The theorem book: statements about the rules, what of them holds, and four ways to check it.

See ``docs/theory.md``, ``retainfirst verify`` and, for combiners of your own, :mod:`retainfirst.testing`.
"""

from retainfirst.theory.crossing import crossing_point
from retainfirst.theory.statements import STATEMENTS, Statement, statement

__all__ = ["STATEMENTS", "Statement", "crossing_point", "statement"]
