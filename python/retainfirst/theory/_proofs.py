"""The claims of each statement over the real numbers, in aggregate forms that hold in every dimension.

The claims compare squared cosines without denominators, at ``alpha = 1`` and ``gamma = l``, since a cosine depends on the ratio
of the weights only. In the six numbers of a pair:

- SAGO has ``<u,r> = a + l p`` and ``|u|^2 = a + l^2 q``.
- An update ``r + l h`` has ``<u,r> = R + l P`` and ``|u|^2 = R + 2 l P + l^2 Q`` with ``P = <h,r>`` and ``Q = |h|^2``.
- PCGrad's update under conflict has ``P = 0`` and ``Q = F / R``.
"""

from __future__ import annotations

from typing import Any

from retainfirst.theory.claims import PAIR, Claim, pair_of_gradients

__all__ = [
    "ALWAYS_TIGHTER",
    "COSINE_OF_PCGRAD",
    "CROSSING_POINT",
    "DISJOINT_SUPPORTS",
    "FLOOR",
    "KEEPING_RETAIN_IS_TIGHTER",
    "NEVER_AGAINST_RETENTION",
    "NO_COORDINATE_IS_OPPOSED",
    "TIGHTER_WHERE_FORGET_IS_STRONG",
]


def _conflict(v: Any) -> list[Any]:
    return [*pair_of_gradients(v), v.c < 0]


def _tighter(v: Any, ratio: Any) -> Any:
    """SAGO's cosine is above PCGrad's; for gradients in conflict."""
    return (v.a + ratio * v.p) ** 2 * (v.R**2 + ratio**2 * v.F) > v.R**3 * (v.a + ratio**2 * v.q)


def _not_looser(v: Any, ratio: Any) -> Any:
    """SAGO's cosine is at least PCGrad's; for gradients in conflict."""
    return (v.a + ratio * v.p) ** 2 * (v.R**2 + ratio**2 * v.F) >= v.R**3 * (v.a + ratio**2 * v.q)


NO_COORDINATE_IS_OPPOSED = (
    Claim(
        "opposite signs: u = alpha r",
        "f r alpha",
        lambda v: [v.alpha > 0, v.f * v.r < 0],
        lambda v: [(v.alpha * v.r) * v.r >= 0],
    ),
    Claim(
        "otherwise: u = gamma f",
        "f r gamma",
        lambda v: [v.gamma >= 0, v.f * v.r >= 0],
        lambda v: [(v.gamma * v.f) * v.r >= 0],
    ),
    Claim(
        "otherwise, keep_retain: u = alpha r + gamma f",
        "f r alpha gamma",
        lambda v: [v.alpha > 0, v.gamma >= 0, v.f * v.r >= 0],
        lambda v: [(v.alpha * v.r + v.gamma * v.f) * v.r >= 0],
    ),
)

NEVER_AGAINST_RETENTION = (
    Claim("SAGO", PAIR, pair_of_gradients, lambda v: [v.a + v.l * v.p >= 0]),
    Claim("SAGO keep_retain", PAIR, pair_of_gradients, lambda v: [v.R + v.l * v.p >= 0]),
    Claim(
        "PCGrad, a group in conflict: h = f + k r with k = -<f,r>/|r|^2",
        PAIR + " k",
        lambda v: [*_conflict(v), v.R > 0, v.k * v.R == -v.c],
        lambda v: [(1 + v.l * v.k) * v.R + v.l * v.c >= v.R],
    ),
    Claim(
        "PCGrad, a group without conflict: h = f",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.c >= 0],
        lambda v: [v.R + v.l * v.c >= v.R],
    ),
    Claim(
        "orthogonal: h = f + k r with k = -<f,r>/|r|^2, in conflict or not",
        PAIR + " k",
        lambda v: [*pair_of_gradients(v), v.R > 0, v.k * v.R == -v.c],
        lambda v: [(1 + v.l * v.k) * v.R + v.l * v.c == v.R],
    ),
    Claim(
        "GRU and A-GEM, a group in conflict: u = l (f + k r) with k = -<f,r>/|r|^2",
        PAIR + " k",
        lambda v: [*_conflict(v), v.R > 0, v.k * v.R == -v.c],
        lambda v: [v.l * v.k * v.R + v.l * v.c == 0],
    ),
    Claim(
        "GRU and A-GEM, a group without conflict: u = l f",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.c >= 0],
        lambda v: [v.l * v.c >= 0],
    ),
    Claim(
        "groups add up, at every scope",
        "x R1 y R2",
        lambda v: [v.R1 >= 0, v.R2 >= 0, v.x >= v.R1, v.y >= v.R2],
        lambda v: [v.x + v.y >= v.R1 + v.R2, v.x + v.y >= 0],
    ),
)

DISJOINT_SUPPORTS = (
    Claim(
        "a coordinate: m = 1 on S, m = 0 on C",
        "f r m",
        lambda v: [v.m * (v.m - 1) == 0],
        lambda v: [(v.m * v.f) * ((1 - v.m) * v.r) == 0],
    ),
    Claim(
        "so the squares of the two parts add up",
        "x y m",
        lambda v: [v.m * (v.m - 1) == 0],
        lambda v: [(v.m * v.x + (1 - v.m) * v.y) ** 2 == (v.m * v.x) ** 2 + ((1 - v.m) * v.y) ** 2],
    ),
)

