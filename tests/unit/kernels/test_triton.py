"""The Triton kernels against the other backends and against sums of exact products.

On a GPU if there is one; else in Triton's interpreter, in a process of its own, as the interpreter is chosen when Triton is
imported. The interpreter cuts bfloat16 off where a GPU rounds it, so that results may be one unit off there, and gets its
subnormals wrong, which are left out there.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import retainfirst as rf
from oracle import BITS, ELEMENTWISE, finite, gradients, same_bits
from retainfirst import kernels, reference
from retainfirst import moments as m
from retainfirst.kernels import _backend, _dispatch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
DTYPES = (torch.float32, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float16, torch.bfloat16)))
SIZES = (0, 1, 255, 256, 257, 511, 512, 513, 1300)

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
runs = pytest.mark.skipif(DEVICE.type == "cpu" and not INTERPRETED, reason="no GPU, and not in the interpreter")


@pytest.mark.skipif(DEVICE.type == "cuda" or INTERPRETED, reason="the other tests run in this process")
def test_in_the_interpreter(request):
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    command += ["-m", request.config.option.markexpr, "--hypothesis-profile", settings.get_current_profile_name()]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(autouse=True)
def small_launches(monkeypatch):
    """A program works through 512 elements, so that small tensors take several."""
    if INTERPRETED or DEVICE.type == "cuda":
        triton = _backend.import_triton()
        monkeypatch.setattr(triton, "LAUNCH", triton.Launch(block=256, steps=2, warps=1))


def pairs(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Each size at an aligned and at an odd address, and every pair of special values."""
    info = torch.finfo(dtype)
    values = [0.0, 1.0, info.max, info.tiny, info.tiny * info.eps, math.inf, math.nan]
    if INTERPRETED and dtype == torch.bfloat16:
        values = [0.0, 1.0, info.max / 4, info.tiny * 8, math.inf, math.nan]
    special = torch.tensor(values + [-x for x in values], dtype=torch.float64).to(dtype)
    forget, retain = [special.repeat(len(special))], [special.repeat_interleave(len(special))]
    for n in SIZES:
        f, r = gradients(n + 1, dtype, seed=n)
        forget += [f[:n].clone(), f[1:]]
        retain += [r[:n].clone(), r[1:]]
    at_odd_addresses = [i for i, x in enumerate(retain) if x.storage_offset()]
    for xs in (forget, retain):
        xs[:] = [x.to(DEVICE) for x in xs]
        for i in at_odd_addresses:
            xs[i] = torch.cat([xs[i].new_zeros(1), xs[i]])[1:]
    return forget, retain


