"""Stand-ins for lm-eval's MMLU, WMDP and a TOFU-like task: the forms of its own files, with questions of a line each."""

from __future__ import annotations

import json
from pathlib import Path

LETTERS = "ABCD"

SUBJECTS = {"algebra": 5, "physics": 1, "law": 2}
"""The subjects of the MMLU stand-in and their numbers of questions; the first two are its group ``stem``."""

UTILS = """
def process_results(doc, results):
    wanted = doc["answer"].split()
    said = results[0].split()
    return {"recall": sum(word in said for word in wanted) / len(wanted), "words": len(said)}
"""


def write_groups(folder: Path) -> Path:
    """Write the task files and the questions; return the folder, for ``--include-path``."""
    folder.mkdir(parents=True, exist_ok=True)
    options = "".join(f"\n{letter}. {{{{choices[{i}]}}}}" for i, letter in enumerate(LETTERS))
    template = {
        "output_type": "multiple_choice", "test_split": "train", "num_fewshot": 0,
        "doc_to_text": f"{{{{question.strip()}}}}{options}\nAnswer:",
        "doc_to_choice": list(LETTERS), "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}], "metadata": {"version": 1.0},
    }  # fmt: skip
    for name, count in SUBJECTS.items():
        tag = {"tag": "toy_mmlu_stem_tasks"} if name != "law" else {}
        write(folder, template | tag | {"task": f"toy_mmlu_{name}"}, questions(name, count))
    for name in ("bio", "cyber"):
        write(folder, template | {"task": f"toy_wmdp_{name}", "description": f"About {name}.\n\n"}, questions(name, 2))
    weighted = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}], "metadata": {"version": 2}}
    for group, members in {
        "toy_mmlu": ["toy_mmlu_stem", "toy_mmlu_law"],
        "toy_mmlu_stem": ["toy_mmlu_stem_tasks"],
        "toy_wmdp": ["toy_wmdp_bio", "toy_wmdp_cyber"],
    }.items():
        (folder / f"_{group}.yaml").write_text(json.dumps({"group": group, "task": members, **weighted}))
    (folder / "utils.py").write_text(UTILS)
    said = {
        "task": "toy_tofu", "output_type": "generate_until", "test_split": "train", "num_fewshot": 0,
        "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [
            {"metric": "recall", "aggregation": "mean", "higher_is_better": True},
            {"metric": "words", "aggregation": "mean", "higher_is_better": False},
        ],
    }  # fmt: skip
    write(folder, said, [{"question": f"who is {i}", "answer": "the one"} for i in range(3)])
    file = folder / "toy_tofu.yaml"
    # JSON cannot hold the tag that names a function.
    file.write_text(file.read_text().rstrip()[:-1] + ', "process_results": !function utils.process_results}')
    return folder


def questions(name: str, count: int) -> list[dict]:
    return [
        {"question": f"{name} {i}", "choices": [f"{letter}{i}" for letter in "wxyz"], "answer": i % 4}
        for i in range(count)
    ]


def write(folder: Path, settings: dict, rows: list[dict]) -> None:
    data = folder / f"{settings['task']}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kwargs = {"data_files": {"train": str(data)}, "cache_dir": str(folder.parent / "datasets")}
    (folder / f"{settings['task']}.yaml").write_text(
        json.dumps(settings | {"dataset_path": "json", "dataset_kwargs": kwargs})
    )
