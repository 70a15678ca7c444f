"""A pytest plugin: the process has no compiled extension, as in an installation from the wheel for every platform.

``PYTHONPATH=tests pytest -p without_extension tests/unit/combiners``
"""

import sys

sys.modules["retainfirst._rust"] = None  # type: ignore[assignment] # an import of it then fails as if it were not there
