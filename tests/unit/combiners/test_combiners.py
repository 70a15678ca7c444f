"""Every rule against the written-out one, on both backends and in every dtype; edge rules; bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import retainfirst as rf
from backends import BACKENDS
from oracle import DTYPES, ELEMENTWISE, PROJECTIONS, assert_projection, elementwise, gradients, projection, same_bits
from retainfirst import kernels

WEIGHTS = [(1.0, 1.0), (0.1, 1.0), (1.0, 0.0), (0.3, 7.0)]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, default_device):
    with kernels.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize(("alpha", "gamma"), WEIGHTS)
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elementwise_rules_are_bit_equal_to_the_written_out_rule(name, dtype, alpha, gamma):
    f, r = gradients(4097, dtype, seed=1)
    assert same_bits(rf.combine(f, r, name, alpha=alpha, gamma=gamma), elementwise(name, f, r, alpha, gamma))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_formats_are_computed_in_float32_and_rounded_once(name, dtype):
    f, r = gradients(4097, dtype, seed=2)
    wide = elementwise(name, f.float(), r.float(), 0.3, 0.7)
    assert same_bits(rf.combine(f, r, name, alpha=0.3, gamma=0.7), wide.to(dtype))


@pytest.mark.parametrize(("alpha", "gamma"), WEIGHTS)
@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_projections_are_within_the_derived_bound(name, dtype, alpha, gamma):
    f, r = gradients(2049, dtype, seed=3, ratio=5.0)
    assert_projection(name, rf.combine(f, r, name, alpha=alpha, gamma=gamma), f, r, alpha, gamma)


@pytest.mark.parametrize("name", rf.available_combiners())
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inputs_of_combine_stay_as_they_are(name, dtype):
    f, r = gradients(100, dtype)
    before = f.clone(), r.clone()
    rf.combine(f, r, name)
    assert same_bits(f, before[0])
    assert same_bits(r, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sago", "sago_keep_retain"])
def test_conflict_is_decided_by_signs_not_by_a_product_that_underflows(name, dtype):
    tiny = torch.tensor([torch.finfo(dtype).tiny], dtype=dtype)
    assert rf.combine(-tiny, tiny, name).item() == tiny.item()


@pytest.mark.parametrize("name", rf.available_combiners())
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["forget", "retain"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_that_is_not_finite_shows_in_the_update(name, bad, where, dtype):
    f, r = gradients(64, dtype, seed=4)
    f[7], r[7] = -1.0, 1.0
    (f if where == "forget" else r)[7] = bad
    assert not rf.combine(f, r, name)[7].isfinite()
    f[7] = -f[7]  # and with the other sign, where the mask would pick the other one
    assert not rf.combine(f, r, name)[7].isfinite()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_gradient_is_no_conflict_and_no_projection(dtype):
    f, _ = gradients(50, dtype)
    zero = torch.zeros_like(f)
    assert torch.equal(rf.combine(f, zero, "pcgrad"), f)
    assert torch.equal(rf.combine(f, zero, "sago"), f)
    assert torch.equal(rf.combine(zero, f, "blur"), f)
    assert torch.equal(rf.combine(zero, f, "pcgrad"), f)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-170, 1e300])
def test_float64_gradients_of_any_size_are_projected(scale):
    r = torch.tensor([1.0, 2.0], dtype=torch.float64) * scale
    f = torch.tensor([-3.0, 1.0], dtype=torch.float64) * scale
    # A GPU divides by a number by multiplying with its inverse, and that of the smallest subnormal is infinite.
    u = rf.combine(f, r, "pcgrad") / torch.tensor(scale, dtype=torch.float64)
    # Exactly (-1.8, 3.4) before it is stored; the smallest subnormal leaves whole units only.
    assert torch.allclose(
        u, torch.tensor([-1.8, 3.4], dtype=torch.float64), rtol=1e-15, atol=0.5 if scale < 1e-320 else 0
    )


def test_paper_example_of_an_opposed_coordinate():
    r, f = torch.tensor([1.0, 10.0]), torch.tensor([-5.0, 0.4])
    assert rf.combine(f, r, "pcgrad")[0] * r[0] < 0
    assert (rf.combine(f, r, "sago") * r >= 0).all()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (5, 7), (2, 3, 4)])
@pytest.mark.parametrize("name", rf.available_combiners())
def test_any_shape(name, shape):
    f, r = torch.randn(shape), torch.randn(shape)
    u = rf.combine(f, r, name)
    assert u.shape == shape
    assert torch.equal(u.reshape(-1), rf.combine(f.reshape(-1), r.reshape(-1), name))


@pytest.mark.parametrize("name", rf.available_combiners())
def test_memory_layout_does_not_matter(name):
    f, r = torch.randn(6, 5), torch.randn(6, 5)
    expected = rf.combine(f, r, name)
    turned = [x.t().contiguous().t() for x in (f, r)]
    strided = [torch.stack([x, x], -1)[..., 0] for x in (f, r)]
    for a, b in [turned, strided, (f, turned[1]), (turned[0], r), (strided[0], turned[1])]:
        # The order of the float64 additions differs with the layout; the update is rounded to float32 after them.
        torch.testing.assert_close(rf.combine(a, b, name), expected, rtol=2**-23, atol=0)
        written = torch.empty_like(b).copy_(b)
        rf.make_combiner(name).combine_([a], [written])
        torch.testing.assert_close(written, expected, rtol=2**-23, atol=0)


def test_groups_decide_what_a_projection_sees():
    pairs = [gradients(n, torch.float64, seed=n) for n in (3, 5, 9)]
    f, r = [p[0] for p in pairs], [p[1] for p in pairs]
    update = [x.clone() for x in r]
    rf.PCGrad().combine_(f, update, groups=[[2, 0], [1]])
    joined = projection("pcgrad", torch.cat([f[2], f[0]]), torch.cat([r[2], r[0]]), 1.0, 1.0)
    # Twenty terms of order one in float64.
    torch.testing.assert_close(torch.cat([update[2], update[0]]), joined, rtol=0, atol=1e-14)
    torch.testing.assert_close(update[1], projection("pcgrad", f[1], r[1], 1.0, 1.0), rtol=0, atol=1e-14)


def test_a_group_may_hold_several_dtypes():
    f = [torch.tensor([-3.0, 0.0]), torch.tensor([1.0], dtype=torch.float64)]
    r = [torch.tensor([1.0, 0.0]), torch.tensor([1.0], dtype=torch.float64)]
    u = rf.combine(f, r, "pcgrad", scope="global")
    # <f,r> = -2, |r|^2 = 2: h = f + r.
    assert [x.tolist() for x in u] == [[-1.0, 0.0], [3.0]]


def test_scopes_differ_by_what_they_group():
    names = ["model.layers.0.a.weight", "model.layers.0.a.bias", "model.layers.0.b.weight", "model.layers.1.a.weight"]
    f = {name: torch.tensor([float(i) - 2.0]) for i, name in enumerate(names)}
    r = {name: torch.tensor([float(i) + 1.0]) for i, name in enumerate(names)}
    updates = {scope: rf.combine(f, r, "pcgrad", scope=scope) for scope in ("tensor", "module", "block", "global")}
    joined = {
        "tensor": [[0], [1], [2], [3]], "module": [[0, 1], [2], [3]], "block": [[0, 1, 2], [3]], "global": [[0, 1, 2, 3]]
    }  # fmt: skip
    for scope, groups in joined.items():
        for group in groups:
            part = [names[i] for i in group]
            expected = projection("pcgrad", torch.cat([f[n] for n in part]), torch.cat([r[n] for n in part]), 1.0, 1.0)
            found = torch.cat([updates[scope][n] for n in part]).double()
            torch.testing.assert_close(found, expected, rtol=2**-23, atol=2**-23)


@pytest.mark.parametrize("scope", ["module", "block"])
def test_scopes_by_name_need_names(scope):
    with pytest.raises(rf.RetainFirstError, match="mapping"):
        rf.combine([torch.ones(1)] * 2, [torch.ones(1)] * 2, "pcgrad", scope=scope)
    assert torch.equal(rf.combine(torch.ones(1), torch.ones(1), "pcgrad", scope=scope), torch.tensor([2.0]))


def test_containers_come_back_as_they_went_in():
    f, r = torch.tensor([1.0]), torch.tensor([2.0])
    assert rf.combine([f, None, None], [None, r, None], "sum") == [f, r, None]
    assert isinstance(rf.combine((f,), (r,), "sum"), tuple)
    assert rf.combine({"a": f, "b": None}, {"b": None, "a": r}, "sum") == {"a": torch.tensor([3.0]), "b": None}
    assert rf.combine([], [], "pcgrad") == []
    assert rf.combine(f, f, "sum") == torch.tensor([2.0])  # the same tensor twice is no fault here


@pytest.mark.parametrize(
    ("forget", "retain", "error", "text"),
    [
        (torch.ones(2), torch.ones(3), rf.ShapeMismatch, r"\(2,\).*\(3,\)"),
        (torch.ones(6), torch.ones(2, 3), rf.ShapeMismatch, r"\(6,\).*\(2, 3\)"),
        (torch.ones(2), torch.ones(2).double(), rf.DtypeMismatch, "float32.*float64"),
        (torch.ones(2).int(), torch.ones(2).int(), rf.DtypeMismatch, "int32"),
        (torch.ones(2), torch.ones(2, device="meta"), rf.DtypeMismatch, "cpu.*meta"),
        (torch.ones(2).to_sparse(), torch.ones(2), rf.DtypeMismatch, "sparse"),
        ([torch.ones(2)], [torch.ones(2)] * 2, rf.ShapeMismatch, "1 forget.*2 retain"),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, rf.ShapeMismatch, "a, b"),
        (torch.ones(2), [torch.ones(2)], rf.ShapeMismatch, "Tensor.*list"),
        ([1.0], [2.0], rf.DtypeMismatch, "float"),
    ],
)
def test_bad_gradients_are_named(forget, retain, error, text):
    with pytest.raises(error, match=text):
        rf.combine(forget, retain, "sago")


def test_a_mapping_names_the_parameter():
    with pytest.raises(rf.ShapeMismatch, match="lm_head.weight"):
        rf.combine({"lm_head.weight": torch.ones(2)}, {"lm_head.weight": torch.ones(3)}, "sum")


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([[0]], "tensor 1 is in none"),
        ([[0, 1], [1]], "tensor 1 stands in two"),
        ([[0, 1, 2]], "tensor 2 does not exist"),
    ],
)
def test_groups_must_cover_each_tensor_once(groups, text):
    with pytest.raises(rf.ShapeMismatch, match=text):
        rf.PCGrad().combine_([torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(1)], groups=groups)


@pytest.mark.parametrize("groups", [[0], "ab", [["0"]], {"a": [0]}, [[0.5]]])
def test_groups_of_the_wrong_kind(groups):
    with pytest.raises(rf.ShapeMismatch, match="groups"):
        rf.PCGrad().combine_([torch.ones(1)], [torch.ones(1)], groups=groups)


def test_a_bare_tensor_is_not_a_list_of_its_rows():
    with pytest.raises(rf.ShapeMismatch, match="put a single tensor into a list"):
        rf.PCGrad().combine_(torch.ones(2, 2), torch.ones(2, 2))


@pytest.mark.parametrize("name", rf.available_combiners())
def test_a_pending_negation_counts(name):
    f, r = torch.randn(20), torch.randn(20)
    expected = rf.combine(-f, r, name)
    torch.testing.assert_close(rf.combine(torch._neg_view(f), r, name), expected, rtol=2**-23, atol=0)
    written = torch._neg_view(-r)
    rf.make_combiner(name).combine_([-f], [written])
    torch.testing.assert_close(written.resolve_neg(), expected, rtol=2**-23, atol=0)


def test_in_place_refuses_shared_memory():
    x = torch.ones(4)
    with pytest.raises(rf.RetainFirstError, match="share memory"):
        rf.SAGO().combine_([x], [x])
    with pytest.raises(rf.RetainFirstError, match="share memory"):
        rf.SAGO().combine_([x[:3]], [x[1:]])
    with pytest.raises(rf.RetainFirstError, match="expanded"):
        rf.SAGO().combine_([torch.ones(4)], [torch.ones(1).expand(4)])
    y, z = torch.ones(4), torch.ones(4)
    for backend in BACKENDS:
        with kernels.use_backend(backend):
            with pytest.raises(rf.ShapeMismatch, match="retain gradients 0 and 2 share memory"):
                rf.SAGO().combine_([x, x, x], [y, z, y])
            with pytest.raises(rf.ShapeMismatch, match="forget gradient 1 and retain gradient 0 share memory"):
                rf.SAGO().combine_([x, y], [y, z])
    assert torch.equal(y, torch.ones(4)), "refused before anything is written"
    rf.SAGO().combine_([x, x], [y, z])  # forget is only read
    rf.SAGO().combine_([torch.ones(0)] * 2, [torch.ones(0)] * 2)


@pytest.mark.parametrize("name", rf.available_combiners())
@pytest.mark.parametrize(
    "weights", [{"alpha": 0}, {"alpha": -1.0}, {"alpha": math.nan}, {"alpha": math.inf}, {"gamma": -0.1}, {"gamma": math.nan},
                {"gamma": math.inf}, {"alpha": "1"}, {"gamma": None}, {"alpha": True}],
)  # fmt: skip
def test_weights_out_of_range(name, weights):
    [(option, _value)] = weights.items()
    with pytest.raises(rf.RetainFirstError, match=f"{option} must be"):
        rf.make_combiner(name, **weights)


@pytest.mark.parametrize(("option", "value"), [("alpha", 1e-60), ("alpha", 1e60), ("gamma", 1e-60), ("gamma", 1e60)])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_weight_that_the_format_cannot_hold(name, option, value):
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(rf.RetainFirstError, match=f"{option}=1e"):
            rf.combine(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype), name, **{option: value})
    rf.combine(torch.ones(2).double(), torch.ones(2).double(), name, **{option: value})


def test_weights_may_be_any_real_number():
    assert rf.SAGO(alpha=np.float32(0.5)) == rf.SAGO(alpha=0.5)
    with pytest.raises(rf.RetainFirstError, match="alpha"):
        rf.SAGO(alpha=10**400)


def test_unknown_names_give_the_nearest():
    with pytest.raises(rf.UnknownCombiner):
        rf.make_combiner(["sago"])
    with pytest.raises(rf.RetainFirstError, match="scope"):
        rf.PCGrad(scope=["tensor"])
    with pytest.raises(rf.UnknownCombiner, match="Did you mean 'pcgrad'"):
        rf.make_combiner("pcgrd")
    with pytest.raises(rf.RetainFirstError, match="Did you mean 'module'"):
        rf.PCGrad(scope="modules")
    with pytest.raises(rf.RetainFirstError, match="sago has no option 'scope'"):
        rf.make_combiner("sago", scope="global")
    with pytest.raises(rf.RetainFirstError, match="has its own already"):
        rf.combine(torch.ones(1), torch.ones(1), rf.Sum(), alpha=2.0)


@pytest.mark.parametrize("name", rf.available_combiners())
def test_every_combiner_is_listed_named_and_exported(name):
    combiner = rf.make_combiner(name, alpha=0.5, gamma=0.25)
    assert combiner.name == name
    assert (combiner.alpha, combiner.gamma) == (0.5, 0.25)
    assert type(combiner).__name__ in rf.__all__
    assert eval(repr(combiner), vars(rf)) == combiner