def assert_update(found: list[Tensor], expected: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = a.cpu(), b.cpu()
        if INTERPRETED and a.dtype == torch.bfloat16:
            near = (a.view(torch.int16).int() - b.view(torch.int16).int()).abs() <= 1
            assert (near | (a.isnan() & b.isnan())).all(), i
        else:
            kind = BITS[a.dtype]
            wrong = (a.view(kind) != b.view(kind)) & ~(a.isnan() & b.isnan())
            places = wrong.nonzero().flatten().tolist()
            assert not places, f"tensor {i}: out[{places[0]}] = {a[places[0]]}, but should be {b[places[0]]}"


def assert_measured(table: Tensor, columns: dict[int, tuple[list[Tensor], list[Tensor]]]) -> None:
    """Each sum is off by at most n units of float64, relative to the sum of the absolute products, which are exact themselves."""
    for column, (left, right) in columns.items():
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            products = a.cpu().double() * b.cpu().double()
            found = table[i, column].item()
            if products.isfinite().all():
                exact, bound = math.fsum(products.tolist()), len(a) * 2.0**-53 * products.abs().sum().item()
                assert abs(found - exact) <= bound, (i, m.COLUMNS[column])
            else:
                assert str(found) == str(products.sum().item()), (i, m.COLUMNS[column])


def steps(dtype: torch.dtype) -> list[list[Tensor]]:
    """Before, after, signs, forget and retain: every triple of special values, then sizes at aligned and at odd addresses."""
    info = torch.finfo(dtype)
    smallest = info.tiny * (8 if INTERPRETED and dtype == torch.bfloat16 else info.eps)
    values = [0.0, -0.0, smallest, -smallest, 1.0, info.max, -math.inf, math.nan]
    triples = torch.cartesian_prod(*[torch.tensor(values, dtype=torch.float64).to(dtype)] * 3)
    lists = [[x.contiguous().to(DEVICE)] for x in (*triples.unbind(1), triples[:, 0].flip(0), triples[:, 2])]
    for n in (0, 1, 256, 600):
        (b, s), (f, r) = (gradients(n + 1, dtype, seed) for seed in (n, n + 1))
        a = torch.where(torch.arange(n + 1) % 3 == 0, b, b + s.roll(1))  # every third coordinate stays where it is
        for xs, x in zip(lists, (b, a, s, f, r), strict=True):
            xs += [x[:n].to(DEVICE).clone(), x.to(DEVICE)[1:]]
    return lists


def conflicts(forget: list[Tensor], retain: list[Tensor]) -> list[int]:
    return [int((torch.sign(f) * torch.sign(r) < 0).sum()) for f, r in zip(forget, retain, strict=True)]


@runs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_elementwise_updates_and_what_is_measured(rule, dtype):
    forget, retain = pairs(dtype)
    before = [x.clone() for x in retain]
    expected = [x.clone() for x in retain]
    formula = rf.make_combiner(rule, alpha=0.3, gamma=0.7).formula
    with kernels.use_backend("eager"):
        kernels.elementwise_(formula, rule, forget, expected, 0.3, 0.7)
    with kernels.use_backend("triton"):
        table = kernels.elementwise_(formula, rule, forget, retain, 0.3, 0.7)
        unmeasured = [x.clone() for x in before]
        kernels.elementwise_(formula, rule, forget, unmeasured, 0.3, 0.7, measure=False)
    assert all(map(same_bits, unmeasured, retain))
    assert_update(retain, expected)
    sums = {m.FF: (forget, forget), m.RR: (before, before), m.FR: (forget, before)}
    assert_measured(table, sums | {m.UU: (retain, retain), m.UR: (retain, before), m.UF: (retain, forget)})
    assert table[:, m.CONFLICTS].tolist() == conflicts(forget, before)
    assert table[:, m.COUNT].tolist() == [x.numel() for x in retain]
    assert not table[:, [m.EF, m.ER, m.EU]].any()


@runs
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_without_an_update(dtype):
    forget, retain = pairs(dtype)
    before = [x.clone() for x in retain]
    with kernels.use_backend("triton"):
        table = kernels.moments(forget, retain)
    assert all(same_bits(a, b) for a, b in zip(retain, before, strict=True))
    assert_measured(table, {m.FF: (forget, forget), m.RR: (retain, retain), m.FR: (forget, retain)})
    assert table[:, m.CONFLICTS].tolist() == conflicts(forget, retain)
    assert not table[:, [m.UU, m.UR, m.UF]].any()


@runs
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_updates_are_those_of_rust(dtype):
    forget, retain = pairs(dtype)
    forget[3], retain[3] = torch.ones_like(forget[3]), torch.ones_like(retain[3])
    before = [x.clone() for x in retain]
    coefficients = torch.randn(2, len(retain), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coefficients[:, 3] = math.inf  # a tensor of one element: what lies past its end must not show
    expected = [x.cpu().clone() for x in retain]
    kernels.linear_([x.cpu() for x in forget], expected, *coefficients)
    with kernels.use_backend("triton"):
        table = kernels.linear_(forget, retain, *coefficients.to(DEVICE))
    assert_update(retain, expected)
    assert_measured(table, {m.UU: (retain, retain), m.UR: (retain, before), m.UF: (retain, forget)})


@runs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("zeros", "measured"), [(False, True), (True, False)])
def test_the_guard_puts_back_the_coordinates_that_rust_does(zeros, measured, dtype):
    before, after, signs, forget, retain = steps(dtype)
    expected = [x.cpu().clone() for x in after]
    host = [[x.cpu() for x in xs] for xs in (before, signs)]
    _, counts = kernels.guard_(host[0], expected, signs=host[1], zeros=zeros)
    gradients = (forget, retain) if measured else None
    with kernels.use_backend("triton"):
        table, found = kernels.guard_(before, after, signs=signs, zeros=zeros, gradients=gradients)
    assert found.tolist() == counts.tolist()
    for i, (a, b) in enumerate(zip(after, expected, strict=True)):
        assert same_bits(a.cpu(), b), i
    if measured:
        assert_step_measured(table, before, after, forget, retain)
    else:
        assert table is None


@runs
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_guard_measures_a_step_that_it_leaves_alone(dtype):
    before, after, _, forget, retain = steps(dtype)
    kept = [x.clone() for x in after]
    with kernels.use_backend("triton"):
        table, counts = kernels.guard_(before, after, gradients=(forget, retain))
    assert not counts.any()
    assert all(map(same_bits, after, kept))
    assert_step_measured(table, before, after, forget, retain)


def assert_step_measured(table, before, after, forget, retain):
    """The step backwards, in float32, stands for the forget gradient and the forget gradient for the update."""
    step = [b.float() - a.float() for b, a in zip(before, after, strict=True)]
    sums = {m.FF: (step, step), m.RR: (retain, retain), m.FR: (step, retain)}
    assert_measured(table, sums | {m.UU: (forget, forget), m.UF: (forget, step)})
    assert not table[:, m.UR].any()
    assert table[:, m.CONFLICTS].tolist() == conflicts(step, retain)
    assert table[:, m.COUNT].tolist() == [x.numel() for x in after]
    assert not table[:, [m.EF, m.ER, m.EU]].any()


@runs
@pytest.mark.parametrize(("dtype", "half"), [(torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)])
def test_linear_updates_are_rounded_once(dtype, half):
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter does not round")
    one = torch.ones(1, dtype=dtype, device=DEVICE)
    for below, expected in ((2.0**-40, 1 + 2 * half), (0.0, 1.0), (-(2.0**-40), 1.0)):
        retain, coefficients = one.clone(), torch.tensor([[1.0], [half + below]], dtype=torch.float64, device=DEVICE)
        with kernels.use_backend("triton"):
            kernels.linear_([one], [retain], *coefficients)
        assert retain.item() == expected


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_of_tiny_gradients_are_measured(dtype):
    f = torch.full((300,), 2.0**-83, dtype=dtype, device=DEVICE)  # about 1e-25
    with kernels.use_backend("triton"):
        geometry = rf.PCGrad().combine_([-f], [f.clone()])
    assert geometry.norm_forget == pytest.approx(math.sqrt(300) * 2.0**-83, rel=1e-14)
    assert geometry.cos_forget_retain == pytest.approx(-1.0)


@runs
@pytest.mark.parametrize("combiner", [rf.SAGO(), rf.PCGrad(scope="global"), rf.BLUR(scope="tensor")])
def test_equal_gradients_give_equal_bits(combiner):
    tables, updates = [], []
    for _ in range(2):
        forget, retain = (
            [x.to(DEVICE) for x in xs]
            for xs in zip(*(gradients(n, torch.float32, seed=n) for n in SIZES[1:]), strict=True)
        )
        with kernels.use_backend("triton"):
            geometry = combiner.combine_(forget, retain)
        tables.append(geometry.as_dict())
        updates.append(retain)
    assert tables[0] == tables[1]
    assert all(map(same_bits, *updates))


@runs
def test_what_the_kernels_do_not_take_goes_to_plain_torch():
    triton = _backend.import_triton()

    def layouts(value: float) -> list[Tensor]:
        """Two that they take: dense and transposed; three that they do not: float64, strided, with a pending negation."""
        x = torch.full((5, 4, 6), value, device=DEVICE)
        return [x[0], x[1].t(), x[2].double(), x[3][:, ::2], torch._neg_view(-x[4])]

    taken = [triton.takes(f, r) for f, r in zip(layouts(-1.0), layouts(2.0), strict=True)]
    assert taken == [True, True, False, False, False]
    for combiner in (rf.Sum(gamma=0.5), rf.PCGrad(scope="global", round_toward_retain=True)):
        retain = layouts(2.0)
        with kernels.use_backend("triton"):
            geometry = combiner.combine_(layouts(-1.0), retain)
        assert geometry.norm_forget == pytest.approx(math.sqrt(4 * 24 + 12), rel=1e-14)
        # The projection of a parallel gradient is nothing, or what rounding toward retain leaves of it.
        expected = 1.5 if isinstance(combiner, rf.Sum) else 2.0
        assert all(x.sub(expected).abs().max() < 1e-5 for x in retain)


@runs
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_sago_opposes_no_coordinate(dtype, data):
    f, r = (data.draw(finite(dtype, 9)).to(DEVICE) for _ in range(2))
    for keep_retain in (False, True):
        u = r.clone()
        with kernels.use_backend("triton"):
            rf.SAGO(0.3, 0.7, keep_retain=keep_retain).combine_([f], [u])
        if u.isfinite().all():
            exact = [np.ascontiguousarray(x.cpu().double().numpy()) for x in (u, r)]
            assert not ((u < 0) & (r > 0) | (u > 0) & (r < 0)).any()
            assert reference.dot_sign(*exact) >= 0


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "retainfirst.kernels._triton", raising=False)
    monkeypatch.delitem(sys.modules, "retainfirst.kernels._passes", raising=False)
    monkeypatch.delattr(kernels, "_triton", raising=False)
    with pytest.raises(rf.errors.MissingDependency, match="pip install triton"), kernels.use_backend("triton"):
        pass
    assert _dispatch._triton_on.__wrapped__(torch.device("cpu")) is None


def test_where_triton_fails_it_is_done_without(monkeypatch):
    class Broken:
        @staticmethod
        def moments(forget, retain):
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(_dispatch, "import_triton", Broken)
    with pytest.warns(UserWarning, match="without Triton on cpu.*C compiler"):
        assert _dispatch._triton_on.__wrapped__(torch.device("cpu")) is None
