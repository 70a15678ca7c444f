"""The numbers and claims of the paper, for the tables of the reproduction and of the open-unlearning plugin.

Source: Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning Problem", ACL 2026, arXiv 2604.14808. The model
is Zephyr-7B-beta, for RWKU Llama-3-8B-Instruct.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLAIMS", "GEOMETRY", "REPORTED", "TABLE", "TARGET_MODEL", "Claim", "Numbers"]

_TARGET_MMLU = 59.8


@dataclass(frozen=True)
class Numbers:
    """One row of the paper's table, in per cent; None where the paper gives no number.

    Attributes:
        bio_forget: WMDP Bio accuracy, lower is better.
        bio_mmlu: MMLU after unlearning Bio, higher is better.
        cyber_mmlu: MMLU after unlearning Cyber.
        neighbor: RWKU Neighbor, ROUGE-L.
    """

    bio_forget: float | None = None
    bio_mmlu: float | None = None
    cyber_mmlu: float | None = None
    neighbor: float | None = None

    @property
    def recovery(self) -> float | None:
        """MMLU after unlearning Bio, divided by MMLU of the target model."""
        return None if self.bio_mmlu is None else self.bio_mmlu / _TARGET_MMLU


TARGET_MODEL = Numbers(64.4, _TARGET_MMLU, _TARGET_MMLU, 85.1)
"""The target model, before unlearning."""

TABLE: dict[tuple[str, str], Numbers] = {
    ("ga", "sum"): Numbers(24.7, 25.1, 55.6, 15.5),
    ("ga", "pcgrad_global"): Numbers(24.8, 51.0),
    ("ga", "pcgrad_module"): Numbers(24.5, 53.0),
    ("ga", "sago"): Numbers(26.0, 54.1, 59.7, 32.1),
    ("npo", "sum"): Numbers(30.5, 38.2, 46.8, 13.1),
    ("npo", "sago"): Numbers(30.0, 56.0, 58.5, 41.7),
    ("simnpo", "sum"): Numbers(26.1, 26.7, 51.4, 44.9),
    ("simnpo", "pcgrad"): Numbers(28.7, 56.4, 57.9, 53.5),
    ("simnpo", "sago"): Numbers(28.2, 57.4, 58.3, 56.9),
    ("rmu", "blur"): Numbers(27.6, 53.5),
}
"""The paper's table, by objective and combiner (with its scope, where the paper names one)."""

GEOMETRY: dict[str, tuple[float, float, float]] = {
    "sum": (-0.40, 0.42, 0.50),
    "pcgrad": (-0.52, 0.52, 0.29),
    "sago": (-0.35, 0.57, 0.17),
}
"""cos(forget, retain), cos(update, retain), cos(update, forget): means over 100 steps of each combiner's own path, WMDP Cyber."""

_TRAINERS = {"ga": "graddiff", "npo": "npo", "simnpo": "simnpo"}
# The paper calls it PCGrad by module; the authors' code projects each tensor, as our experiment does.
_EXPERIMENTS = {"pcgrad_module": "pcgrad"}


def _reported() -> dict[str, str]:
    found = {}
    for (objective, combiner), row in TABLE.items():
        if objective not in _TRAINERS:
            continue
        name = f"retainfirst_{_TRAINERS[objective]}_{_EXPERIMENTS.get(combiner, combiner)}"
        if row.bio_forget is not None and row.bio_mmlu is not None:
            found[f"wmdp/{name}_bio"] = f"WMDP Bio {row.bio_forget:.1f}, MMLU {row.bio_mmlu:.1f}"
        if row.cyber_mmlu is not None:
            found[f"wmdp/{name}_cyber"] = f"MMLU {row.cyber_mmlu:.1f}"
        if row.neighbor is not None:
            found[f"rwku/{name}"] = f"Neighbor {row.neighbor:.1f}"
    return found


REPORTED: dict[str, str] = _reported()
"""The paper's numbers as text, by the path of the open-unlearning experiment that has the authors' settings. The target model has
WMDP Bio 64.4, MMLU 59.8 and Neighbor 85.1."""


@dataclass(frozen=True)
class Claim:
    """A claim that one combiner has a higher, or lower, measure than another.

    Attributes:
        text: The claim.
        combiner: The combiner that it is about.
        than: The combiner that it is compared with.
        measure: A name of the comparisons.
        expected: ``"higher"`` or ``"lower"``.
    """

    text: str
    combiner: str
    than: str
    measure: str
    expected: str = "higher"


CLAIMS = (
    Claim("PCGrad retains more than plain addition", "pcgrad", "sum", "covered"),
    Claim("SAGO retains more than plain addition", "sago", "sum", "covered"),
    Claim("SAGO retains more than PCGrad", "sago", "pcgrad", "covered"),
    Claim("PCGrad retains more than plain addition, facts outside the retain batches", "pcgrad", "sum", "held_out"),
    Claim("SAGO retains more than plain addition, facts outside the retain batches", "sago", "sum", "held_out"),
    Claim("SAGO retains more than PCGrad, facts outside the retain batches", "sago", "pcgrad", "held_out"),
    Claim("PCGrad by module retains more than over the whole model", "pcgrad_module", "pcgrad_global", "covered"),
    Claim("SAGO retains more than BLUR", "sago", "blur", "covered"),
    Claim("PCGrad's update is closer to the retain gradient than the sum", "pcgrad", "sum", "cos_update_retain"),
    Claim("SAGO's update is closer to the retain gradient than PCGrad's", "sago", "pcgrad", "cos_update_retain"),
    Claim(
        "PCGrad's update is further from the forget gradient than the sum",
        "pcgrad",
        "sum",
        "cos_update_forget",
        "lower",
    ),
    Claim(
        "SAGO's update is further from the forget gradient than PCGrad's",
        "sago",
        "pcgrad",
        "cos_update_forget",
        "lower",
    ),
)
"""The paper's claims, each of which is compared with our results."""
