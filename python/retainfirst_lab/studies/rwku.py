"""RWKU on a model that knows its subjects: which rule spares the neighbours of what is forgotten?

The paper's widest claims on RWKU are of Llama-3-8B-Instruct. Here the plugin's own experiments run on SmolLM2-135M-Instruct, or
another small model, in a checkout of open-unlearning, with the subjects of :mod:`retainfirst_lab.tasks.rwku` in place of the
hub's. The model is asked first, and only the probes that it answers are kept. Each run forgets all subjects at once; the rules of
an objective have the same batches and the same learning rate, and otherwise the settings of their experiment files. They are
compared where the same share of the forget probes is left, and after all steps.

    python -m retainfirst_lab.tasks.smollm2 --output models/SmolLM2
    python -m retainfirst_lab.studies.rwku --model models/SmolLM2 --open-unlearning ../open-unlearning --output outputs/rwku
        [--python ../env/bin/python] [--seeds 200 201 202] [--device cuda] [--budget 45] [--write docs/results/rwku.md]

``--python`` is that of the framework's environment, which has the plugin. Every finished run is kept, and the same command goes
on where it was stopped. ``--budget`` is in minutes: no run begins that would end after them; 0 asks the model and trains nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from retainfirst.errors import RetainFirstError
from retainfirst.files import write_json
from retainfirst_lab.bench import machine
from retainfirst_lab.report import markdown
from retainfirst_lab.report.page import rewrite
from retainfirst_lab.studies.rwku_runs import Cell, Design, Framework, Runs, cells
from retainfirst_lab.studies.rwku_tables import tables

__all__ = ["go_on", "summary"]


def main() -> None:
    """Run what is left, and write the tables of all finished runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--open-unlearning", type=Path, required=True, help="the folder of a checkout")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the checkout")
    parser.add_argument(
        "--data", type=Path, help="a folder with RWKU's own subjects, as its preparation script writes them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202])
    parser.add_argument("--device", choices=machine.DEVICES, default="cpu")
    parser.add_argument("--budget", type=float, help="minutes")
    parser.add_argument("--write", type=Path, help="the page to insert the tables into")
    given = parser.parse_args()
    machine.check_device(given.device)
    framework = Framework(given.open_unlearning.resolve(), given.python)
    try:
        runs = Runs(given.output, given.model, framework, Design(), given.data, given.device)
        start = time.perf_counter()
        runs.ask_before()
        asked = cells(given.seeds)
        deadline = None if given.budget is None else start + 60 * given.budget
        go_on(runs, asked, deadline)
        report = _report(runs, asked, framework, given.device)
    except RetainFirstError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    write_json(given.output / "report.json", report, indent=None)
    shown = f"{markdown.render(tables(report), '### {}')}\n\n{summary(report)}"
    print(shown)
    if given.write:
        rewrite(given.write, "rwku", shown)


def go_on(runs: Runs, asked: Iterable[Cell], deadline: float | None) -> None:
    """Run the cells that are not finished.

    Args:
        runs: The output folder.
        asked: All cells.
        deadline: The time of ``time.perf_counter`` before which a run must be expected to end, by the longest so far; None: none.

    Raises:
        RetainFirstError: The framework failed.
    """
    longest = max((found["seconds"] for cell in asked if (found := runs.read(cell))), default=0.0)
    for cell in asked:
        if runs.read(cell):
            continue
        if deadline is not None and time.perf_counter() + longest >= deadline:
            print(f"{cell.name} is left for the next call", flush=True)
            return
        results = runs.run(cell)
        longest = max(longest, results["seconds"])
        print(f"{cell.name}: {results['seconds']:.0f} s", flush=True)


def _report(runs: Runs, asked: Sequence[Cell], framework: Framework, device: str) -> dict[str, Any]:
    about = machine.describe(device)
    return {
        **about,
        "versions": {**about["versions"], **framework.versions()},
        "design": asdict(runs.design),
        "planned": [cell.name for cell in asked],
        "asked": runs.asked(),
        "kept": runs.kept(),
        "runs": [found for cell in asked if (found := runs.read(cell))],
    }


def summary(report: Mapping[str, Any]) -> str:
    """Return lines with the settings, the time, and the number of runs that are missing."""
    done, planned = [run["seconds"] / 60 for run in report["runs"]], len(report["planned"])
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in report["design"].items())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    time_of = ""
    if done:
        missing = (planned - len(done)) * fmean(done) / 60
        time_of = f"; {fmean(done):.1f} minutes each, and {missing:.1f} hours for those that are missing"
    about = report["machine"]
    lines = [
        f"- design: {settings}",
        f"- runs: {len(done)} of {planned}{time_of}",
        f"- machine: {about['processor']}, {about['cores']} core(s), device {about['device']}; {versions}; {report['date'][:10]}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
