"""The statistics and tables of the study ``rwku``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from retainfirst_lab import paper
from retainfirst_lab.report import Table
from retainfirst_lab.reproduce.matched import at_forgetting
from retainfirst_lab.studies.rwku_runs import OBJECTIVES, PROBES, RULES, Design, Row
from retainfirst_lab.tasks.rwku import UNRELATED

__all__ = ["Difference", "Score", "compare", "known", "power", "scores", "tables"]

RESAMPLES = 10_000

FORGET = ("forget_level1", "forget_level2", "forget_level3")
NEIGHBOR = ("neighbor_level1", "neighbor_level2")

_COLUMNS = {
    **{f"forget {level}": (name,) for level, name in enumerate(FORGET, 1)},
    **{f"neighbor {level}": (name,) for level, name in enumerate(NEIGHBOR, 1)},
    "neighbor": NEIGHBOR,
    "unrelated": (UNRELATED,),
}

# A two-sided test at the level of 5 % finds a difference of this many standard errors with a probability of 80 %.
_STANDARD_ERRORS = 1.96 + 0.84

Rows = Mapping[str, Sequence[Row]]
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """A run at one state: the recall of each kept probe.

    Attributes:
        step: Optimiser steps; with a fraction where it is interpolated.
        recalls: By set of probes, in the order of the rows; the questions of general knowledge are a set of their own.
    """

    step: float
    recalls: Mapping[str, Sequence[float]]

    def mean(self, *names: str) -> float:
        """Return the mean over sets, each with the same weight."""
        return fmean(fmean(self.recalls[name]) for name in names)


@dataclass(frozen=True)
class Difference:
    """A difference of the neighbour score between two rules, paired by probe.

    Attributes:
        mean: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        error: Its standard error.
        facts: The number of facts that are drawn.
    """

    mean: float
    low: float
    high: float
    error: float
    facts: int


def split(rows: Rows) -> dict[str, list[Row]]:
    """Return rows by set, with the questions of general knowledge as a set of their own."""
    found = {name: [row for row in rows[name] if row["subject"] != UNRELATED] for name in PROBES}
    return found | {UNRELATED: [row for name in PROBES for row in rows[name] if row["subject"] == UNRELATED]}


def _by_set(recalls: Mapping[str, Sequence[float]], rows: Rows) -> dict[str, list[float]]:
    """Return recalls by the sets of :func:`split`."""
    found: dict[str, list[float]] = {name: [] for name in (*PROBES, UNRELATED)}
    for name in PROBES:
        for row, value in zip(rows[name], recalls[name], strict=True):
            found[UNRELATED if row["subject"] == UNRELATED else name].append(value)
    return found


def scores(run: Report, rows: Rows, target: float) -> tuple[Score | None, Score]:
    """Return a run where it has forgotten enough, and at its end.

    Args:
        run: Its results.
        rows: The kept probes, with their recall ``before``.
        target: The forget score at which the first is taken, interpolated between two evaluations; it is None if the run never
            forgets as much.
    """
    before = {name: [row["before"] for row in rows[name]] for name in PROBES}
    states = [Score(0, _by_set(before, rows))]
    states += [Score(point["step"], _by_set(point["recalls"], rows)) for point in run["points"]]
    crossing = at_forgetting([_flat(state) for state in states], target)
    return None if crossing is None else _state(crossing, states[0]), states[-1]


def _flat(state: Score) -> dict[str, float]:
    probes = {f"{name}/{n}": value for name, values in state.recalls.items() for n, value in enumerate(values)}
    return {"step": state.step, "forget": state.mean(*FORGET), **probes}


def _state(flat: Mapping[str, float], like: Score) -> Score:
    found = {name: [flat[f"{name}/{n}"] for n in range(len(values))] for name, values in like.recalls.items()}
    return Score(flat["step"], found)


def compare(left: Sequence[Score], right: Sequence[Score], rows: Rows) -> Difference:
    """Return ``left - right`` in the neighbour score.

    The interval is a 95 % percentile bootstrap (10,000 resamples, a fixed seed). It draws facts, each with all its probes, since
    the probes of one fact go together. Seeds are averaged first: it says nothing about other seeds.

    Args:
        left: The states of a rule, one for each seed.
        right: Those of the other rule, at the same seeds.
        rows: The kept probes.
    """
    kept = split(rows)
    facts = sorted({row["fact"] for name in NEIGHBOR for row in kept[name]})
    drawn = np.random.default_rng(0).multinomial(len(facts), np.full(len(facts), 1 / len(facts)), size=RESAMPLES)
    means, resampled = [], []
    for name in NEIGHBOR:
        gap = _over_seeds(left, name) - _over_seeds(right, name)
        weights = drawn[:, [facts.index(row["fact"]) for row in kept[name]]]
        means.append(gap.mean())
        resampled.append(weights @ gap / np.maximum(weights.sum(axis=1), 1))
    values = np.mean(resampled, axis=0)
    low, high = np.quantile(values, [0.025, 0.975])
    return Difference(float(np.mean(means)), float(low), float(high), float(values.std()), len(facts))


def _over_seeds(states: Sequence[Score], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: np.ndarray[Any, np.dtype[np.float64]] = np.mean([state.recalls[name] for state in states], axis=0)
    return values


def tables(report: Report) -> list[Table]:
    """Return all tables.

    Args:
        report: ``design``, ``asked`` and ``kept`` (rows by set), and ``runs``, the results of the finished runs.
    """
    design = Design(**report["design"])
    states = {
        (run["cell"]["objective"], run["cell"]["rule"], run["cell"]["seed"]): scores(run, report["kept"], design.target)
        for run in report["runs"]
    }
    matched = {key: found[0] for key, found in states.items()}
    ends = {key: found[1] for key, found in states.items()}
    part = f"{design.target:.0%} of the kept forget probes are left"
    return [
        known(report["asked"], report["kept"], design.known),
        _scores(f"Where {part}", matched, report["kept"]),
        _scores(f"After {design.steps} steps", ends, report["kept"]),
        power(f"What can be seen, where {part}", matched, report["kept"]),
    ]


def known(asked: Rows, kept: Rows, least: float) -> Table:
    """Return the table of how many probes the model answers before.

    Args:
        asked: All probes, with their recall ``before``.
        kept: Those that the runs are measured on.
        least: The recall of an answer that counts.
    """
    everything, remaining = split(asked), split(kept)
    lines = []
    for name, rows in everything.items():
        right = sum(row["before"] >= least for row in rows)
        mean = f"{fmean(row['before'] for row in rows):.3f}"
        lines.append([name, str(len(rows)), mean, str(right), f"{right / len(rows):.0%}", str(len(remaining[name]))])
    columns = ["set", "asked", "ROUGE-L recall", "known", "share", "kept"]
    return Table("What the model knows before unlearning", columns, lines)


States = Mapping[tuple[str, str, int], Score | None]


def _reached(states: States, objective: str, rule: str) -> dict[int, Score]:
    return {seed: one for (o, r, seed), one in states.items() if (o, r) == (objective, rule) and one is not None}


def _pairs(states: States, objective: str, rule: str) -> tuple[list[Score], list[Score]]:
    """Return the states of a rule and of plain addition, at the seeds that both have."""
    mine, plain = _reached(states, objective, rule), _reached(states, objective, "sum")
    seeds = sorted(mine.keys() & plain.keys())
    return [mine[seed] for seed in seeds], [plain[seed] for seed in seeds]


def _scores(title: str, states: States, rows: Rows) -> Table:
    lines = []
    for objective in OBJECTIVES:
        for rule in RULES:
            runs = sum((o, r) == (objective, rule) for o, r, _ in states)
            mine = list(_reached(states, objective, rule).values())
            cells = [_mean(mine, *names) for names in _COLUMNS.values()]
            steps = f"{fmean(one.step for one in mine):.1f}" if mine else ""
            left, right = _pairs(states, objective, rule)
            gap = compare(left, right, rows) if left and rule != "sum" else None
            shown = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})" if gap else ""
            lines.append(
                [objective, f"`{rule}`", f"{len(mine)}/{runs}", steps, *cells, shown, *_papers(objective, rule)]
            )
    columns = [
        "objective", "rule", "runs", "steps", *_COLUMNS, "neighbor, minus `sum`", "paper: Neighbor", "of the model before",
    ]  # fmt: skip
    note = (
        "ROUGE-L recall over the kept probes, which is 1 before; `neighbor` is the mean of its two levels. In brackets the 95 %"
        " bootstrap interval over facts. `runs`: those that got there, of those that are finished. The paper's numbers are of"
        f" Llama-3-8B-Instruct on RWKU, which has a Neighbor of {paper.TARGET_MODEL.neighbor} before."
    )
    return Table(title, columns, lines, note)


def _mean(states: Sequence[Score], *names: str) -> str:
    return f"{fmean(one.mean(*names) for one in states):.3f}" if states else ""


def _papers(objective: str, rule: str) -> list[str]:
    numbers = paper.TABLE.get((objective, rule))
    before = paper.TARGET_MODEL.neighbor
    if numbers is None or numbers.neighbor is None or before is None:
        return ["", ""]
    return [f"{numbers.neighbor:.1f}", f"{numbers.neighbor / before:.2f}"]


def power(title: str, states: States, rows: Rows) -> Table:
    """Return the table of the differences that the kept probes can show, and of the facts that smaller ones need."""
    lines = []
    for objective in OBJECTIVES:
        for rule in RULES:
            left, right = _pairs(states, objective, rule)
            if rule == "sum" or not left:
                continue
            found = compare(left, right, rows)
            least = _STANDARD_ERRORS * found.error
            papers = _papers_lead(objective, rule)
            needed = [_facts(found, 0.05), _facts(found, 0.10), "" if papers is None else _facts(found, papers)]
            lead = "" if papers is None else f"{papers:+.2f}"
            lines.append(
                [objective, f"`{rule}`", str(found.facts), f"{found.error:.3f}", f"{least:.3f}", *needed, lead]
            )
    columns = [
        "objective", "rule", "facts", "standard error", "seen with 80 %", "facts for 0.05", "facts for 0.10",
        "facts for the paper's lead", "the paper's lead",
    ]  # fmt: skip
    note = (
        "Of the difference in `neighbor` from plain addition. The paper's lead is a share of the Neighbor before. Differences"
        " between seeds come on top."
    )
    return Table(title, columns, lines, note)


def _papers_lead(objective: str, rule: str) -> float | None:
    before, mine = paper.TARGET_MODEL.neighbor, paper.TABLE.get((objective, rule))
    plain = paper.TABLE[objective, "sum"].neighbor
    if mine is None or mine.neighbor is None or plain is None or before is None:
        return None
    return (mine.neighbor - plain) / before


def _facts(found: Difference, lead: float) -> str:
    return str(int(np.ceil(found.facts * (_STANDARD_ERRORS * found.error / abs(lead)) ** 2)))
