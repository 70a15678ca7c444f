"""Two-gradient training in the transformers ``Trainer``, from version 4.45 to 5.x (extra ``hf``)."""

from retainfirst.hf._evaluate_every import EvaluateEvery
from retainfirst.hf._launch import run_script
from retainfirst.hf._split import SplitTraining, split_trainer
from retainfirst.hf._stepping import tokenizer_of, transformers
from retainfirst.hf._stop import StopAtForget
from retainfirst.hf._trainer import TwoTaskTrainer, TwoTaskTrainerMixin
from retainfirst.hf._training import TwoTaskTraining

__all__ = [
    "EvaluateEvery",
    "SplitTraining",
    "StopAtForget",
    "TwoTaskTrainer",
    "TwoTaskTrainerMixin",
    "TwoTaskTraining",
    "run_script",
    "split_trainer",
    "tokenizer_of",
    "transformers",
]
