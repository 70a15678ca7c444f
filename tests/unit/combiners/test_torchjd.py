"""TorchJD's aggregators against TorchJD itself on the stacked rows; what is refused; the library absent."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation

import retainfirst as rf
from backends import BACKENDS
from oracle import DTYPES, gradients
from retainfirst import kernels

N = 513
# The two Gramians differ by the rounding of sums of N products; the aggregators' own steps enlarge that by at most the
# inverse of TorchJD's regularisation, 1e-4, or of the rows' conditioning, which is far milder for random rows.
ROUNDING = 2 * N * 2.0**-53 * 1e4
SOLVER = 1e-6  # these iterate until a tolerance of 1e-8 in squares

AGGREGATORS: dict[str, tuple[Callable[[], Any], float]] = {
    "UPGrad": (lambda: aggregation.UPGrad(), ROUNDING),
    "UPGrad preferring": (lambda: aggregation.UPGrad(torch.tensor([0.2, 0.8], dtype=torch.float64)), ROUNDING),
    "DualProj": (lambda: aggregation.DualProj(), ROUNDING),
    "MGDA": (lambda: aggregation.MGDA(), ROUNDING),
    "AlignedMTL": (lambda: aggregation.AlignedMTL(), ROUNDING),
    "IMTLG": (lambda: aggregation.IMTLG(), ROUNDING),
    "PCGrad": (lambda: aggregation.PCGrad(), ROUNDING),
    "GradVac": (lambda: aggregation.GradVac(), ROUNDING),
    "PCD": (lambda: aggregation.PCD(tau=0.5), ROUNDING),
    "Mean": (lambda: aggregation.Mean(), ROUNDING),
    "Sum": (lambda: aggregation.Sum(), ROUNDING),
    "Constant": (lambda: aggregation.Constant(torch.tensor([0.2, 3.0], dtype=torch.float64)), ROUNDING),
    "Random": (lambda: aggregation.Random(), ROUNDING),
    "CAGrad": (lambda: aggregation.CAGrad(c=0.5), SOLVER),
    "FairGrad": (lambda: aggregation.FairGrad(alpha=1.0), SOLVER),
    "NashMTL": (lambda: aggregation.NashMTL(n_tasks=2), SOLVER),
    "CR-MOGM": (
        lambda: aggregation.GramianWeightedAggregator(aggregation.CRMOGMWeighting(aggregation.UPGradWeighting())),
        ROUNDING,
    ),
}
STATEFUL = ("GradVac", "PCD", "NashMTL", "CR-MOGM")
NEEDS = {"CAGrad": ("cvxpy", "clarabel"), "FairGrad": ("scipy",), "NashMTL": ("cvxpy", "ecos")}


@pytest.fixture(params=BACKENDS)
def backend(request):
    with kernels.use_backend(request.param):
        yield


@pytest.fixture(params=AGGREGATORS)
def named(request) -> str:
    for library in NEEDS.get(request.param, ()):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{request.param} needs {library}, which the extra does not bring")
    if request.param == "PCD" and not hasattr(aggregation, "PCD"):
        pytest.skip("PCD came with a later TorchJD than this one")
    return request.param


def make(name: str) -> Any:
    return AGGREGATORS[name][0]()


def by_torchjd(aggregator: Any, f: Tensor, r: Tensor, alpha: float = 1.0, gamma: float = 1.0) -> Tensor:
    """TorchJD on the two rows, in float64, which holds every narrower gradient as it is."""
    torch.manual_seed(0)
    return aggregator(torch.stack([gamma * f.double().reshape(-1), alpha * r.double().reshape(-1)]))


def by_us(aggregator: Any, f: Any, r: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return rf.combine(f, r, "torchjd", aggregator=aggregator, **options)


def conflicting(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    f, r = gradients(N, torch.float64, seed=seed, ratio=2.0)
    return f.to(dtype), (r - 0.3 * f).to(dtype)


def assert_near(found: Tensor, exact: Tensor, rows: Tensor, tolerance: float) -> None:
    # Rounding to the dtype at the end: half a unit, a whole one where torch goes by way of float32; then the weights' error.
    allowed = torch.finfo(found.dtype).eps * exact.abs() + tolerance * rows.abs().amax() * 10
    assert ((found.double().reshape(-1) - exact).abs() <= allowed).all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 1.0), (0.3, 7.0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_is_what_torchjd_gives_on_the_stacked_rows(named, dtype, alpha, gamma):
    for f, r in (conflicting(dtype), gradients(N, dtype, seed=5)):
        exact = by_torchjd(make(named), f, r, alpha, gamma)
        found = by_us(make(named), f, r, alpha=alpha, gamma=gamma)
        assert found.dtype == dtype
        assert_near(found, exact, torch.stack([gamma * f.double(), alpha * r.double()]), AGGREGATORS[named][1])


@pytest.mark.parametrize("scope", ["tensor", "module", "block", "global"])
def test_each_group_is_aggregated_by_itself(named, scope):
    if named in STATEFUL and scope != "global":
        pytest.skip("refused; see below")
    parameters = [
        "model.layers.0.a.weight",
        "model.layers.0.a.bias",
        "model.layers.0.b.weight",
        "model.layers.1.a.weight",
    ]
    groups = {
        "tensor": [[0], [1], [2], [3]], "module": [[0, 1], [2], [3]], "block": [[0, 1, 2], [3]], "global": [[0, 1, 2, 3]]
    }[scope]  # fmt: skip
    pairs = [conflicting(torch.float64, seed=seed) for seed in range(4)]
    f = {name: pair[0] * (i + 1) for i, (name, pair) in enumerate(zip(parameters, pairs, strict=True))}
    r = {name: pair[1].roll(i) for i, (name, pair) in enumerate(zip(parameters, pairs, strict=True))}
    found = by_us(make(named), f, r, scope=scope)
    torch.manual_seed(0)
    aggregator = make(named)
    for group in groups:
        rows = torch.stack([torch.cat([g[parameters[i]] for i in group]) for g in (f, r)])
        assert_near(torch.cat([found[parameters[i]] for i in group]), aggregator(rows), rows, 4 * AGGREGATORS[named][1])


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "AlignedMTL", "IMTLG", "PCGrad", "Mean", "Sum", "Random"])
def test_a_bare_weighting_is_the_rule_of_its_aggregator(name):
    f, r = conflicting(torch.float64)
    weighting = getattr(aggregation, f"{name}Weighting")()
    assert torch.equal(by_us(weighting, f, r, gamma=2.0), by_us(make(name), f, r, gamma=2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_preference_vector_of_any_float_dtype(dtype):
    f, r = conflicting(torch.float64)
    exact = by_torchjd(aggregation.AlignedMTL(torch.tensor([0.25, 0.75], dtype=torch.float64)), f, r)
    found = by_us(aggregation.AlignedMTL(torch.tensor([0.25, 0.75], dtype=dtype)), f, r)
    # A float32 preference has a float32 Gramian; its condition number is below 10 here.
    assert_near(found, exact, torch.stack([f, r]), 10 * torch.finfo(dtype).eps + ROUNDING)


def test_in_the_two_task_step_and_by_class():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    step = rf.TwoTaskStep(model, "torchjd", aggregator=aggregation.UPGrad(), gamma=0.5)
    rows = []
    for block, loss in ((step.forget, lambda: -model(x).square().mean()), (step.retain, lambda: model(x).sum())):
        with block():
            loss().backward()
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), list(model.parameters()))]))
    step.combine()
    found = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
    assert_near(found, by_torchjd(aggregation.UPGrad(), *rows, gamma=0.5), torch.stack(rows).double(), ROUNDING)
    rule = rf.TorchJD(aggregator=aggregation.MGDA())
    assert (rule.name, rule.scope, rule) == ("torchjd", "global", rf.TorchJD(aggregator=rule.aggregator))
    assert repr(rule).startswith("TorchJD(alpha=1.0, gamma=1.0, scope='global', aggregator=MGDA(")
    assert "torchjd" not in rf.available_combiners()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["forget", "retain", "both"])
def test_zero_gradients(named, dtype, which):
    f, r = conflicting(dtype)
    f, r = (f * 0 if which != "retain" else f), (r * 0 if which != "forget" else r)
    found = by_us(make(named), f, r)
    if which == "both":
        assert not found.any()
    else:
        assert_near(found, by_torchjd(make(named), f, r), torch.stack([f, r]).double(), AGGREGATORS[named][1])


def test_a_gamma_of_zero_and_empty_gradients(named):
    f, r = conflicting(torch.float64)
    assert_near(by_us(make(named), f, r, gamma=0.0), by_torchjd(make(named), f * 0, r), r, AGGREGATORS[named][1])
    assert by_us(make(named), f[:0], r[:0]).shape == (0,)
    assert by_us(make(named), [], []) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_value_that_is_not_finite_shows_and_leaves_the_state_alone(named, dtype, where, bad):
    f, r = conflicting(dtype)
    aggregator = make(named)
    broken = [f.clone(), r.clone()]
    broken[where][7] = bad
    assert not by_us(aggregator, *broken)[7].isfinite()
    assert torch.equal(by_us(aggregator, f, r), by_us(make(named), f, r))


class Seen(aggregation.MeanWeighting):
    """Keeps what it is shown: as a weighting of rows, two of them in the plane."""

    def forward(self, matrix: Tensor) -> Tensor:
        self.gramians = [*getattr(self, "gramians", []), matrix @ matrix.T]
        return super().forward(matrix)


def test_what_an_aggregator_is_shown():
    f, r = conflicting(torch.float64)
    rule = rf.TorchJD(aggregator=Seen(), gamma=2.0, scope="tensor")
    rf.combine([f, f * 0, f * math.nan], [r, r * 0, r], rule)
    [_trial, shown] = rule.aggregator.gramians  # neither the zero group nor the one that is not finite
    rows = torch.stack([2 * f, r])
    torch.testing.assert_close(shown, rows @ rows.T, rtol=2 * N * 2.0**-53, atol=0)


def test_a_group_that_is_not_finite_does_not_spoil_another():
    f, r = torch.tensor([1.0, -1.0]), torch.tensor([math.nan, 2.0])
    found = by_us(aggregation.Mean(), [f[:1], f[1:]], [r[:1], r[1:]], scope="tensor")
    assert found[0].isnan()
    assert found[1].tolist() == [0.5]


@pytest.mark.parametrize("name", ["MGDA", "AlignedMTL", "PCGrad", "Mean"])
@pytest.mark.parametrize("scale", [1e-250, 1e-170, 1e170, 1e250])
def test_float64_gradients_whose_squares_leave_the_range(name, scale):
    f, r = conflicting(torch.float64)
    exact = by_torchjd(make(name), f, r)
    assert_near(by_us(make(name), f * scale, r * scale) / scale, exact, torch.stack([f, r]), ROUNDING)
    # One of them, too: by a weight, of which only the product with the gradient counts.
    found = by_us(make(name), f * scale, r, gamma=1.0 / scale)
    assert_near(found, exact, torch.stack([f, r]), ROUNDING)


@pytest.mark.usefixtures("backend")
def test_the_largest_gradient_under_a_small_weight():
    f, r = torch.tensor([-1.7e308, 0.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    # Rows (-1.7, 0) and (1, 1): each loses its part against the other.
    found = by_us(aggregation.PCGrad(), f, r, gamma=1e-308)
    torch.testing.assert_close(found, torch.tensor([-1.7 + 0.85 + 1 - 1, 0.85 + 1], dtype=torch.float64))


def test_a_row_that_vanishes_beside_the_other_is_a_zero_row():
    f, r = conflicting(torch.float64)
    # Its own square underflows while its product with the other row does not: dividing by it would give infinity.
    found = by_us(aggregation.PCGrad(), f * 1e-200, r)
    assert_near(found, r, r, ROUNDING)


def test_aggregators_with_a_threshold_still_see_very_short_gradients_as_such():
    f, r = conflicting(torch.float64)
    # Below norm_eps UPGrad takes the mean, at 1e-100 as at 1e-200.
    for scale in (1e-100, 1e-200):
        torch.testing.assert_close(by_us(aggregation.UPGrad(), f * scale, r * scale) / scale, (f + r) / 2)


def test_a_state_goes_on_from_step_to_step(named):
    steps = [conflicting(torch.float64, seed=seed) for seed in range(3)]
    theirs = make(named)
    rule = rf.TorchJD(aggregator=make(named))
    for f, r in steps:
        exact = by_torchjd(theirs, f, r)
        torch.manual_seed(0)
        assert_near(rf.combine(f, r, rule), exact, torch.stack([f, r]), AGGREGATORS[named][1])


@pytest.mark.parametrize("name", ["GradVac", "CR-MOGM"])
def test_a_state_is_not_shared_by_groups(name):
    with pytest.raises(rf.RetainFirstError, match="keeps a state.*scope='global', not 'module'"):
        rf.TorchJD(aggregator=make(name), scope="module")
    f, r = ([torch.ones(1), torch.ones(1)] for _ in range(2))
    with pytest.raises(rf.RetainFirstError, match="keeps a state.*one group, not 2"):
        rf.TorchJD(aggregator=make(name)).combine_(f, r, groups=[[0], [1]])


def test_making_a_combiner_draws_no_random_number():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    rf.TorchJD(aggregator=aggregation.Random())
    assert torch.equal(torch.rand(3), expected)


class Renamed(aggregation.GramianWeightedAggregator):
    """Does more than weigh the rows."""

    def forward(self, matrix: Tensor) -> Tensor:
        return 2 * super().forward(matrix)


class Plain(aggregation.Weighting):
    """Does not say what it takes."""

    def forward(self, stat: Tensor) -> Tensor:
        return torch.ones(3)


@pytest.mark.parametrize(
    ("aggregator", "text"),
    [
        (lambda: aggregation.GradDrop(), "GradDrop needs the gradients themselves.*UPGrad"),
        (lambda: aggregation.TrimmedMean(0), "TrimmedMean needs the gradients themselves.*UPGrad"),
        (lambda: aggregation.ConFIG(), "ConFIG needs the gradients themselves.*UPGrad"),
        (lambda: Renamed(aggregation.UPGradWeighting()), "Renamed needs the gradients themselves"),
        (lambda: aggregation.CRMOGMWeighting(aggregation.UPGradWeighting()), "CRMOGM.*wrap it in .*GramianWeighted"),
        (lambda: Plain(), "Plain is not declared to take a Gramian"),
        (lambda: aggregation.GramianWeightedAggregator(Plain()), r"two weights for two rows, not shape \(3,\)"),
        (lambda: aggregation.Krum(n_byzantine=0), "Krum failed on two rows.*at least 3 rows"),
        (lambda: aggregation.Constant(torch.ones(3)), "Constant failed on two rows.*3 rows"),
        (lambda: aggregation.UPGrad, "must be an aggregator of TorchJD, not <class.*UPGrad"),
        (lambda: 3, "must be an aggregator of TorchJD, not 3.*aggregator=torchjd"),
        (lambda: "UPGad", "unknown aggregator 'UPGad'. Did you mean 'UPGrad'"),
        (lambda: "UPGrad(", "'UPGrad\\(' is no aggregator"),
        (lambda: nn.Linear(2, 1), "must be an aggregator of TorchJD, not Linear"),
    ],
)
def test_what_does_not_work_from_a_gramian_of_two_rows_is_refused(aggregator, text):
    with pytest.raises(rf.RetainFirstError, match=f"(?s)^torchjd: .*{text}"):
        rf.make_combiner("torchjd", aggregator=aggregator())


def test_options():
    with pytest.raises(rf.RetainFirstError, match=r"aggregator is missing; for example .*UPGrad\(\)"):
        rf.make_combiner("torchjd")
    with pytest.raises(rf.RetainFirstError, match="Did you mean 'aggregator'"):
        rf.make_combiner("torchjd", agregator=aggregation.UPGrad())
    with pytest.raises(rf.RetainFirstError, match="alpha must be"):
        rf.make_combiner("torchjd", aggregator=aggregation.UPGrad(), alpha=0)
    with pytest.raises(rf.RetainFirstError, match="Did you mean 'module'"):
        rf.make_combiner("torchjd", aggregator=aggregation.UPGrad(), scope="modules")
    with pytest.raises(rf.UnknownCombiner, match="Did you mean 'torchjd'"):
        rf.make_combiner("torchdj")


def test_a_failure_in_a_step_is_told_as_one():
    rule = rf.TorchJD(aggregator=aggregation.Constant(torch.ones(2)))
    rule.aggregator.weighting.weights = torch.ones(3)
    with pytest.raises(rf.RetainFirstError, match=r"Constant failed on two rows with the Gram matrix \[\[4.0, 2.0\]"):
        rf.combine(torch.tensor([2.0]), torch.tensor([1.0]), rule)


def test_without_torchjd(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "torchjd"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(rf.MissingDependency, match=r"'torchjd' is not installed.*retainfirst\[torchjd\]"):
        rf.make_combiner("torchjd", aggregator=object())
    assert rf.combine(torch.ones(1), torch.ones(1), "sum") == 2


def test_importing_the_library_does_not_import_torchjd():
    code = "import sys, retainfirst; retainfirst.make_combiner('sago'); sys.exit('torchjd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
