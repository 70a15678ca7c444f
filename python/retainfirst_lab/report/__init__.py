"""Tables and figures, whatever was measured: :class:`Table`, its renderings, and the insertion of tables into pages of the docs.

``bench``, ``reproduce`` and ``studies`` make tables out of their results; this package renders them.
"""

from __future__ import annotations

from retainfirst_lab.report.table import Table

__all__ = ["Table"]
