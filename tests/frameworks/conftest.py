"""Code bases of others, if environment variables name checkouts of them; without these the tests are skipped.

MUSE_HOME, NPO_HOME, WMDP_HOME        unedited checkouts of muse_bench, negative-preference-optimization and Unlearn-Smooth
MUSE_PYTHON, NPO_PYTHON, WMDP_PYTHON  the Python that has what each needs (default: the one that runs the tests)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from checkouts import ROOT, CodeBase


@pytest.fixture(scope="session")
def code_base(tmp_path_factory):
    """A function that returns the code base of a name, with a tiny model that its own transformers made."""

    def get(name: str, **environment: str) -> CodeBase:
        given = os.environ.get(f"{name}_HOME")
        if not given:
            pytest.skip(f"{name}_HOME names no checkout, so nothing ran against the real code base")
        workspace = tmp_path_factory.mktemp(name.lower())
        python = os.environ.get(f"{name}_PYTHON", sys.executable)
        made = CodeBase(Path(given).resolve(), python, workspace, environment)
        made.run(str(ROOT / "tests/open_unlearning/make_model.py"), str(made.model), cwd=workspace)
        return made

    return get
