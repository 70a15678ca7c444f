"""Two-gradient training in the transformers ``Trainer``, from version 4.45 to 5.x (extra ``hf``)."""

from retainfirst.hf._evaluate_every import EvaluateEvery
from retainfirst.hf._trainer import TwoTaskTrainer, TwoTaskTrainerMixin
from retainfirst.hf._training import TwoTaskTraining, transformers

__all__ = ["EvaluateEvery", "TwoTaskTrainer", "TwoTaskTrainerMixin", "TwoTaskTraining", "transformers"]
