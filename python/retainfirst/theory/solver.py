"""Proofs by Z3 (extra ``verify``): the claims over the real numbers, and T1 in IEEE arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from retainfirst.errors import require
from retainfirst.theory.claims import PAIR, Claim, Unknowns
from retainfirst.theory.statements import Statement

__all__ = ["IEEE_FORMATS", "Proof", "counterexample", "prove", "prove_statement", "prove_t1_in_ieee"]

Verdict = Literal["proved", "refuted", "vacuous", "undecided"]

IEEE_FORMATS = {"float16": (5, 11), "bfloat16": (8, 8), "float32": (8, 24), "float64": (11, 53)}
"""Bits of exponent and of significand (the implied one included)."""


@dataclass(frozen=True)
class Proof:
    """What the solver said of one claim.

    Attributes:
        words: The claim.
        verdict: ``"proved"``: no counterexample exists; ``"refuted"``: one was found; ``"vacuous"``: the assumptions cannot be
            met, so that nothing is claimed; ``"undecided"``: the time ran out.
        seconds: Wall time.
        model: The unknowns of the counterexample, as the solver prints them.
    """

    words: str
    verdict: Verdict
    seconds: float
    model: dict[str, str] = field(default_factory=dict)


def prove(claim: Claim, timeout: float = 120.0) -> Proof:
    """Let the solver look for numbers that meet the assumptions and break a conclusion.

    Args:
        claim: Over the real numbers.
        timeout: Seconds for each of the two questions (can the assumptions be met; can a conclusion fail).

    Raises:
        MissingDependency: z3-solver is not installed.
    """
    z3 = require("z3", "verify")
    start = time.perf_counter()
    # A context of its own: what was asked before would change how the solver goes about it, and how long it takes.
    context = z3.Context()
    unknowns = Unknowns(**{name: z3.Real(name, context) for name in claim.unknowns.split()})
    assumptions = claim.assume(unknowns)
    failure = z3.Not(z3.And(*claim.conclude(unknowns)))
    verdict, model = _decide(z3, lambda: z3.SolverFor("QF_NRA", context), assumptions, failure, timeout)
    return Proof(claim.words, verdict, time.perf_counter() - start, model)


def prove_statement(statement: Statement, timeout: float = 120.0) -> Iterator[Proof]:
    """Prove, or refute, one claim of a statement after the other; for T1 in IEEE arithmetic too."""
    for claim in statement.claims:
        yield prove(claim, timeout)
    if statement.id == "T1":
        for name in IEEE_FORMATS:
            for rule in statement.promised_by:
                yield prove_t1_in_ieee(rule, name, timeout)


def prove_t1_in_ieee(rule: str, dtype: str, timeout: float = 120.0) -> Proof:
    """Prove T1 for one coordinate with every operation rounded, for all finite inputs and weights of the format.

    As the library computes: 16-bit formats in float32, rounded once at the end; weights are finite numbers of the format that is
    computed in, ``alpha > 0``, ``gamma >= 0``. Beyond T1 it says that the update is never NaN; it may overflow to infinity, which
    keeps the sign.

    Args:
        rule: ``"sago"`` or ``"sago_keep_retain"``.
        dtype: One of :data:`IEEE_FORMATS`.
        timeout: Seconds for each of the two questions.

    Raises:
        MissingDependency: z3-solver is not installed.
    """
    z3 = require("z3", "verify")
    start = time.perf_counter()
    wide_name = dtype if dtype == "float64" else "float32"
    narrow, wide = z3.FPSort(*IEEE_FORMATS[dtype]), z3.FPSort(*IEEE_FORMATS[wide_name])
    nearest = z3.RNE()
    f, r = z3.FP("f", narrow), z3.FP("r", narrow)
    alpha, gamma = z3.FP("alpha", wide), z3.FP("gamma", wide)
    zero, wide_zero = z3.FPVal(0, narrow), z3.FPVal(0, wide)

    def opposed(x: Any, y: Any) -> Any:
        return z3.Or(z3.And(x < zero, y > zero), z3.And(x > zero, y < zero))

    kept = z3.fpMul(nearest, alpha, z3.fpToFP(nearest, r, wide))
    taken = z3.fpMul(nearest, gamma, z3.fpToFP(nearest, f, wide))
    elsewhere = taken if rule == "sago" else z3.fpAdd(nearest, kept, taken)
    update = z3.fpToFP(nearest, z3.If(opposed(f, r), kept, elsewhere), narrow)

    finite = [z3.Not(z3.Or(z3.fpIsNaN(x), z3.fpIsInf(x))) for x in (f, r, alpha, gamma)]
    assumptions = [*finite, alpha > wide_zero, gamma >= wide_zero]
    failure = z3.Or(z3.fpIsNaN(update), opposed(update, r))
    verdict, model = _decide(z3, z3.Solver, assumptions, failure, timeout)
    return Proof(f"{rule} rounded in {dtype}", verdict, time.perf_counter() - start, model)


def counterexample(claim: Claim, timeout: float = 120.0) -> tuple[list[Fraction], list[Fraction]] | None:
    """Turn a refutation of a claim about a pair of gradients into explicit vectors.

    The six numbers of the model are asked to be those of ``f = (-z, x) / 64`` and ``r = (1, 1)`` with small whole numbers, which
    every floating-point format holds exactly.

    Args:
        claim: Over the unknowns :data:`retainfirst.theory.claims.PAIR`, at ``l = 1``.
        timeout: Seconds.

    Returns:
        Forget and retain; None if the claim has other unknowns, if there are no such vectors, or if the time ran out.

    Raises:
        MissingDependency: z3-solver is not installed.
    """
    z3 = require("z3", "verify")
    if claim.unknowns != PAIR:
        return None
    v = Unknowns(**{name: z3.Real(name) for name in claim.unknowns.split()})
    x, z = z3.Ints("x z")
    solver = z3.Solver()
    solver.set("timeout", int(timeout * 1000))
    solver.add(*claim.assume(v), z3.Not(z3.And(*claim.conclude(v))))
    solver.add(v.a == 1, v.b == 1, 64 * v.p == x, 4096 * v.q == x * x, 64 * v.t == z, 4096 * v.s == z * z)
    solver.add(x >= 1, x <= 64, z >= 1, z <= 64)
    if solver.check() != z3.sat:
        return None
    found = solver.model()
    forget = [Fraction(sign * found[unknown].as_long(), 64) for sign, unknown in ((-1, z), (1, x))]
    return forget, [Fraction(1), Fraction(1)]


def _decide(
    z3: Any, make: Callable[[], Any], assumptions: list[Any], failure: Any, timeout: float
) -> tuple[Verdict, dict[str, str]]:
    """Ask whether the assumptions can be met, and then whether they can be met with a failure."""
    model: Any = None
    for question in ([], [failure]):
        solver = make()  # a fresh one: a second check of the same solver works by other, weaker means
        # Ctrl-C is for the program that asks: the solver would take it for the end of its time.
        solver.set("timeout", int(timeout * 1000), "ctrl_c", False)
        solver.add(*assumptions, *question)
        answer = solver.check()
        if answer == z3.unknown:
            return "undecided", {}
        if answer == z3.unsat:
            return ("proved" if question else "vacuous"), {}
        model = solver.model()
    return "refuted", {str(name): str(model[name]) for name in model.decls()}
