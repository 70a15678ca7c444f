"""The old name of ``retainfirst_lab.bench``."""

from retainfirst._moved import moved

__path__, __getattr__ = moved(__name__, "retainfirst_lab.bench")
