"""A made-up result of a run of the study of SmolLM2."""

from __future__ import annotations

from retainfirst_lab.studies.smollm2 import QUANTISERS


def result(covered=(0.9, 0.7), attacked=0.3):
    """Two forgotten authors of one row, and two covered ones; the target lies halfway between the two states."""
    forget = {"before": [0.9, 0.9], "above": [0.4, 0.4], "below": [0.2, 0.2], "equal_steps": [0.5, 0.5]}
    states = {name: {"forget": values, "covered": list(covered), "held_out": [0.8]} for name, values in forget.items()}
    states["above"]["covered"] = [1.0, 0.9]
    states["below"]["rouge"] = {"forget": [0.1, 0.1], "covered": [0.6, 0.4], "held_out": [0.5]}
    scores = {"probability": [attacked, attacked], "exact_memorization": [0.5, 0.5]}
    attacks = {name: {"forget": scores, "covered": scores} for name in QUANTISERS}
    attacks["relearning"] = {
        "rows": [1],
        "after": {"probability": [0.2]},
        "forget": {"probability": [0.35]},
    }
    return {
        "authors": {"forget": [0, 1], "covered": [2, 3], "held_out": [4]},
        "target": 0.3,
        "path": [{"step": 0, "forget": 0.9}, {"step": 1, "forget": 0.2, "step_opposes_retain": 1.0}],
        "states": states,
        "attacks": attacks,
    }
