"""A whole run on a Hugging Face model: what ``retainfirst unlearn`` does, for use from Python (extras ``hf`` and ``plot``)."""

from retainfirst.evaluation import AnswerProbability, Measure
from retainfirst.unlearning._config import DTYPES, UnlearnConfig
from retainfirst.unlearning._run import Interrupted, unlearn
from retainfirst.unlearning._settings import Setting, settings_of

__all__ = [
    "DTYPES",
    "AnswerProbability",
    "Interrupted",
    "Measure",
    "Setting",
    "UnlearnConfig",
    "settings_of",
    "unlearn",
]
