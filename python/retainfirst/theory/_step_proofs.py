"""The claims of the statements about steps, for each coordinate of real numbers; coordinates add up, so in every dimension.

``u`` is the update, ``d`` the step, ``r`` the retain gradient. A statement about a combiner's step uses of its update only that
``u r >= 0`` in every coordinate (T1).
"""

from __future__ import annotations

from typing import Any

from retainfirst.theory.claims import Claim

__all__ = [
    "GUARD",
    "GUARD_BY_UPDATE",
    "KEPT_BY_A_DIAGONAL",
    "KEPT_WITHOUT_MEMORY",
    "KEPT_WITH_MEMORY",
    "SURVIVES_PRECONDITIONING",
]


def _not_opposed(v: Any) -> list[Any]:
    return [v.u * v.r >= 0]


_ADD_UP = Claim("coordinates add up: <d, r> <= 0", "x y", lambda v: [v.x <= 0, v.y <= 0], lambda v: [v.x + v.y <= 0])

KEPT_BY_A_DIAGONAL = (
    Claim(
        "a coordinate: d = -P u with P > 0",
        "u r P",
        lambda v: [*_not_opposed(v), v.P > 0],
        lambda v: [-(v.P * v.u) * v.r <= 0],
    ),
    Claim(
        "clipping: d = -P (k u) with k > 0",
        "u r P k",
        lambda v: [*_not_opposed(v), v.P > 0, v.k > 0],
        lambda v: [-(v.P * (v.k * v.u)) * v.r <= 0],
    ),
    _ADD_UP,
    Claim(
        "the same factor in all coordinates, of any update with <u, r> = x >= 0: <d, r> <= 0",
        "k x",
        lambda v: [v.k > 0, v.x >= 0],
        lambda v: [-(v.k * v.x) <= 0],
    ),
)

KEPT_WITHOUT_MEMORY = (
    Claim(
        "SGD; RAdam's first steps; ASGD with lambd = 0: d = -lr u",
        "u r lr d",
        lambda v: [*_not_opposed(v), v.lr > 0, v.d == -(v.lr * v.u)],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "sign descent, Rprop: d = -lr u / |u|, or 0",
        "u r lr n d",
        lambda v: [*_not_opposed(v), v.lr > 0, v.n > 0, v.n**2 == v.u**2, v.d * (v.d * v.n + v.lr * v.u) == 0],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "RMSprop, Adagrad, Adadelta: d = -lr u / (w + e) with w >= 0 and e > 0",
        "u r lr w e d",
        lambda v: [*_not_opposed(v), v.lr > 0, v.w >= 0, v.e > 0, v.d * (v.w + v.e) == -(v.lr * v.u)],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "Adam, AdamW, Adamax at the first step or with beta1 = b = 0: m = (1 - b) u, d = -lr m / ((1 - b) (w + e))",
        "u r b m lr w e d",
        lambda v: [
            *_not_opposed(v), v.lr > 0, v.w >= 0, v.e > 0, v.b >= 0, v.b < 1, v.m == (1 - v.b) * v.u,
            v.d * (1 - v.b) * (v.w + v.e) == -(v.lr * v.m),
        ],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "NAdam at the first step: d = -lr (x u + y m) / (w + e) with x, y >= 0 and m = (1 - b) u",
        "u r b m x y lr w e d",
        lambda v: [
            *_not_opposed(v), v.lr > 0, v.w >= 0, v.e > 0, v.b >= 0, v.b < 1, v.m == (1 - v.b) * v.u, v.x >= 0, v.y >= 0,
            v.d * (v.w + v.e) == -(v.lr * (v.x * v.u + v.y * v.m)),
        ],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "Adafactor: d = -lr u / s with s^2 = (row mean) (column mean) / (mean) > 0",
        "u r lr x y z s d",
        lambda v: [
            *_not_opposed(v), v.lr > 0, v.x > 0, v.y > 0, v.z > 0, v.s > 0, v.s**2 * v.z == v.x * v.y,
            v.d * v.s == -(v.lr * v.u),
        ],
        lambda v: [v.d * v.r <= 0],
    ),
    _ADD_UP,
)  # fmt: skip

