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

__all__ = [
    "IEEE_FORMATS",
    "Proof",
    "counterexample",
    "prove",
    "prove_statement",
    "prove_t1_in_ieee",
    "step_counterexample",
]

Verdict = Literal["proved", "refuted", "vacuous", "undecided"]

IEEE_FORMATS = {"float16": (5, 11), "bfloat16": (8, 8), "float32": (8, 24), "float64": (11, 53)}
"""The number of bits of the exponent and of the significand, its implied bit included."""


@dataclass(frozen=True)
class Proof:
    """The solver's answer to one claim.

    Attributes:
        words: The claim in words.
        verdict: ``"proved"``: no counterexample exists; ``"refuted"``: there is one; ``"vacuous"``: no numbers meet the
            assumptions, so that the claim says nothing; ``"undecided"``: the time ran out.
        seconds: Wall time.
        model: The unknowns of the counterexample, as the solver prints them.
    """

    words: str
    verdict: Verdict
    seconds: float
    model: dict[str, str] = field(default_factory=dict)


def prove(claim: Claim, timeout: float = 120.0) -> Proof:
    """Let the solver search for numbers that meet the assumptions of a claim and break a conclusion.

    Args:
        claim: A claim over the real numbers.
        timeout: Seconds for each of the two questions: can the assumptions be met, and can a conclusion fail then.

    Raises:
        MissingDependency: z3-solver is not installed.
    """
    z3 = require("z3", "verify")
    start = time.perf_counter()
    # A new context: earlier questions in the same context change the solver's way and its time.
    context = z3.Context()
    unknowns = Unknowns(**{name: z3.Real(name, context) for name in claim.unknowns.split()})
    assumptions = claim.assume(unknowns)
    failure = z3.Not(z3.And(*claim.conclude(unknowns)))
    verdict, model = _decide(z3, lambda: z3.SolverFor("QF_NRA", context), assumptions, failure, timeout)
    return Proof(claim.words, verdict, time.perf_counter() - start, model)


def prove_statement(statement: Statement, timeout: float = 120.0) -> Iterator[Proof]:
    """Prove or refute each claim of a statement; T1 in IEEE arithmetic too."""
    for claim in statement.claims:
        yield prove(claim, timeout)
    if statement.id == "T1":
        for name in IEEE_FORMATS:
            for combiner in statement.promised_by:
                yield prove_t1_in_ieee(combiner, name, timeout)


def prove_t1_in_ieee(combiner: str, dtype: str, timeout: float = 120.0) -> Proof:
    """Prove T1 for one coordinate with every operation rounded, for all finite inputs and weights of the format.

    The arithmetic is the library's: 16-bit formats are computed in float32 and rounded once at the end. The weights are finite
    numbers of the format of the computation, ``alpha > 0`` and ``gamma >= 0``. Beyond T1 the claim is that the update is never
    NaN. It may overflow to infinity, which keeps the sign.

    Args:
        combiner: ``"sago"`` or ``"sago_keep_retain"``.
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
    elsewhere = taken if combiner == "sago" else z3.fpAdd(nearest, kept, taken)
    update = z3.fpToFP(nearest, z3.If(opposed(f, r), kept, elsewhere), narrow)

    finite = [z3.Not(z3.Or(z3.fpIsNaN(x), z3.fpIsInf(x))) for x in (f, r, alpha, gamma)]
    assumptions = [*finite, alpha > wide_zero, gamma >= wide_zero]
    failure = z3.Or(z3.fpIsNaN(update), opposed(update, r))
    verdict, model = _decide(z3, z3.Solver, assumptions, failure, timeout)
    return Proof(f"{combiner} rounded in {dtype}", verdict, time.perf_counter() - start, model)


def counterexample(claim: Claim, timeout: float = 120.0) -> tuple[list[Fraction], list[Fraction]] | None:
    """Turn a refutation of a claim about a pair of gradients into explicit vectors.

    The solver is asked for a model whose six numbers are those of ``f = (-z, x) / 64`` and ``r = (1, 1)``, with small integers x
    and z. Every floating-point format represents these vectors exactly.

    Args:
        claim: A claim over the unknowns :data:`retainfirst.theory.claims.PAIR`, at ``l = 1``.
        timeout: Seconds.

    Returns:
        Forget and retain; None if the claim has other unknowns, if no such vectors exist, or if the time ran out.

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


def step_counterexample(claim: Claim, timeout: float = 120.0) -> dict[str, Fraction] | None:
    """Turn a refutation of a claim about single coordinates into numbers, and replay it in fractions.

    The solver is asked for gradients and parameters that are whole numbers up to 8, which every floating-point format has.

    Args:
        claim: A claim with :attr:`~retainfirst.theory.claims.Claim.steps`.
        timeout: Seconds.

    Returns:
        All unknowns by name. They meet every assumption, and a conclusion fails. None if the claim is not about coordinates, if
        there are no such numbers, or if the time ran out.

    Raises:
        MissingDependency: z3-solver is not installed.
    """
    z3 = require("z3", "verify")
    if not claim.steps:
        return None
    v = Unknowns(**{name: z3.Real(name) for name in claim.unknowns.split()})
    solver = z3.Solver()
    solver.set("timeout", int(timeout * 1000))
    solver.add(*claim.assume(v), z3.Not(z3.And(*claim.conclude(v))))
    for name in " ".join([*(f"{forget} {retain}" for forget, retain in claim.steps), claim.start]).split():
        whole = z3.Int(f"whole {name}")
        solver.add(getattr(v, name) == z3.ToReal(whole), whole >= -8, whole <= 8)
    if solver.check() != z3.sat:
        return None
    model = solver.model()
    found = {name: model.eval(z3.Real(name), model_completion=True) for name in claim.unknowns.split()}
    if not all(z3.is_rational_value(value) for value in found.values()):
        return None
    numbers = {name: value.as_fraction() for name, value in found.items()}
    replay = Unknowns(**numbers)
    refutes = all(claim.assume(replay)) and not all(claim.conclude(replay))
    return numbers if refutes else None


def _decide(
    z3: Any, make: Callable[[], Any], assumptions: list[Any], failure: Any, timeout: float
) -> tuple[Verdict, dict[str, str]]:
    """Ask whether the assumptions can be met, and then whether they can be met together with the failure."""
    model: Any = None
    for question in ([], [failure]):
        solver = make()  # a second check of the same solver would use a weaker method
        # Leave Ctrl-C to the calling program: the solver would stop and answer "unknown".
        solver.set("timeout", int(timeout * 1000), "ctrl_c", False)
        solver.add(*assumptions, *question)
        answer = solver.check()
        if answer == z3.unknown:
            return "undecided", {}
        if answer == z3.unsat:
            return ("proved" if question else "vacuous"), {}
        model = solver.model()
    return "refuted", {str(name): str(model[name]) for name in model.decls()}
