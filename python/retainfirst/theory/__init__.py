"""The theorem book: the statements about the combiners, whether they hold, and four ways to check them.

See ``docs/theory.md`` and ``retainfirst verify``. :mod:`retainfirst.testing` checks your own combiner.
"""

from retainfirst.theory.crossing import crossing_point
from retainfirst.theory.statements import STATEMENTS, Statement, statement

__all__ = ["STATEMENTS", "Statement", "crossing_point", "statement"]
