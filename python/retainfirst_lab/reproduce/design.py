"""What is run: the cells of each tier, and the sizes that they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from retainfirst.combiners import Combiner, make_combiner

__all__ = ["BASELINES", "MAIN", "OBJECTIVES", "RULES", "Cell", "Method", "Rule", "Settings", "Sizes", "grid"]

Method = tuple[str, str, str]
"""What is compared: bench, objective and rule."""

Settings = tuple[float, float]
"""What is chosen for a method: gamma and learning rate."""

OBJECTIVES = ("ga", "npo", "simnpo")
"""The forget objectives of the 3x3 table."""


@dataclass(frozen=True)
class Rule:
    """A combiner with its scope.

    Attributes:
        name: A name of :func:`retainfirst.available_combiners`.
        scope: For ``pcgrad`` and ``blur``; None for the others.
    """

    name: str
    scope: str | None = None

    @property
    def label(self) -> str:
        """How tables and files call it: the name, and the scope if it is not the rule's usual one."""
        usual = {"pcgrad": "tensor", "blur": "global"}.get(self.name)
        return self.name if self.scope in (None, usual) else f"{self.name}_{self.scope}"

    def make(self, alpha: float, gamma: float) -> Combiner:
        """Return the combiner with these weights."""
        scope = {} if self.scope is None else {"scope": self.scope}
        return make_combiner(self.name, alpha=alpha, gamma=gamma, **scope)


MAIN = (Rule("sum"), Rule("pcgrad", "tensor"), Rule("sago"))
"""The rules of the 3x3 table; ``sum`` is the paper's naive one."""

BASELINES = (
    Rule("sago_keep_retain"),
    Rule("pcgrad", "module"),
    Rule("pcgrad", "block"),
    Rule("pcgrad", "global"),
    Rule("blur", "global"),
)
"""What the full tier adds."""

RULES = {rule.label: rule for rule in (*MAIN, *BASELINES)}
"""All rules by label."""


@dataclass(frozen=True)
class Cell:
    """One unlearning run: everything that its result depends on, besides the sizes.

    Attributes:
        bench: ``"facts"``, ``"disentangled"`` or ``"smollm2"``.
        objective: Forget objective, one of :data:`OBJECTIVES`, or ``"rmu"`` with its own retain loss.
        rule: The rule's label.
        gamma: Weight of forget; alpha, the weight of retain, is 1: AdamW makes the common factor of both irrelevant.
        learning_rate: Of AdamW, constant.
        seed: Draws the facts, the model that knows them, and the batches.
    """

    bench: str
    objective: str
    rule: str
    gamma: float
    learning_rate: float
    seed: int

    @property
    def alpha(self) -> float:
        """Weight of retain."""
        return 1.0

    @property
    def id(self) -> str:
        """A name for files, different for different cells."""
        return f"{self.bench}-{self.objective}-{self.rule}-g{self.gamma:g}-lr{self.learning_rate:g}-s{self.seed}"

    @property
    def method(self) -> Method:
        """What it is a run of."""
        return self.bench, self.objective, self.rule

    @property
    def settings(self) -> Settings:
        """What may be chosen about it."""
        return self.gamma, self.learning_rate

    def combiner(self) -> Combiner:
        """Return the cell's rule with its weights."""
        return RULES[self.rule].make(self.alpha, self.gamma)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """What all cells of a run share.

    Attributes:
        target: Forget accuracy at which results are compared; chance is 0.25.
        batch_size: Forget rows, and retain rows, a step.
        max_steps: A cell that has not reached the target by then is left out of the comparisons, visibly.
        evaluate_every: Steps between two points of the path.
        relearn_rows: Forget facts that the relearning is trained on.
        relearn_steps: Steps of the relearning.
        relearn_every: Steps of the relearning between two looks at the other facts.
        relearn_rate: Learning rate of the relearning.
    """

    target: float = 0.30
    batch_size: int = 32
    max_steps: int = 200
    evaluate_every: int = 2
    relearn_rows: int = 16
    relearn_steps: int = 50
    relearn_every: int = 1
    relearn_rate: float = 3e-4


def grid(
    bench: str, objectives: Iterable[str], rules: Iterable[Rule], gammas: Iterable[float], rates: Iterable[float],
    seeds: Iterable[int],
) -> list[Cell]:  # fmt: skip
    """Return every combination, seeds outermost, so that a run cut short has whole seeds."""
    objectives, rules, gammas, rates = list(objectives), list(rules), list(gammas), list(rates)
    return [
        Cell(bench, objective, rule.label, gamma, rate, seed)
        for seed in seeds
        for objective in objectives
        for rule in rules
        for gamma in gammas
        for rate in rates
    ]
