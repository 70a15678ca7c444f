"""Measurements of a model: one function a metric.

- :func:`answer_probability`: how probable a model makes the labelled answers of some rows.
- :func:`multiple_choice`: accuracy on lm-eval's tasks and on those of TOFU and ARC, by lm-eval (extra ``eval``).
"""

from retainfirst.evaluation._harness import TASKS, YAML_FOLDER, TaskFile
from retainfirst.evaluation._multiple_choice import Score, answered_right, multiple_choice
from retainfirst.evaluation._probability import AnswerProbability, Measure, answer_probability

__all__ = [
    "TASKS",
    "YAML_FOLDER",
    "AnswerProbability",
    "Measure",
    "Score",
    "TaskFile",
    "answer_probability",
    "answered_right",
    "multiple_choice",
]
