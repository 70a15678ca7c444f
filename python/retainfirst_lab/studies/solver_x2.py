"""A counterexample of bfloat16 numbers for PCGrad's guarantee under rounding (statement X2), by Z3 in IEEE arithmetic.

The question: are there bfloat16 numbers with ``f = (0, y)``, ``r = (a, b)`` and ``1/16 <= |a|, |b| <= 1`` such that PCGrad's
update, with its coefficient computed in float64 and rounded once to bfloat16, has a negative dot product with ``r``? Products
of two bfloat16 numbers of this size are exact in float64, so the solver only compares two of them.

    python -m retainfirst_lab.studies.solver_x2 [--least 1] [--greatest 8192] [--timeout 240]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from retainfirst.errors import require

__all__ = ["question"]


def main() -> None:
    """Ask the solver, and print its answer with the time it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=1.0, help="of |y|")
    parser.add_argument("--greatest", type=float, default=8192.0, help="of |y|")
    parser.add_argument("--timeout", type=int, default=240, help="seconds")
    arguments = parser.parse_args()
    z3 = require("z3", "verify")
    solver = question(arguments.least, arguments.greatest)
    solver.set("timeout", 1000 * arguments.timeout)
    start = time.perf_counter()
    answer = solver.check()
    print(f"z3 {z3.get_version_string()}: {answer} after {time.perf_counter() - start:.0f} s")
    if answer == z3.sat:
        print(solver.model())


def question(least: float, greatest: float) -> Any:
    """Return a solver with the question, for ``|y|`` from ``least`` to ``greatest``."""
    import z3

    narrow, wide, nearest = z3.FPSort(8, 8), z3.FPSort(11, 53), z3.RNE()

    def times(p: Any, q: Any) -> Any:
        return z3.fpMul(nearest, p, q)

    def plus(p: Any, q: Any) -> Any:
        return z3.fpAdd(nearest, p, q)

    def between(x: Any, low: float, high: float) -> list[Any]:
        size = z3.fpAbs(x)
        return [z3.fpGEQ(size, z3.FPVal(low, narrow)), z3.fpLEQ(size, z3.FPVal(high, narrow))]

    y, a, b = (z3.FP(name, narrow) for name in "yab")
    y_wide, a_wide, b_wide = (z3.fpToFP(nearest, x, wide) for x in (y, a, b))
    dot, square = times(y_wide, b_wide), plus(times(a_wide, a_wide), times(b_wide, b_wide))
    coefficient = z3.fpSub(nearest, z3.FPVal(1.0, wide), z3.fpDiv(nearest, dot, square))
    first = z3.fpToFP(nearest, times(coefficient, a_wide), narrow)
    second = z3.fpToFP(nearest, plus(times(coefficient, b_wide), y_wide), narrow)
    products = [times(z3.fpToFP(nearest, u, wide), r) for u, r in ((first, a_wide), (second, b_wide))]
    solver = z3.Solver()
    solver.add(*between(y, least, greatest), *between(a, 1 / 16, 1), *between(b, 1 / 16, 1))
    solver.add(dot < z3.FPVal(0, wide), products[0] < -products[1])
    return solver


if __name__ == "__main__":
    main()
