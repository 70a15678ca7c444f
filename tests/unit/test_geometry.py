"""What is reported about a combination, against the same numbers computed apart."""

from __future__ import annotations

import math

import pytest
import torch

import retainfirst as rf
from backends import BACKENDS
from oracle import DTYPES, gradients
from retainfirst import kernels
from retainfirst.geometry import FIELDS


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, default_device):
    with kernels.use_backend(request.param):
        yield request.param


def expected(f, r, u):
    conflicts = ((torch.sign(f) * torch.sign(r)) < 0).double().mean().item()
    f, r, u = f.double(), r.double(), u.double()

    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    return dict(
        zip(
            FIELDS,
            (cosine(f, r), cosine(u, r), cosine(u, f), f.norm().item(), r.norm().item(), u.norm().item(), conflicts),
            strict=True,
        )
    )


@pytest.mark.parametrize("name", rf.available_combiners())
@pytest.mark.parametrize("dtype", DTYPES)
def test_geometry_describes_the_update_as_stored(name, dtype):
    sizes = (700, 1, 64)
    pairs = [gradients(n, dtype, seed=n) for n in sizes]
    f, r = [p[0] for p in pairs], [p[1] for p in pairs]
    u = [x.clone() for x in r]
    geometry = rf.make_combiner(name).combine_(f, u)
    # Float64 sums of 765 terms of order one, in another order than here.
    assert geometry.as_dict() == pytest.approx(expected(torch.cat(f), torch.cat(r), torch.cat(u)), abs=1e-12)
    for i, group in enumerate(geometry.per_group().values() if rf.make_combiner(name).scope == "tensor" else []):
        assert group.norm_update == pytest.approx(u[i].double().norm().item(), rel=1e-13)


def test_groups_are_named_by_the_scope():
    f = {"a.weight": torch.ones(2), "a.bias": torch.ones(1), "b.weight": torch.ones(1)}
    r = {name: -x for name, x in f.items()}
    combiner = rf.PCGrad(scope="module")
    geometry = combiner.combine_named_(list(f.values()), list(r.values()), combiner.group(list(f)))
    assert {name: group.norm_forget for name, group in geometry.per_group().items()} == pytest.approx(
        {"a": math.sqrt(3), "b": 1.0}
    )


def test_each_tensor_keeps_its_own_row_when_dtypes_alternate():
    dtypes = (torch.float32, torch.float64, torch.float32, torch.bfloat16, torch.float64)
    f = [torch.full((1,), 2.0**i, dtype=dtype) for i, dtype in enumerate(dtypes)]
    geometry = rf.Sum().combine_(f, [torch.ones(1, dtype=dtype) for dtype in dtypes])
    assert [group.norm_forget for group in geometry.per_group().values()] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_the_cosine_of_a_zero_vector_is_nan():
    geometry = rf.Sum().combine_([torch.zeros(3)], [torch.ones(3)])
    assert math.isnan(geometry.cos_forget_retain)
    assert geometry.cos_update_retain == pytest.approx(1.0)
    assert rf.Sum().combine_([], []).norm_update == 0


def test_parallel_vectors_never_leave_the_cosine_range():
    for n in (3, 7, 1000):
        x = torch.full((n,), 0.1)
        geometry = rf.Sum().combine_([-x], [x.clone()])
        assert -1.0 <= geometry.cos_forget_retain <= 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_float64_of_any_size(scale):
    f, r = gradients(10, torch.float64)
    plain = rf.SAGO().combine_([f], [r.clone()])
    scaled = rf.SAGO().combine_([f * scale], [r * scale])
    assert scaled.cos_update_retain == pytest.approx(plain.cos_update_retain, abs=1e-12)
    assert scaled.norm_update / scale == pytest.approx(plain.norm_update, rel=1e-12)


def test_a_tiny_tensor_beside_a_zero_one_keeps_its_geometry():
    tiny = torch.full((3,), 1e-250, dtype=torch.float64)
    retain = [tiny.clone(), torch.zeros(3, dtype=torch.float64)]
    geometry = rf.PCGrad(scope="global").combine_([-3 * tiny, torch.zeros(3, dtype=torch.float64)], retain)
    assert geometry.cos_forget_retain == pytest.approx(-1.0)
    assert geometry.norm_retain == pytest.approx(1e-250 * math.sqrt(3))
    # h = 0 exactly in the reals; u = alpha r.
    torch.testing.assert_close(retain[0], tiny, rtol=1e-15, atol=0)
