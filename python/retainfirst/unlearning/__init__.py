"""One unlearning run on a Hugging Face model, as ``retainfirst unlearn`` does it (extras ``hf`` and ``plot``)."""

from retainfirst.evaluation import AnswerProbability, Measure
from retainfirst.unlearning._config import DTYPES, UnlearnConfig
from retainfirst.unlearning._report import versions
from retainfirst.unlearning._run import Interrupted, unlearn
from retainfirst.unlearning._settings import Setting, settings_of
from retainfirst.unlearning._signals import on_interrupt

__all__ = [
    "DTYPES",
    "AnswerProbability",
    "Interrupted",
    "Measure",
    "Setting",
    "UnlearnConfig",
    "on_interrupt",
    "settings_of",
    "unlearn",
    "versions",
]
