"""Measurements of a model: one function a metric.

- :func:`answer_probability`: how probable a model makes the labelled answers of some rows.
- :func:`multiple_choice`: accuracy on lm-eval's tasks and on those of TOFU and ARC, by lm-eval (extra ``eval``).
- :func:`score_answers` makes one teacher-forced pass over rows, and :func:`generate_answers` lets the model answer them. The
  metrics are functions of what the two return: :func:`probability`, :func:`exact_memorization`, :func:`extraction_strength`,
  :func:`perplexity`, :func:`truth_ratio`, :func:`membership_auc`, and :func:`rouge_l_recall`, :func:`matches`,
  :func:`distinct_share`, :func:`repetition`, :func:`implausibility`. :func:`measure` computes them all.
- :func:`quantized`, :func:`quantized_nf4` and :func:`relearned`: attacks that may bring forgotten answers back.
- :func:`make_set` and :func:`evaluate`: the metrics before and after unlearning and under attack; :func:`verdicts` and
  :func:`write_report` put them into words and on a page.
"""

from retainfirst.evaluation._answers import Answer, generate_answers
from retainfirst.evaluation._attacks import NF4, Attack, by_prompts, by_quantization, by_relearning
from retainfirst.evaluation._estimates import Estimate
from retainfirst.evaluation._evaluate import Condition, Evaluation, evaluate
from retainfirst.evaluation._files import (
    UNRELATED,
    RowOptions,
    check_same_tokenizer,
    evaluate_rows,
    read_files,
    run_facts,
    software,
)
from retainfirst.evaluation._harness import TASKS, YAML_FOLDER, TaskFile
from retainfirst.evaluation._measure import METRICS, Measured, Measuring, Skipped, measure
from retainfirst.evaluation._membership import membership_auc, min_k_scores, row_losses
from retainfirst.evaluation._memorisation import exact_memorization, extraction_strength, perplexity, probability
from retainfirst.evaluation._multiple_choice import Score, answered_right, multiple_choice
from retainfirst.evaluation._probability import AnswerProbability, Measure, answer_probability
from retainfirst.evaluation._prompts import TEMPLATES, answers_begun, reworded
from retainfirst.evaluation._quantize import GROUP, nf4, quantizable, quantized, quantized_nf4, round_to_nearest
from retainfirst.evaluation._relearn import relearned, split_rows
from retainfirst.evaluation._report import evaluation_page, report_data, write_report
from retainfirst.evaluation._said import distinct_share, implausibility, matches, repetition, rouge_l_recall
from retainfirst.evaluation._scores import AnswerScores, score_answers
from retainfirst.evaluation._sets import SETS, EvaluationSet, make_set
from retainfirst.evaluation._tables import table_headings, table_lines, table_markdown
from retainfirst.evaluation._truth_ratio import forget_truth_ratio, retain_truth_ratio, truth_ratio
from retainfirst.evaluation._verdicts import Verdict, recovered, verdicts

__all__ = [
    "GROUP",
    "METRICS",
    "NF4",
    "SETS",
    "TASKS",
    "TEMPLATES",
    "UNRELATED",
    "YAML_FOLDER",
    "Answer",
    "AnswerProbability",
    "AnswerScores",
    "Attack",
    "Condition",
    "Estimate",
    "Evaluation",
    "EvaluationSet",
    "Measure",
    "Measured",
    "Measuring",
    "RowOptions",
    "Score",
    "Skipped",
    "TaskFile",
    "Verdict",
    "answer_probability",
    "answered_right",
    "answers_begun",
    "by_prompts",
    "by_quantization",
    "by_relearning",
    "check_same_tokenizer",
    "distinct_share",
    "evaluate",
    "evaluate_rows",
    "evaluation_page",
    "exact_memorization",
    "extraction_strength",
    "forget_truth_ratio",
    "generate_answers",
    "implausibility",
    "make_set",
    "matches",
    "measure",
    "membership_auc",
    "min_k_scores",
    "multiple_choice",
    "nf4",
    "perplexity",
    "probability",
    "quantizable",
    "quantized",
    "quantized_nf4",
    "read_files",
    "recovered",
    "relearned",
    "repetition",
    "report_data",
    "retain_truth_ratio",
    "reworded",
    "rouge_l_recall",
    "round_to_nearest",
    "row_losses",
    "run_facts",
    "score_answers",
    "software",
    "split_rows",
    "table_headings",
    "table_lines",
    "table_markdown",
    "truth_ratio",
    "verdicts",
    "write_report",
]
