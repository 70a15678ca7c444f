"""The throughput of the exact oracle and of the check of every pair of 16-bit numbers, by number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from retainfirst import _rust, reference
from retainfirst.errors import RetainFirstError
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.timing import Case, Clock, Sample, ratios, rounds_of, spread

__all__ = ["COMBINERS", "DTYPES", "Plan", "by_fractions", "measure"]

DTYPES = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SIXTEEN_BIT = ("bfloat16", "float16")
COMBINERS = ("sago", "sago_keep_retain")

# The first retain element of the exhaustive check, as bits: it and those that follow are positive in both formats.
_FIRST_BITS, _MOST_ROWS, _FORGET_ELEMENTS = 0x3C00, 0x4000, 1 << 16
_VECTORS = 3

Array = NDArray[Any]
Tick = Callable[[str], object]
Key = tuple[str, int]
Samples = Mapping[Key, list[Sample]]


@dataclass(frozen=True)
class Plan:
    """The cases to measure.

    Attributes:
        sizes: Numbers of elements of the oracle's vectors.
        rows: Retain elements of the exhaustive check, up to 2**14; each is paired with all 2**16 forget elements.
        threads: Numbers of threads, each measured; speed-ups are relative to the first.
        rounds: Rounds of each case.
    """

    sizes: Sequence[int] = (10**3, 10**6, 10**7)
    rows: int = 1 << 12
    threads: Sequence[int] = (1, 2)
    rounds: int = 9

    def __post_init__(self) -> None:
        if not self.sizes or not self.threads or min(*self.sizes, *self.threads, self.rounds) < 1:
            raise RetainFirstError("Sizes, threads and rounds must be given, and be 1 or more")
        if not 1 <= self.rows <= _MOST_ROWS:
            raise RetainFirstError(f"rows: {self.rows} is not in 1..{_MOST_ROWS}")
        # Making a vector needs it twice.
        machine.check_room(f"{max(self.sizes):,} elements", max(self.sizes) * (_VECTORS + 2) * 8, "cpu")

    @property
    def steps(self) -> int:
        """The number of calls of ``tick``."""
        return self.rounds * (len(self.sizes) * len(DTYPES) + len(SIXTEEN_BIT))


def measure(plan: Plan, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        plan: The cases.
        tick: Called with the name of the running case, :attr:`Plan.steps` times.
    """
    rows: list[dict[str, Any]] = []
    fractions = []
    with machine.threads(None):  # restores the number of threads
        for dtype in DTYPES:
            vectors = _vectors(max(plan.sizes), dtype)
            for n in sorted(plan.sizes):
                first, second, retain = (x[:n] for x in vectors)
                calls = {
                    "dot_sign": partial(reference.dot_sign, first, retain),
                    "compare_cosines": partial(reference.compare_cosines, first, second, retain),
                }
                cases = _by_threads(calls, plan.threads)
                about = {"dtype": dtype, "elements": n}
                beside = n == min(plan.sizes)
                if beside:
                    cases["fractions", plan.threads[0]] = Case(partial(by_fractions, first, second, retain))
                samples = _run(cases, plan, partial(tick, f"oracle, {dtype}, {n:.0e} elements"))
                rows += [{**about, **row} for row in _rows(samples, calls, plan, n)]
                if beside:
                    fractions.append({**about, **_beside_fractions(samples, plan, n)})
        for dtype in SIXTEEN_BIT:
            checks = {name: partial(_exhaustive, name, dtype, plan.rows) for name in COMBINERS}
            samples = _run(_by_threads(checks, plan.threads), plan, partial(tick, f"every pair, {dtype}"))
            pairs = plan.rows * _FORGET_ELEMENTS
            rows += [{"dtype": dtype, "pairs": pairs, **row} for row in _rows(samples, checks, plan, pairs)]
    return {
        "benchmark": "verify",
        **machine.describe("cpu"),
        "threads": list(plan.threads),
        "rounds": plan.rounds,
        "rows": rows,
        "fractions": fractions,
    }


def by_fractions(first: Array, second: Array, retain: Array) -> int:
    """Do the work of :func:`retainfirst.reference.compare_cosines` with the exact fractions of the standard library."""
    x, y, r = ([Fraction(value) for value in array.astype(np.float64).tolist()] for array in (first, second, retain))

    def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
        return sum((p * q for p, q in zip(a, b, strict=True)), Fraction())

    along_x, along_y = dot(x, r), dot(y, r)
    left, right = along_x * abs(along_x) * dot(y, y), along_y * abs(along_y) * dot(x, x)
    return (left > right) - (left < right)


def _vectors(n: int, dtype: str) -> list[Array]:
    """Two updates and a retain gradient. Both cosines are positive, so that the comparison needs all four dot products."""
    generator = np.random.default_rng(0)
    wide = np.float64 if dtype == "float64" else np.float32
    retain = generator.standard_normal(n, dtype=wide)
    updates = [(retain + generator.standard_normal(n, dtype=wide)).astype(DTYPES[dtype]) for _ in range(2)]
    return [*updates, retain.astype(DTYPES[dtype])]


def _exhaustive(combiner: str, dtype: str, rows: int) -> None:
    _, _, violation = _rust.exhaustive(combiner, dtype, 1.0, 1.0, _FIRST_BITS, _FIRST_BITS + rows)
    if violation is not None:
        raise RetainFirstError(f"{combiner} in {dtype} fails its check: run retainfirst verify --exhaustive")


def _by_threads(calls: Mapping[str, Callable[[], object]], threads: Sequence[int]) -> dict[Key, Case]:
    return {
        (name, count): Case(call, partial(_rust.set_num_threads, count))
        for name, call in calls.items()
        for count in threads
    }


def _run(cases: Mapping[Key, Case], plan: Plan, tick: Callable[[], object]) -> Samples:
    by_name = {f"{name}, {count} thread(s)": case for (name, count), case in cases.items()}
    return dict(zip(cases, rounds_of(by_name, plan.rounds, Clock(), tick=tick).values(), strict=True))


def _rows(samples: Samples, calls: Iterable[str], plan: Plan, count: int) -> Iterator[dict[str, Any]]:
    """One row for each call and number of threads: seconds, throughput, and speed-up over the first number of threads."""
    for name in calls:
        for threads in plan.threads:
            mine = samples[name, threads]
            seconds = spread([one.wall for one in mine])
            yield {
                "case": name,
                "threads": threads,
                "seconds": seconds,
                "per_second": count / seconds["median"],
                "speed_up": ratios(samples[name, plan.threads[0]], mine)["wall_ratio"],
            }


def _beside_fractions(samples: Samples, plan: Plan, count: int) -> dict[str, Any]:
    mine, peer = (samples[name, plan.threads[0]] for name in ("compare_cosines", "fractions"))
    seconds = spread([one.wall for one in peer])
    return {"seconds": seconds, "per_second": count / seconds["median"], "speed_up": ratios(peer, mine)["wall_ratio"]}
