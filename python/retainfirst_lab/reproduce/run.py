"""A whole run: cells, choice of settings, results and reports."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.files import write_json, write_whole
from retainfirst.unlearning import versions
from retainfirst_lab.reproduce.attack_results import attack_results
from retainfirst_lab.reproduce.design import OBJECTIVES, VARIANTS, Cell, Method, Settings
from retainfirst_lab.reproduce.guard_results import guard_results
from retainfirst_lab.reproduce.losses import OPTIONS
from retainfirst_lab.reproduce.results import Entry, choose, compare, entry, summarise
from retainfirst_lab.reproduce.store import Store, rounded
from retainfirst_lab.reproduce.testbed import MEASURES
from retainfirst_lab.reproduce.tiers import Tier
from retainfirst_lab.reproduce.workers import AnyCell, finished

__all__ = ["PARTS", "Progress", "check_only", "reproduce"]

PARTS = ("combiners", "guard", "attacks")
"""The parts of a tier: the tables of combiners, the comparison with and without the guard, and the rules under attack."""

Progress = Callable[[str, int, int], None]
"""A callback ``progress(stage, done, total)``."""


def reproduce(
    tier: Tier,
    output: str | Path,
    *,
    jobs: int | None = None,
    only: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Run a tier, and write ``results.json``, ``report.md`` and ``report.html`` to the output folder.

    Finished cells are stored there: an interrupted run, or one with more seeds, resumes.

    Args:
        tier: The cells.
        output: The folder: new, empty, or of a run of the same tier and sizes.
        jobs: Processes; None: the tier's number, at most one per core.
        only: Objectives and combiners to run; empty: all.
        parts: The parts to run, of :data:`PARTS`; one that the tier does not have is left out.
        command: The command line, for the report.
        progress: Called after every cell.

    Returns:
        The contents of ``results.json``.

    Raises:
        RetainFirstError: Bad use, an output folder of another run, or a full disk; the text names the input.
        MissingDependency: transformers, lm-eval, scipy or matplotlib is not installed.
    """
    for module, extra in (("transformers", "hf"), ("lm_eval", "eval"), ("scipy", "eval"), ("matplotlib", "plot")):
        require(module, extra)
    check_only(only, tier.methods())
    _check_parts(parts, tier)
    if jobs is not None and jobs < 1:
        raise RetainFirstError(f"jobs must be at least 1, found {jobs}.")
    both = set(tier.seeds) & set(tier.development_seeds)
    if both or not tier.seeds:
        raise RetainFirstError(
            f"There must be seeds to report on, none of them a seed that settings are chosen on; found {sorted(both)} in both."
        )
    store = Store(Path(output), {**tier.identity(), "versions": _weighty(versions())})
    start = time.perf_counter()
    try:
        run = _Run(tier, store, jobs or min(tier.jobs, os.cpu_count() or 1), only, progress)
        whole = "combiners" in parts
        development = run.entries(tier.development() if whole else [], "choosing settings")
        chosen = choose(development)
        planned = tier.report(chosen) if whole else []
        report = run.entries(planned, "runs")
        results = _results(tier, chosen, development, report)
        results["planned"] = len([cell for cell in planned if _wanted(cell, only)]) + len(development)
        if tier.guard is not None and "guard" in parts:
            guarded = run.entries(tier.guard.cells(tier.main_testbed, (*tier.seeds, *tier.development_seeds)), "guard")
            results |= {"guard": guard_results(guarded, tier.development_seeds)} if guarded else {}
        if tier.attacks is not None and "attacks" in parts:
            raw = run.finished(tier.attacks.cells(tier.main_testbed, tier.seeds), "attacks")
            results |= {"attacks": attack_results(raw, tier.sizes.target)} if raw else {}
        results |= {"only": list(only), "parts": list(parts), "command": command}
        results["wall_seconds"] = time.perf_counter() - start
        _write(store.folder, results)
    except OSError as error:
        raise RetainFirstError(f"The run stopped: {error}. What is finished is kept in {output}.") from error
    return results