COSINE_OF_PCGRAD = (
    Claim(
        "<u,r> = R and |u|^2 = R + l^2 |h|^2, with |h|^2 = F / R",
        PAIR + " k H",
        lambda v: [*_conflict(v), v.R > 0, v.k * v.R == -v.c, v.q + v.s + 2 * v.k * v.c + v.k**2 * v.R == v.H],
        lambda v: [
            (1 + v.l * v.k) * v.R + v.l * v.c == v.R,
            (1 + v.l * v.k) ** 2 * v.R + 2 * (1 + v.l * v.k) * v.l * v.c + v.l**2 * (v.q + v.s) == v.R + v.l**2 * v.H,
            v.H * v.R == v.F,
        ],
    ),
    Claim(
        "below any e > 0 once l^2 >= |r|^2 / (e^2 |h|^2)",
        "N H l e",
        lambda v: [v.N > 0, v.H > 0, v.e > 0, v.l > 0, v.l**2 * v.H * v.e**2 >= v.N],
        lambda v: [v.e**2 * (v.N + v.l**2 * v.H) > v.N],
    ),
)

TIGHTER_WHERE_FORGET_IS_STRONG = (
    Claim(
        "at least as tight",
        PAIR,
        lambda v: [*_conflict(v), v.l * v.p >= v.b],
        lambda v: [_not_looser(v, v.l)],
    ),
    Claim(
        "strictly tighter, if b > 0",
        PAIR,
        lambda v: [*_conflict(v), v.l * v.p >= v.b, v.b > 0],
        lambda v: [_tighter(v, v.l)],
    ),
)

KEEPING_RETAIN_IS_TIGHTER = (
    Claim(
        "the cosine of r + l h grows with P = <h,r> and falls with Q = |h|^2",
        "N l P Q P1 Q1",
        lambda v: [
            v.N > 0, v.l >= 0, v.P1 >= 0, v.P >= v.P1, v.Q >= 0, v.Q1 >= v.Q, v.P**2 <= v.N * v.Q, v.P1**2 <= v.N * v.Q1,
        ],
        lambda v: [(v.N + v.l * v.P) ** 2 * (v.N + 2 * v.l * v.P1 + v.l**2 * v.Q1)
                   >= (v.N + v.l * v.P1) ** 2 * (v.N + 2 * v.l * v.P + v.l**2 * v.Q)],
    ),
    Claim(
        "PCGrad's group in conflict has P1 = 0 <= p and Q1 >= q",
        PAIR + " k",
        lambda v: [*_conflict(v), v.R > 0, v.k * v.R == -v.c],
        lambda v: [v.q + v.s + 2 * v.k * v.c + v.k**2 * v.R >= v.q, v.c + v.k * v.R == 0],
    ),
    Claim(
        "PCGrad's group without conflict has P1 = p - t <= p and Q1 = q + s >= q",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.c >= 0],
        lambda v: [v.c <= v.p, v.q + v.s >= v.q],
    ),
    Claim(
        "groups add up, at every scope",
        "p1 P1 q1 Q1 p2 P2 q2 Q2",
        lambda v: [v.p1 >= v.P1, v.p2 >= v.P2, v.q1 <= v.Q1, v.q2 <= v.Q2],
        lambda v: [v.p1 + v.p2 >= v.P1 + v.P2, v.q1 + v.q2 <= v.Q1 + v.Q2],
    ),
)  # fmt: skip

CROSSING_POINT = (
    Claim(
        "strictly tighter from l = b / p on",
        PAIR,
        lambda v: [*_conflict(v), v.p > 0, v.F > 0, v.l * v.p >= v.b],
        lambda v: [_tighter(v, v.l)],
    ),
    Claim(
        "once strictly tighter, so for every larger m: there is one crossing point",
        PAIR + " m",
        lambda v: [*_conflict(v), v.p > 0, v.F > 0, v.l > 0, v.m > v.l, _not_looser(v, v.l)],
        lambda v: [_tighter(v, v.m)],
    ),
    Claim(
        "at l = 0 strictly looser",
        PAIR,
        lambda v: [*_conflict(v), v.p > 0, v.F > 0, v.l == 0],
        lambda v: [v.a**2 * v.R**2 < v.R**3 * v.a],
    ),
)

FLOOR = (
    Claim(
        "where the conflicting part's cosine is the smaller one",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.a > 0, v.q > 0, v.l > 0, v.a * v.q <= v.p**2],
        lambda v: [(v.a + v.l * v.p) ** 2 >= v.a * (v.a + v.l**2 * v.q)],
    ),
    Claim(
        "where the agreeing part's cosine is the smaller one",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.a > 0, v.q > 0, v.l > 0, v.a * v.q >= v.p**2],
        lambda v: [(v.a + v.l * v.p) ** 2 * v.q >= v.p**2 * (v.a + v.l**2 * v.q)],
    ),
    Claim(
        "where the conflicting part is zero the cosine is the agreeing part's",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.a == 0, v.l > 0, v.q > 0],
        lambda v: [(v.a + v.l * v.p) ** 2 * v.q == v.p**2 * (v.a + v.l**2 * v.q)],
    ),
    Claim(
        "where the agreeing part is zero the cosine is the conflicting part's",
        PAIR,
        lambda v: [*pair_of_gradients(v), v.l**2 * v.q == 0],
        lambda v: [(v.a + v.l * v.p) ** 2 == v.a * (v.a + v.l**2 * v.q)],
    ),
)

ALWAYS_TIGHTER = (
    Claim(
        "at least as tight at equal weights, where p > 0 and h != 0 (less than what is stated)",
        PAIR,
        lambda v: [*_conflict(v), v.l == 1, v.p > 0, v.F > 0],
        lambda v: [_not_looser(v, v.l)],
    ),
)
