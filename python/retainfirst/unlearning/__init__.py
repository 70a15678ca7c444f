"""One unlearning run on a Hugging Face model, as ``retainfirst unlearn`` does it (extras ``hf`` and ``plot``)."""

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
