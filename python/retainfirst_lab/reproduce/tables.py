"""The tables of a reproduction report."""

from __future__ import annotations

from retainfirst_lab.paper import TABLE, TARGET_MODEL
from retainfirst_lab.report import Table
from retainfirst_lab.report.table import number_cell
from retainfirst_lab.reproduce import side_tables
from retainfirst_lab.reproduce.agreement import agreement_table, differences_table
from retainfirst_lab.reproduce.table_parts import Results, mean_cell, name_cells, summary_rows, target_accuracy

__all__ = ["all_tables", "main_table", "terminal_table"]


def all_tables(results: Results) -> list[Table]:
    """Return the tables of a run that have rows."""
    made = [
        main_table(results),
        agreement_table(results),
        differences_table(results),
        side_tables.cost_table(results),
        side_tables.end_models_table(results),
        side_tables.geometry_table(results),
        side_tables.sweep_table(results),
        side_tables.closer_table(results),
        side_tables.control_table(results),
        side_tables.chosen_table(results),
    ]
    return [table for table in made if table.rows]


def main_table(results: Results) -> Table:
    """Return the 3x3 table, with the baselines, and the paper's numbers."""
    target = target_accuracy(results)
    rows = []
    for row in summary_rows(results, "chosen", results["main_testbed"]):
        paper = TABLE.get((row["objective"], row["variant"]))
        ours = [mean_cell(row, name) for name in ("covered", "held_out", "unrelated", "forget_paraphrased")]
        if not row["reached"]:
            ours[0] = f"not forgotten: {row['least_forget_accuracy']:.3f}"
        published = ["", "", "", ""]
        if paper is not None:
            published = [
                f"{paper.bio_mmlu:.1f} ({100 * (paper.recovery or 0):.0f} %)",
                f"{paper.bio_forget:.1f}",
                number_cell(paper.cyber_mmlu, 1),
                number_cell(paper.neighbor, 1),
            ]
        rows.append(
            [
                *name_cells(row),
                f"{row['reached']}/{row['runs']}",
                *ours,
                mean_cell(row, "frontier_area"),
                mean_cell(row, "recovery"),
                *published,
            ]
        )
    return Table(
        "Retain accuracy at equal forgetting, compared with the paper",
        ["objective", "combiner", "forgot", "covered", "held out", "unrelated", "forget, paraphrased", "frontier area",
         "recovery", "paper: Bio MMLU", "Bio forget", "Cyber MMLU", "RWKU Neighbor"],
        rows,
        f"Ours: accuracy over four choices (chance 0.25; target model: {targets(results)}), interpolated along each path to the"
        f" forget accuracy {target:.2f}; mean ± standard deviation over seeds. Covered: facts of the retain batches. Held out:"
        " facts of the same kind, in no batch. Unrelated: facts that share no word with the forgotten ones. Recovery: covered"
        " accuracy divided by that of the target model. Paper: Zephyr-7B-beta, per cent; in brackets the recovery, MMLU divided"
        f" by that of the target model ({TARGET_MODEL.bio_mmlu}).",
    )  # fmt: skip


def terminal_table(results: Results) -> Table:
    """Return the columns of the main table that fit into a terminal."""
    full = main_table(results)
    kept = [
        full.columns.index(name)
        for name in ("objective", "combiner", "covered", "held out", "recovery", "paper: Bio MMLU")
    ]
    rows = [[row[index] for index in kept] for row in full.rows]
    columns = [full.columns[index] for index in kept]
    return Table(f"Retain accuracy at forget accuracy {target_accuracy(results):.2f}", columns, rows)


def targets(results: Results) -> str:
    """Return the accuracies of the target models, averaged over the seeds."""
    main = (one for one in results["cells"] if one["testbed"] == results["main_testbed"])
    starts = [one["path"][0] for one in main if one["role"] == "report"]
    found = {
        name.replace("_", " "): sum(start[name] for start in starts) / len(starts)
        for name in results["measures"]
        if starts and all(name in start for start in starts)
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())
