"""The facts as ``question``, ``choices`` and ``gold``, for the YAML files beside it; lm-eval loads this file by path."""

from __future__ import annotations

from typing import Any

__all__ = ["facts_of_model", "from_facts"]


def from_facts(dataset: Any) -> Any:
    """Read the rows that ``retainfirst_lab.tasks.facts.write_files`` writes.

    Args:
        dataset: A ``datasets.Dataset`` with ``prompt``, ``choices`` and ``answer`` (an index).

    Returns:
        The data set with the columns ``question``, ``choices`` and ``gold``.
    """
    return dataset.map(
        lambda row: {"question": row["prompt"], "choices": row["choices"], "gold": row["answer"]},
        remove_columns=dataset.column_names,
    )


def facts_of_model(part: str, pretrained: str, **_: Any) -> dict[str, Any]:
    """Draw the facts that a facts model was taught, from the configuration that is saved with it.

    Args:
        part: ``forget``, ``retain``, ``held_out``, ``unrelated`` or ``forget_paraphrased``.
        pretrained: The model's folder or hub name, as in ``lm_eval --model_args pretrained=...``.
        **_: Further arguments of lm-eval.

    Returns:
        The rows as the split ``train``, which the tasks name.

    Raises:
        ValueError: It is no facts model, or one without such facts.
    """
    from datasets import Dataset
    from transformers import AutoConfig

    from retainfirst_lab.tasks._facts_words import FACTS_CONFIG_KEY
    from retainfirst_lab.tasks.facts import FactsConfig, facts_parts

    config = AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    stored = getattr(config, FACTS_CONFIG_KEY, None)
    rows = facts_parts(FactsConfig(**stored)).get(part) if stored else None
    if rows is None:
        raise ValueError(f"{pretrained} has no facts of the kind {part!r}: it is no facts model, or one without them.")
    return {"train": Dataset.from_list([dict(row) for row in rows])}