class _Run:
    """Runs missing cells and reads all of them."""

    def __init__(self, tier: Tier, store: Store, jobs: int, only: Sequence[str], progress: Progress) -> None:
        self.tier, self.store, self.jobs, self.only, self.progress = tier, store, jobs, only, progress

    def finished(self, cells: Sequence[AnyCell], what: str) -> dict[AnyCell, dict[str, Any]]:
        wanted = [cell for cell in cells if _wanted(cell, self.only)]
        return finished(self.tier, self.store, wanted, self.jobs, partial(self.progress, what))

    def entries(self, cells: Sequence[Cell], what: str) -> list[Entry]:
        raw = self.finished(cells, what)
        return [entry(cell, found, self.tier.sizes.target, raw.get(_naive(cell))) for cell, found in raw.items()]


def _naive(cell: Cell) -> Cell:
    return Cell(cell.testbed, cell.objective, "sum", cell.gamma, cell.learning_rate, cell.seed)


def _check_parts(parts: Sequence[str], tier: Tier) -> None:
    for name in parts:
        if name not in PARTS:
            raise RetainFirstError(f"Nothing in a tier is called part {name!r}. {did_you_mean(name, PARTS)}")
    has = {"combiners": True, "guard": tier.guard is not None, "attacks": tier.attacks is not None}
    if not any(has[name] for name in parts):
        raise RetainFirstError(f"The tier {tier.name} has no part {' or '.join(parts)}; run the tiers quick or full.")


def check_only(only: Iterable[str], methods: Sequence[Method]) -> None:
    """Check the names of ``--only``.

    Raises:
        RetainFirstError: A name is neither an objective nor a combiner of the tier.
    """
    known = list(dict.fromkeys(name for _, *names in methods for name in names))
    for name in only:
        if name not in known:
            raise RetainFirstError(f"Nothing in this tier is called {name!r}. {did_you_mean(name, known)}")


def _wanted(cell: Cell, only: Sequence[str]) -> bool:
    objectives = [name for name in only if name in (*OBJECTIVES, "rmu")]
    variants = [name for name in only if name in VARIANTS]
    return (not objectives or cell.objective in objectives) and (not variants or cell.variant in variants)


def _results(
    tier: Tier, chosen: Mapping[Method, Settings], development: Sequence[Entry], report: Sequence[Entry]
) -> dict[str, Any]:
    at_chosen = [one for one in report if _settings(one) == chosen.get(_method(one), tier.common)]
    at_common = [one for one in report if _settings(one) == tier.common]
    return {
        "tier": tier.name,
        "seeds": list(tier.seeds),
        "development_seeds": list(tier.development_seeds),
        "versions": versions(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": tier.threads},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": tier.identity(),
        "main_testbed": tier.main_testbed,
        "objective_options": OPTIONS,
        "measures": list(MEASURES),
        "common": dict(zip(("gamma", "learning_rate"), tier.common, strict=True)),
        "chosen": [
            dict(zip(("testbed", "objective", "variant", "gamma", "learning_rate"), (*method, *settings), strict=True))
            for method, settings in chosen.items()
        ],
        "summary": {"chosen": summarise(at_chosen), "all": summarise(report), "development": summarise(development)},
        "comparisons": {"chosen": compare(at_chosen), "common": compare(at_common)},
        "lm_eval_difference": _judges_differ([*development, *report]),
        "cells": [{"role": "report", **one} for one in report]
        + [{"role": "development", **one} for one in development],
    }


def _settings(one: Entry) -> Settings:
    return one["gamma"], one["learning_rate"]


def _method(one: Entry) -> Method:
    return one["testbed"], one["objective"], one["variant"]


def _judges_differ(entries: Iterable[Entry]) -> float:
    """The largest difference between lm-eval's accuracies of the end models and those of the path, over common measures."""
    differences = (
        abs(value - one["path"][-1][name])
        for one in entries
        for name, value in one["lm_eval"]["end"].items()
        if name in one["path"][-1]
    )
    return max(differences, default=0.0)


def _weighty(found: Mapping[str, str]) -> dict[str, str]:
    """The versions that results depend on most; cells of different ones must not be mixed."""
    return {name: found[name] for name in ("retainfirst", "torch", "transformers")}


def _write(folder: Path, results: dict[str, Any]) -> None:
    from retainfirst_lab.reproduce.report import render_html, render_markdown, title

    write_json(folder / "results.json", rounded(results), indent=None)
    write_whole(folder / "report.md", f"# {title(results)}\n\n{render_markdown(results)}")
    write_whole(folder / "report.html", render_html(results))
