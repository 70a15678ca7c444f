"""The two gradients of any constructed Hugging Face trainer (extra ``hf``): the names of :mod:`retainfirst.hf` for it."""

from retainfirst.hf import SplitTraining, split_trainer

__all__ = ["SplitTraining", "split_trainer"]
