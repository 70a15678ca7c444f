"""The statements about steps: what an optimiser makes of an update, ``d`` = parameters after minus parameters before."""

from __future__ import annotations

from retainfirst.theory import _judgements, _step_judgements, _step_proofs, runs
from retainfirst.theory._statement import PROJECT, Statement

__all__ = ["ABOUT_STEPS"]

_SAGO = ("sago", "sago_keep_retain")
_EVERY = ("sum", *_SAGO, "pcgrad", "orthogonal", "gru", "agem", "ngdiff", "blur")
_FEW_DOMAINS = ("free", "zeros", "strong", "subnormal")
"""Enough for a guard, which compares signs only."""

ABOUT_STEPS = (
    Statement(
        id="T9",
        title="A positive diagonal keeps it",
        words=(
            "If each coordinate of SAGO's update is multiplied by a positive factor of its own, as preconditioners do, still no "
            "coordinate moves against the retain gradient. Clipping is one factor for all coordinates. One factor for all "
            "coordinates also keeps <u, r> >= 0 of every other combiner, in exact arithmetic."
        ),
        formula="P_i > 0 implies (P u)_i r_i >= 0 for all i, so <P u, r> >= 0",
        source=PROJECT,
        status="holds",
        combiner="sago",
        promised_by=_SAGO,
        hypothesis=_step_judgements.finite_step,
        objection=_step_judgements.opposed_coordinate_of_the_step,
        claims=_step_proofs.KEPT_BY_A_DIAGONAL,
        exact=False,
        runs=runs.SCALED,
        raw=True,
    ),
    Statement(
        id="T10",
        title="No coordinate of the step is opposed",
        words=(
            "Without weight decay, SAGO's step moves no coordinate against the retain gradient: at every step with SGD and "
            "RMSprop without momentum, Adagrad, Adadelta, Adafactor, Rprop, ASGD with lambd = 0, and Adam with beta1 = 0; at "
            "the first step with Adam, AdamW, Adamax, NAdam, RAdam, and SGD with momentum. Stored parameters keep it exactly, "
            "since rounding never reverses the order of two numbers. Muon mixes coordinates and is none of these."
        ),
        formula="d = -P u with a positive diagonal P implies d_i r_i <= 0 for all i",
        source=PROJECT,
        status="holds with conditions",
        combiner="sago",
        promised_by=_SAGO,
        hypothesis=_step_judgements.finite_step,
        objection=_step_judgements.opposed_coordinate_of_the_step,
        claims=_step_proofs.KEPT_WITHOUT_MEMORY,
        exact=False,
        runs=runs.WITHOUT_MEMORY,
    ),
    Statement(
        id="T11",
        title="The guard",
        words=(
            "Put each parameter that moved against the retain gradient back to where it was. Then no coordinate of the step "
            "opposes retention, and neither does the step as a whole, with every combiner and every optimiser, its momentum and "
            "its weight decay. This is exact in every floating-point format, since only stored numbers are compared. All other "
            "parameters stay as the optimiser left them, NaN too."
        ),
        formula="after_i := before_i where (after_i > before_i and r_i > 0) or (after_i < before_i and r_i < 0)",
        source=PROJECT,
        status="holds",
        combiner="sum",
        promised_by=_EVERY,
        hypothesis=_judgements.always,
        objection=_step_judgements.guarded_amiss,
        claims=_step_proofs.GUARD,
        exact=False,
        domains=_FEW_DOMAINS,
        runs=runs.GUARDED,
        raw=True,
    ),
    Statement(
        id="T12",
        title="SAGO's guard needs no retain gradient",
        words=(
            "Where SAGO's update u_i is not 0, it has the sign of r_i or r_i is 0. So the guard can compare the step with the "
            "update, which is in .grad. Where u_i = 0 it puts the parameter back, wherever it moved; NaN stays."
        ),
        formula="after_i := before_i where u_i = 0 or (after_i - before_i) u_i > 0",
        source=PROJECT,
        status="holds",
        combiner="sago",
        promised_by=_SAGO,
        hypothesis=_judgements.always,
        objection=_step_judgements.guarded_by_update_amiss,
        claims=_step_proofs.GUARD_BY_UPDATE,
        exact=False,
        domains=_FEW_DOMAINS,
        runs=runs.GUARDED_BY_UPDATE,
        raw=True,
    ),
    Statement(
        id="X3",
        title="PCGrad's guarantee survives the optimiser",
        words=(
            "If <u, r> >= 0 then the step of an optimiser without memory does not work against retention. False for PCGrad with "
            "Adam, AdamW, Adamax, NAdam, RMSprop, Adagrad, Adadelta, Adafactor and Rprop: r = (1, 2) and f = (5, -5) give "
            "u = (7, -1), and the first step along the signs of u raises the retain loss. True for both forms of SAGO."
        ),
        formula="<u, r> >= 0 implies <d, r> <= 0",
        source=PROJECT,
        status="refuted",
        combiner="pcgrad",
        promised_by=_SAGO,
        hypothesis=_step_judgements.finite_step,
        objection=_step_judgements.step_against_retention,
        claims=_step_proofs.SURVIVES_PRECONDITIONING,
        exact=False,
        domains=("conflicting", "strong"),
        runs=runs.PRECONDITIONED,
    ),
    Statement(
        id="X4",
        title="SAGO's guarantee survives momentum and weight decay",
        words=(
            "No coordinate of SAGO's step moves against the retain gradient, with momentum and with weight decay too. False: "
            "momentum remembers gradients of other batches, and weight decay moves parameters whose update is 0. T11's guard "
            "repairs both."
        ),
        formula="d_i r_i <= 0 for all i, at every step of every optimiser",
        source=PROJECT,
        status="refuted",
        combiner="sago",
        promised_by=(),
        hypothesis=_step_judgements.finite_step,
        objection=_step_judgements.opposed_coordinate_of_the_step,
        claims=_step_proofs.KEPT_WITH_MEMORY,
        exact=False,
        runs=runs.WITH_MEMORY_OR_DECAY,
    ),
)
"""All statements about steps, in order."""
