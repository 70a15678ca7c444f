"""The paper's numbers and claims, to stand beside ours.

Source: Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning Problem", ACL 2026, arXiv 2604.14808
(Zephyr-7B-beta; RWKU on Llama-3-8B-Instruct). The geometry is that of WMDP Cyber, means over 100 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLAIMS", "GEOMETRY", "TABLE", "TARGET_MODEL", "Claim", "Numbers"]


@dataclass(frozen=True)
class Numbers:
    """One row of the paper's table, in per cent; None where the row that we have does not give it.

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
        """MMLU after Bio over that of the target model."""
        return None if self.bio_mmlu is None else self.bio_mmlu / 59.8


TARGET_MODEL = Numbers(64.4, 59.8, 59.8, 85.1)

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
"""By objective and rule."""

GEOMETRY: dict[str, tuple[float, float, float]] = {
    "sum": (-0.40, 0.42, 0.50),
    "pcgrad": (-0.52, 0.52, 0.29),
    "sago": (-0.35, 0.57, 0.17),
}
"""cos(forget, retain), cos(update, retain), cos(update, forget) along each rule's own path."""


@dataclass(frozen=True)
class Claim:
    """That one rule has more, or less, of something than another.

    Attributes:
        text: The claim.
        rule: The rule that it is about.
        than: What it is compared with.
        measure: A name of the comparisons.
        expected: ``"higher"`` or ``"lower"``.
    """

    text: str
    rule: str
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
"""What the paper reports, each held against our comparisons."""
