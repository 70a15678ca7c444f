"""The test bed of the small facts model."""

from __future__ import annotations

import io
import random
from contextlib import redirect_stderr
from typing import Any

from retainfirst.data import encode_rows, pad_token_id
from retainfirst_lab.reproduce.design import Sizes
from retainfirst_lab.tasks import facts
from retainfirst_lab.tasks.facts import FactsConfig

__all__ = ["FactsTestbed", "facts_config"]

_NAMES = {"retain": "covered"}


def facts_config(seed: int, *, disentangled: bool = False, people: int = 24, hidden_size: int = 128) -> FactsConfig:
    """Return the facts of a seed: for each person to forget three to retain, one held out and one unrelated."""
    return FactsConfig(
        seed=seed,
        forget_people=people,
        retain_people=3 * people,
        held_out_people=people,
        unrelated_people=0 if disentangled else people,
        paraphrased=True,
        disentangled=disentangled,
        hidden_size=hidden_size,
    )


class FactsTestbed:
    """The facts model of a configuration, read from the cache.

    Args:
        config: The facts.
        sizes: Of the run; they give the number of rows to relearn.
    """

    def __init__(self, config: FactsConfig, sizes: Sizes) -> None:
        self.config = config
        _, self.tokenizer = facts.load(config)
        self.pad_token_id = pad_token_id(self.tokenizer)
        self._parts = facts.facts_parts(config)
        forget = self._parts["forget"]
        shown = set(random.Random(config.seed).sample(range(len(forget)), min(sizes.relearn_rows, len(forget) // 2)))
        self.forget = self._encode(forget, "forget")
        self.retain = self._encode(self._parts["retain"], "retain")
        self.relearn = self._encode([row for i, row in enumerate(forget) if i in shown], "relearn")
        self._judged_target: dict[str, float] | None = None
        self._remaining = [row for i, row in enumerate(forget) if i not in shown]

    def _encode(self, rows: Any, name: str) -> Any:
        return encode_rows(rows, self.tokenizer, 16, name=name)

    def use_as_retain(self, part: str) -> None:
        """Fill the retain batches with another part of the facts, such as ``"unrelated"``."""
        self.retain = self._encode(self._parts[part], part)

    def model(self) -> Any:
        """Return the model that knows the facts."""
        return facts.load(self.config)[0]

    def accuracies(self, model: Any) -> dict[str, float]:
        """Return the share of right answers over four choices, by name."""
        return {_NAMES.get(part, part): self.accuracy(model, part) for part in self._parts}

    def accuracy(self, model: Any, part: str) -> float:
        """Return the share of right answers over four choices on one part of the facts."""
        return facts.accuracy(model, self.tokenizer, self._parts[part])

    def remaining(self, model: Any) -> float:
        """Return the accuracy on the forget facts that are not in ``relearn``."""
        return facts.accuracy(model, self.tokenizer, self._remaining)

    def judge(self, model: Any) -> dict[str, float]:
        """Return the same accuracies, computed by lm-eval."""
        from retainfirst_lab.tasks.multiple_choice import score

        tasks = {f"retainfirst_facts_{part}": _NAMES.get(part, part) for part in self._parts}
        with redirect_stderr(io.StringIO()):  # its progress bars
            scores = score(model, self.tokenizer, list(tasks), batch_size=256)
        return {tasks[one.task]: one.value for one in scores if one.metric == "acc"}

    def judged_target(self) -> dict[str, float]:
        """Return :meth:`judge` of the target model."""
        if self._judged_target is None:
            self._judged_target = self.judge(self.model())
        return self._judged_target
