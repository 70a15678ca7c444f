"""An evaluator for the framework: ROUGE-L recall of a model's answers to RWKU's probes.

Sources: Jin et al. 2024 (arXiv 2406.10890); its evaluation, ``eval_forget.py`` and ``eval_neighbor.py`` of jinzhuoran/RWKU; and
that of the paper's authors, ``src/data/qa.py`` and ``configs/eval/rwku_metrics`` of sustech-nlp/SAGO.

Like both: the instruction for each level, greedy answers, ROUGE-L recall, and its mean over the probes of a set. Where the two
differ, an option chooses:

- ``answer_cue``: RWKU begins the model's own turn with ``Answer:`` (``assistant``); SAGO ends the question with it (``user``).
- ``max_new_tokens`` and ``stop``: 30 and the end of the line in RWKU; 32 and an empty line or another question in SAGO.

Like SAGO and the framework, unlike RWKU: ``rouge_score`` stems words, lowers their case and keeps only ASCII letters and digits
(RWKU's ``rouge`` splits at spaces and compares case and punctuation, so most of its numbers are lower); and the prompt begins
with one beginning-of-text token (RWKU's begins with two: the template's and the tokenizer's). An empty answer scores 0, as in
RWKU, which replaces it by ``NOANSWER``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean
from retainfirst.files import write_json
from retainfirst.weights import weights_digest
from retainfirst_open_unlearning.metrics import with_prefix
from retainfirst_open_unlearning.rwku_data import HUB, PROBES, Row, instruction, load_rows, wants_cue

__all__ = ["RWKUEvaluator"]

_logger = logging.getLogger("evaluator")  # the framework's

Logs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Asking:
    """How probes are asked and answers are cut off.

    Attributes:
        answer_cue: The turn that has ``Answer:`` in it, ``assistant`` or ``user``.
        max_new_tokens: Maximum length of an answer.
        stop: An answer ends before the first of these texts.
    """

    answer_cue: str = "assistant"
    max_new_tokens: int = 30
    stop: tuple[str, ...] = ("\n",)

    def prompt(self, row: Row, part: str, tokenizer: Any, template: Mapping[str, Any]) -> str:
        """Return the whole prompt.

        Args:
            row: A probe.
            part: The set of probes that it belongs to.
            tokenizer: The model's. Its chat template is used if ``template["apply_chat_template"]``.
            template: The framework's ``model.template_args``.
        """
        cue = "Answer:" if wants_cue(row, part) else ""
        in_question = cue if self.answer_cue == "user" else ""
        return _turns(instruction(row, part) + in_question, tokenizer, template) + ("" if in_question else cue)

    def cut(self, answer: str) -> str:
        """Return an answer without the text from its end on."""
        for text in self.stop:
            answer = answer.split(text, 1)[0]
        return answer.strip()


class RWKUEvaluator:
    """Asks a model RWKU's probes. It has the interface of the framework's evaluators.

    Args:
        eval_cfg: ``output_dir``, ``overwrite``, ``path``, ``subjects``, ``probes``, ``per_subject``, ``batch_size``,
            ``answer_cue``, ``max_new_tokens``, ``stop``; see ``conf/eval/retainfirst_rwku.yaml``.
        **kwargs: Other arguments of the framework; not used.

    Raises:
        RetainFirstError: An option is out of range, or the data cannot be read.
        MissingDependency: rouge-score is not installed.
    """

    name = "RWKU"

    def __init__(self, eval_cfg: Any, **kwargs: Any) -> None:
        del kwargs
        self.eval_cfg = eval_cfg
        self.probes = list(eval_cfg.get("probes") or PROBES)
        unknown = [probe for probe in self.probes if probe not in PROBES]
        if unknown:
            raise RetainFirstError(f"eval.rwku.probes: unknown {unknown[0]!r}. {did_you_mean(unknown[0], PROBES)}")
        cue = eval_cfg.get("answer_cue", "assistant")
        if cue not in ("assistant", "user"):
            raise RetainFirstError(f"eval.rwku.answer_cue is {cue!r}; it must be 'assistant' or 'user'")
        self.batch_size = _positive(eval_cfg, "batch_size", 16)
        stop = tuple(_checked_stop(text) for text in eval_cfg.get("stop", ("\n",)) or () if text)
        self.asking = Asking(cue, _positive(eval_cfg, "max_new_tokens", 30), stop)
        self.scorer = _scorer()
        path, subjects = str(eval_cfg.get("path") or HUB), eval_cfg.get("subjects")
        self.rows = {probe: load_rows(probe, path, subjects) for probe in self.probes}

    def evaluate(
        self,
        model: nn.Module,
        output_dir: str | None = None,
        overwrite: bool | None = None,
        tokenizer: Any = None,
        template_args: Any = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Ask the probes. Write ``RWKU_EVAL.json``, with every answer, and ``RWKU_SUMMARY.json``.

        Sets of probes that an earlier evaluation in the same folder has finished with the same model, tokens and options are not
        asked again.

        Args:
            model: A causal language model.
            output_dir: The folder for both files; None: ``eval.rwku.output_dir``.
            overwrite: Ask all probes again; None: ``eval.rwku.overwrite``.
            tokenizer: The model's.
            template_args: ``model.template_args`` of the framework.
            **kwargs: Other arguments of the framework; not used.

        Returns:
            ``<set>_rouge``, the mean over the probes of a set; ``<set>_rouge/<subject>``; and ``forget_rouge`` and
            ``neighbor_rouge``, the mean over their levels, each level with the same weight. All but those of single subjects
            are there once more as ``eval_...``, for ``trainer.args.metric_for_best_model``.

        Raises:
            RetainFirstError: There is no tokenizer or no chat template, or the folder has a file that cannot be read.
        """
        del kwargs
        if tokenizer is None:
            raise RetainFirstError("the RWKU evaluator needs tokenizer=")
        template: Mapping[str, Any] = template_args or {}
        overwrite = self.eval_cfg.get("overwrite", False) if overwrite is None else overwrite
        folder = Path(output_dir or self.eval_cfg.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "RWKU_EVAL.json"
        logs: Logs = {} if overwrite else _earlier(file)
        _logger.info("RWKU: asking %d probes; answers go to %s", sum(map(len, self.rows.values())), file)
        # A rendered chat begins with the beginning-of-text token; otherwise the tokenizer adds it, as in the framework.
        special = not template.get("apply_chat_template", False)
        was_training = model.training
        model.eval()
        try:
            weights = weights_digest(model)
            prompts = {
                probe: [self.asking.prompt(row, probe, tokenizer, template) for row in self.rows[probe]]
                for probe in self.probes
            }
            keys = {
                probe: {"asked": self._digest(probe, prompts[probe], tokenizer, special=special), "model": weights}
                for probe in self.probes
            }
            asked = [probe for probe in self.probes if not _is_of(logs.get(f"{probe}_rouge"), keys[probe], probe, file)]
            for probe in asked:
                logs.pop(f"{probe}_rouge", None)  # so that no summary mixes two models
            for probe in asked:
                answers = self._generate(prompts[probe], model, tokenizer, special=special, title=probe)
                logs[f"{probe}_rouge"] = {**self._score(probe, prompts[probe], answers), **keys[probe]}
                _write(file, logs)
                _write(folder / "RWKU_SUMMARY.json", self.summarize(logs))
        finally:
            model.train(was_training)
        summary = self.summarize(logs)
        _write(folder / "RWKU_SUMMARY.json", summary)
        return with_prefix({name: value for name, value in summary.items() if "/" not in name}) | summary

    def summarize(self, logs: Logs) -> dict[str, float]:
        """Return the summary of an evaluation; see :meth:`evaluate`."""
        done = {probe: logs[f"{probe}_rouge"] for probe in self.probes if f"{probe}_rouge" in logs}
        summary = {f"{probe}_rouge": float(log["agg_value"]) for probe, log in done.items()}
        for group in ("forget", "neighbor"):
            levels = [float(log["agg_value"]) for probe, log in done.items() if probe.startswith(group)]
            if levels:
                summary[f"{group}_rouge"] = fmean(levels)
        if self.eval_cfg.get("per_subject", True):
            for probe, log in done.items():
                summary |= {f"{probe}_rouge/{subject}": float(value) for subject, value in log["by_subject"].items()}
        return summary

    def _digest(self, probe: str, prompts: list[str], tokenizer: Any, *, special: bool) -> str:
        """Return a hash of the prompts, their tokens, the true answers and the options."""
        answers = [row["answer"] for row in self.rows[probe]]
        tokens = tokenizer(prompts, add_special_tokens=special)["input_ids"]
        return sha256(json.dumps([prompts, tokens, answers, asdict(self.asking)]).encode()).hexdigest()

    def _score(self, probe: str, prompts: list[str], answers: list[str]) -> dict[str, Any]:
        """Return the log of one set of probes, in the framework's format."""
        values: dict[str, dict[str, Any]] = {}
        by_subject: dict[str, list[float]] = {}
        for index, (row, prompt, answer) in enumerate(zip(self.rows[probe], prompts, answers, strict=True)):
            recall = float(self.scorer.score(row["answer"], answer)["rougeL"].recall)
            by_subject.setdefault(row["subject"], []).append(recall)
            values[str(index)] = {"rougeL_recall": recall, "subject": row["subject"], "input": prompt}
            values[str(index)] |= {"ground_truth": row["answer"], "generation": answer}
        mean = fmean(value["rougeL_recall"] for value in values.values())
        subjects = {subject: fmean(recalls) for subject, recalls in by_subject.items()}
        return {"agg_value": mean, "by_subject": subjects, "value_by_index": values}

    @torch.no_grad()
    def _generate(self, prompts: list[str], model: Any, tokenizer: Any, *, special: bool, title: str) -> list[str]:
        from tqdm import tqdm

        device = next(model.parameters()).device
        # The longest first: there is little padding, and running out of memory happens at once.
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        answers = [""] * len(prompts)
        side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            with tqdm(total=len(prompts), desc=f"RWKU {title}", leave=False) as bar:
                for start in range(0, len(order), self.batch_size):
                    batch = order[start : start + self.batch_size]
                    texts = [prompts[index] for index in batch]
                    tokens = tokenizer(texts, padding=True, add_special_tokens=special, return_tensors="pt").to(device)
                    output = model.generate(
                        input_ids=tokens["input_ids"],
                        attention_mask=tokens["attention_mask"],
                        max_new_tokens=self.asking.max_new_tokens,
                        do_sample=False,
                        temperature=None,
                        top_p=None,
                        use_cache=True,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                    new = output[:, tokens["input_ids"].shape[1] :]
                    for index, answer in zip(batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                        answers[index] = self.asking.cut(answer)
                    bar.update(len(batch))
        finally:
            tokenizer.padding_side = side
        return answers


def _turns(question: str, tokenizer: Any, template: Mapping[str, Any]) -> str:
    """Return the conversation up to the model's turn, rendered as the framework does."""
    if template.get("apply_chat_template", False):
        if not tokenizer.chat_template:
            raise RetainFirstError(
                "the tokenizer has no chat template; set model.template_args.apply_chat_template=false"
            )
        system = template.get("system_prompt")
        chat = [{"role": "system", "content": system}] if system else []
        chat.append({"role": "user", "content": question})
        date = {"date_string": template["date_string"]} if template.get("date_string") is not None else {}
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **date))
    system = template.get("system_prompt_with_special_tokens") or ""
    tags = [template.get(tag) or "" for tag in ("user_start_tag", "user_end_tag", "asst_start_tag")]
    return f"{system}{tags[0]}{question}{tags[1]}{tags[2]}"


def _scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ModuleNotFoundError as error:
        raise MissingDependency("the RWKU evaluator needs rouge-score: pip install rouge-score") from error
    logging.getLogger("absl").setLevel(logging.WARNING)  # it logs its tokenizer at every use
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def _checked_stop(text: str) -> str:
    if "\\n" in text:
        raise RetainFirstError(
            f"eval.rwku.stop has {text!r}, a backslash and an n, which end no answer: Hydra takes the text as it is. In bash a"
            " line break is written $'eval.rwku.stop=[\"\\n\"]'"
        )
    return text


def _positive(config: Any, key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RetainFirstError(f"eval.rwku.{key} is {value!r}; it must be a whole number of at least 1")
    return value


def _earlier(file: Path) -> Logs:
    if not file.exists():
        return {}
    try:
        logs = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RetainFirstError(
            f"{file} of an earlier evaluation cannot be read ({error}); set eval.rwku.overwrite=true"
        ) from error
    if not isinstance(logs, dict):
        raise RetainFirstError(f"{file} holds {type(logs).__name__}, not an evaluation; set eval.rwku.overwrite=true")
    return logs


def _is_of(log: Mapping[str, Any] | None, key: Mapping[str, str | None], probe: str, file: Path) -> bool:
    """Return whether an earlier log is of the same model and the same prompts; say why it is used or not."""
    if log is None:
        return False
    if log.get("asked") != key["asked"]:
        _logger.warning("RWKU: %s in %s was asked with other prompts or options; it is asked again", probe, file)
    elif key["model"] is None or log.get("model") != key["model"]:
        _logger.warning("RWKU: %s in %s is of another model; it is asked again", probe, file)
    else:
        _logger.info("RWKU: %s is in %s already, of the same model; overwrite=true asks it again", probe, file)
        return True
    return False


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write sorted JSON. It appears at once: an interrupted evaluation resumes from it."""
    write_json(file, dict(sorted(content.items())), indent=4)