GUARD = (
    Claim(
        "compared, up: after > before and r > 0 is d r > 0",
        "before after r",
        lambda v: [v.after > v.before, v.r > 0],
        lambda v: [(v.after - v.before) * v.r > 0],
    ),
    Claim(
        "compared, down: after < before and r < 0 is d r > 0",
        "before after r",
        lambda v: [v.after < v.before, v.r < 0],
        lambda v: [(v.after - v.before) * v.r > 0],
    ),
    Claim(
        "put back: d = 0",
        "before after r",
        lambda v: [(v.after - v.before) * v.r > 0],
        lambda v: [(v.before - v.before) * v.r <= 0],
    ),
    Claim(
        "kept, after >= before: r <= 0",
        "before after r",
        lambda v: [v.after >= v.before, v.r <= 0],
        lambda v: [(v.after - v.before) * v.r <= 0],
    ),
    Claim(
        "kept, after <= before: r >= 0",
        "before after r",
        lambda v: [v.after <= v.before, v.r >= 0],
        lambda v: [(v.after - v.before) * v.r <= 0],
    ),
    Claim(
        "kept, r = 0",
        "before after r",
        lambda v: [v.r == 0],
        lambda v: [(v.after - v.before) * v.r <= 0],
    ),
    _ADD_UP,
)

GUARD_BY_UPDATE = (
    Claim(
        "SAGO, opposite signs: u = alpha r has the sign of r",
        "f r alpha",
        lambda v: [v.alpha > 0, v.f * v.r < 0],
        lambda v: [(v.alpha * v.r) * v.r > 0],
    ),
    Claim(
        "SAGO, otherwise: u = gamma f has the sign of r, where neither is 0",
        "f r u gamma",
        lambda v: [v.gamma >= 0, v.f * v.r >= 0, v.u == v.gamma * v.f, v.u**2 > 0, v.r**2 > 0],
        lambda v: [v.u * v.r > 0],
    ),
    Claim(
        "keep_retain, otherwise: u = alpha r + gamma f has the sign of r, where neither is 0",
        "f r u alpha gamma",
        lambda v: [
            v.alpha > 0, v.gamma >= 0, v.f * v.r >= 0, v.u == v.alpha * v.r + v.gamma * v.f, v.u**2 > 0, v.r**2 > 0,
        ],
        lambda v: [v.u * v.r > 0],
    ),
    Claim(
        "kept: d u <= 0 and u != 0, with u r >= 0",
        "u r d",
        lambda v: [*_not_opposed(v), v.u**2 > 0, v.d * v.u <= 0],
        lambda v: [v.d * v.r <= 0],
    ),
    Claim(
        "put back, d u > 0 or u = 0: d = 0",
        "r d",
        lambda v: [v.d == 0],
        lambda v: [v.d * v.r <= 0],
    ),
    _ADD_UP,
)  # fmt: skip

SURVIVES_PRECONDITIONING = (
    Claim(
        "two coordinates, PCGrad's u in conflict, and Adam's first step with eps = 0: d = -P u with P = 1 / |u|",
        "f1 f2 r1 r2 k P1 P2",
        lambda v: [
            v.f1 * v.r1 + v.f2 * v.r2 < 0,
            v.k * (v.r1**2 + v.r2**2) == -(v.f1 * v.r1 + v.f2 * v.r2),
            *(P > 0 for P in (v.P1, v.P2)),
            *((P * u) ** 2 == 1 for P, u in zip((v.P1, v.P2), _pcgrad(v), strict=True)),
        ],
        lambda v: [-(v.P1 * _pcgrad(v)[0] * v.r1 + v.P2 * _pcgrad(v)[1] * v.r2) <= 0],
        steps=(("f1 f2", "r1 r2"),),
    ),
)


def _pcgrad(v: Any) -> list[Any]:
    """PCGrad's update under conflict at weights 1: ``r + f + k r``."""
    return [v.r1 + v.f1 + v.k * v.r1, v.r2 + v.f2 + v.k * v.r2]


KEPT_WITH_MEMORY = (
    Claim(
        "momentum, one coordinate, second step of Adam (b = 9/10): d = -P m, m = b (1 - b) u1 + (1 - b) u2",
        "f1 r1 f2 r2 b m P",
        lambda v: [
            10 * v.b == 9, v.P > 0, v.f1 * v.r1 >= 0, v.f2 * v.r2 < 0,  # SAGO: u1 = f1 and u2 = r2
            v.m == v.b * (1 - v.b) * v.f1 + (1 - v.b) * v.r2,
        ],
        lambda v: [-(v.P * v.m) * v.r2 <= 0],
        steps=(("f1", "r1"), ("f2", "r2")),
    ),
    Claim(
        "decoupled weight decay, one coordinate where f = 0, so that SAGO's u = 0: d = -e x with e > 0",
        "f r x e",
        lambda v: [v.f == 0, v.e > 0, 100 * v.e == 1],
        lambda v: [-(v.e * v.x) * v.r <= 0],
        steps=(("f", "r"),),
        start="x",
    ),
)  # fmt: skip
