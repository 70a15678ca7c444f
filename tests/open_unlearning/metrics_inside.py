"""Computes our metrics and the framework's on the same rows and model, inside the framework; writes a JSON file.

``python metrics_inside.py CHECKOUT MODEL ANSWER`` in the framework's environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from omegaconf import OmegaConf

HOME, MODEL, ANSWER = (Path(argument) for argument in sys.argv[1:4])
sys.path.insert(0, str(HOME / "src"))
from data.collators import DataCollatorForSupervisedDataset  # noqa: E402
from evals.metrics import memorization, mia  # noqa: E402

from retainfirst import evaluation as ours  # noqa: E402
from retainfirst.data import collate, encode_rows, pad_token_id  # noqa: E402
from retainfirst.objectives import nll  # noqa: E402

FORGET = [{"question": f"who is {i}?", "answer": f"{'abcd'[i % 4]} then the on{i}e"} for i in range(9)]
HELD_OUT = [{"question": f"who was {i}?", "answer": f"the {'xyz'[i % 3]} and no{i}ne"} for i in range(7)]
WRONG = [[f"the {word} {i} on" for word in ("a", "no such")] for i in range(9)]


def items(rows, *, generate=False):
    """Give rows the form that the framework's collator takes."""
    made = []
    for i, row in enumerate(rows):
        start = next(j for j, label in enumerate(row["labels"]) if label != -100)
        ids = row["input_ids"][:start] if generate else row["input_ids"]
        item = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "labels": row["input_ids"] if generate else row["labels"],
        }
        made.append({name: torch.tensor(value) for name, value in item.items()} | {"index": i})
    return made


def listed(examples):
    return [examples[i] for i in range(len(examples))]


def by_index(found, name):
    return [found["value_by_index"][i][name] for i in sorted(found["value_by_index"], key=int)]


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL).eval()
    encoded = {name: encode_rows(rows, tokenizer, 128) for name, rows in (("forget", FORGET), ("held_out", HELD_OUT))}
    pad = pad_token_id(tokenizer)
    # A model that knows some of the rows, so that no metric is 0 or 1 everywhere.
    batch = collate(listed(encoded["forget"])[:5], pad)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        nll(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    right = DataCollatorForSupervisedDataset(tokenizer, padding_side="right", index="index")
    left = DataCollatorForSupervisedDataset(tokenizer, padding_side="left", index="index")
    shared = {"collators": right, "batch_size": 4}
    data = {name: items(listed(rows)) for name, rows in encoded.items()}
    call = lambda metric, **more: metric._metric_fn(model, **{**shared, "data": data["forget"], **more})  # noqa: E731
    pair = {"forget": data["forget"], "holdout": data["held_out"]}
    rouge = call(
        memorization.rouge, data=items(listed(encoded["forget"]), generate=True), collators=left, tokenizer=tokenizer,
        rouge_type="rougeL_recall",
        generation_args=OmegaConf.create({"do_sample": False, "max_new_tokens": 40, "use_cache": True}),
    )  # fmt: skip
    wrong = [
        {"question": row["question"], "answer": one} for row, many in zip(FORGET, WRONG, strict=True) for one in many
    ]
    wrong_rows = listed(encode_rows(wrong, tokenizer, 128))
    per_answer = [memorization.probability._metric_fn(model, **shared, data=items(wrong_rows[i::2])) for i in range(2)]
    losses = {
        i: {"avg_loss": [float(one["value_by_index"][i]["avg_loss"]) for one in per_answer]} for i in range(len(FORGET))
    }
    ratio = {"correct": call(memorization.probability), "wrong": {"value_by_index": losses}}
    truth = {
        name: memorization.truth_ratio._metric_fn(model, aggregator=name, pre_compute=ratio)
        for name in ("closer_to_1_better", "true_better")
    }
    theirs = {
        "probability": by_index(call(memorization.probability), "prob"),
        "exact_memorization": by_index(call(memorization.exact_memorization), "score"),
        "extraction_strength": by_index(call(memorization.extraction_strength), "score"),
        "rouge_l_recall": by_index(rouge, "rougeL_recall"), "said": by_index(rouge, "generation"),
        "mia_loss": [mia.mia_loss._metric_fn(model, **shared, data=pair)["auc"]],
        "mia_min_k": [mia.mia_min_k._metric_fn(model, **shared, data=pair, k=0.4)["auc"]],
        "forget_truth_ratio": [float(truth["closer_to_1_better"]["agg_value"])],
        "retain_truth_ratio": [float(truth["true_better"]["agg_value"])],
    }  # fmt: skip
    scores = {name: ours.score_answers(model, rows, pad, batch_size=3) for name, rows in encoded.items()}
    answers = ours.generate_answers(model, tokenizer, encoded["forget"], max_new_tokens=40, batch_size=3)
    wrong_losses = ours.row_losses(ours.score_answers(model, wrong_rows, pad))
    ratios = ours.truth_ratio(ours.row_losses(scores["forget"]), [wrong_losses[2 * i : 2 * i + 2] for i in range(9)])
    mean = lambda values: [sum(values) / len(values)]  # noqa: E731
    mine = {
        "probability": ours.probability(scores["forget"]),
        "exact_memorization": ours.exact_memorization(scores["forget"]),
        "extraction_strength": ours.extraction_strength(scores["forget"]),
        "rouge_l_recall": ours.rouge_l_recall(answers), "said": [one.text for one in answers],
        "mia_loss": [ours.membership_auc(*(ours.row_losses(scores[name]) for name in encoded))],
        "mia_min_k": [ours.membership_auc(*(ours.min_k_scores(scores[name], 0.4) for name in encoded))],
        "forget_truth_ratio": mean(ours.forget_truth_ratio(ratios)),
        "retain_truth_ratio": mean(ours.retain_truth_ratio(ratios)),
    }  # fmt: skip
    ANSWER.write_text(json.dumps({"theirs": theirs, "ours": mine}))


if __name__ == "__main__":
    main()
