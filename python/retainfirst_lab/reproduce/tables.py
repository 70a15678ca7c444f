"""The report's tables, as headings and cells of text; markdown, HTML and the terminal only set them."""

from __future__ import annotations

from retainfirst_lab.reproduce import side_tables
from retainfirst_lab.reproduce.agreement import agreement_table, differences_table
from retainfirst_lab.paper import TABLE
from retainfirst_lab.reproduce.table_parts import Results, Table, name_cells, number_cell, summary_rows, target_accuracy

__all__ = ["all_tables", "main_table", "terminal_table"]


def all_tables(results: Results) -> list[Table]:
    """Return the tables of a run, those with something in them."""
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
    """The 3x3 table (and the baselines) beside the paper's."""
    target = target_accuracy(results)
    rows = []
    for row in summary_rows(results, "chosen", results["main_bench"]):
        paper = TABLE.get((row["objective"], row["rule"]))
        ours = [number_cell(row, name) for name in ("covered", "held_out", "unrelated", "forget_paraphrased")]
        if not row["reached"]:
            ours[0] = f"not forgotten: {row['least_forget_accuracy']:.3f}"
        published = ["", "", "", ""]
        if paper is not None:
            published = [
                f"{paper.bio_mmlu:.1f} ({100 * (paper.recovery or 0):.0f} %)",
                f"{paper.bio_forget:.1f}",
                or_blank(paper.cyber_mmlu),
                or_blank(paper.neighbor),
            ]
        rows.append(
            [
                *name_cells(row),
                f"{row['reached']}/{row['runs']}",
                *ours,
                number_cell(row, "frontier_area"),
                number_cell(row, "recovery"),
                *published,
            ]
        )
    return Table(
        "Retained at equal forgetting, beside the paper",
        f"Ours: accuracy over four choices (chance 0.25; target model: {targets(results)}) where the forget accuracy is"
        f" {target:.2f}, interpolated along each path; mean ± standard deviation over seeds. Covered: facts"
        " in the retain batches; held out: the same kind of facts, in no batch; unrelated: facts that share no word with "
        "those forgotten. Paper: Zephyr-7B-beta, per cent; MMLU of the target model 59.8; in brackets its"
        " recovery, MMLU over that of the target model; ours is covered over covered of the target model.",
        ["objective", "rule", "forgot", "covered", "held out", "unrelated", "forget, paraphrased", "frontier area", "recovery",
         "paper: Bio MMLU", "Bio forget", "Cyber MMLU", "RWKU Neighbor"],
        rows,
    )  # fmt: skip


def terminal_table(results: Results) -> Table:
    """The main table in the width of a terminal."""
    full = main_table(results)
    kept = [
        full.columns.index(name) for name in ("objective", "rule", "covered", "held out", "recovery", "paper: Bio MMLU")
    ]
    rows = [[row[index] for index in kept] for row in full.rows]
    columns = [full.columns[index] for index in kept]
    return Table(f"Retained where the forget accuracy is {target_accuracy(results):.2f}", "", columns, rows)


def targets(results: Results) -> str:
    """The target models' accuracies, averaged over the seeds."""
    main = (one for one in results["cells"] if one["bench"] == results["main_bench"])
    starts = [one["path"][0] for one in main if one["role"] == "report"]
    found = {
        name.replace("_", " "): sum(start[name] for start in starts) / len(starts)
        for name in results["measures"]
        if starts and all(name in start for start in starts)
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
