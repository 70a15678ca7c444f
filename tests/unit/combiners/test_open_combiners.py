"""Combiners of strangers: by class, by name, from a file and from an installed package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import retainfirst as rf
from oracle import DTYPES, gradients
from retainfirst import combiners, kernels
from retainfirst import moments as m
from retainfirst.combiners import _registry

SOFT = """
from dataclasses import dataclass

import torch

import retainfirst as rf


@rf.register("soft_sign")
@dataclass(frozen=True)
class SoftSign(rf.ElementwiseCombiner):
    sharpness: float = 1.0

    def formula(self, forget, retain):
        agreement = torch.sigmoid(self.sharpness * forget.sign() * retain.sign())
        return self.alpha * retain + self.gamma * agreement * forget
"""

PACKAGE = SOFT.replace('@rf.register("soft_sign")\n', "")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    monkeypatch.setattr(_registry, "_BROKEN", {})


class Soft(rf.ElementwiseCombiner):
    def formula(self, forget, retain):
        return self.alpha * retain + self.gamma * torch.sigmoid(forget * retain) * forget


class Half(rf.ProjectionCombiner):
    """Removes half of the component of forget along retain."""

    def coefficients(self, moments):
        return self.alpha - self.gamma * m.along_retain(moments) / 2, self.gamma


def soft(f, r, alpha=1.0, gamma=1.0):
    return alpha * r + gamma * torch.sigmoid(f * r) * f


def half(f, r, alpha=1.0, gamma=1.0):
    return alpha * r + gamma * (f - (f.double() @ r.double()) / (2 * r.double().square().sum()) * r)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", kernels.BACKENDS)
def test_a_formula_runs_in_every_format(backend, dtype):
    f, r = gradients(3000, dtype, seed=1)
    with kernels.use_backend(backend):
        update = rf.combine(f, r, Soft(alpha=0.5, gamma=2.0))
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    assert torch.equal(update, soft(f.to(wide), r.to(wide), 0.5, 2.0).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coefficients_make_a_projection(dtype):
    f, r = gradients(3000, dtype, seed=2)
    # One rounding to the dtype; the float64 arithmetic before it adds far less for sums of 3000 terms of order one.
    torch.testing.assert_close(rf.combine(f, r, Half()).double(), half(f.double(), r.double()), rtol=2**-23, atol=1e-12)


def test_geometry_is_measured_as_for_any_other():
    f, r = gradients(500, torch.float64, seed=3)
    update = r.clone()
    geometry = Soft().combine_([f], [update])
    assert geometry.cos_update_retain == pytest.approx(torch.cosine_similarity(update, r, dim=0).item(), abs=1e-12)


@pytest.mark.parametrize("combiner", [Soft(), Half(scope="module"), Half(scope="global")])
@pytest.mark.parametrize("options", [{}, {"stream": True}, {"offload": "cpu"}])
def test_a_step_takes_it_with_groups_streaming_and_offload(combiner, options):
    if options.get("stream") and combiner.scope == "global":
        pytest.skip("streaming needs a scope below global")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def run(**kwargs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        step = rf.TwoTaskStep(model, combiner, **kwargs)
        with step.forget():
            (-model(x).square().mean()).backward()
        with step.retain():
            model(-x).square().mean().backward()
        step.combine()
        return {name: p.grad for name, p in model.named_parameters()}

    plain, other = run(), run(**options)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_name_reaches_make_combiner_and_the_step():
    rf.register("soft")(Soft)
    assert isinstance(rf.make_combiner("soft", gamma=0.5), Soft)
    assert "soft" in rf.available_combiners()
    assert Soft().name == "soft"
    assert set(combiners.combiner_options("soft")) == {"alpha", "gamma"}
    with pytest.raises(rf.RetainFirstError, match="Did you mean 'gamma'"):
        rf.make_combiner("soft", gama=1.0)


def test_a_class_without_a_dataclass_keeps_its_own_options():
    class Sharp(rf.ElementwiseCombiner):
        def __init__(self, sharpness=1.0, **weights):
            super().__init__(**weights)
            self.sharpness = sharpness

        def formula(self, forget, retain):
            return retain + self.sharpness * forget

    rf.register("sharp")(Sharp)
    combiner = rf.make_combiner("sharp", sharpness=3.0, alpha=0.5)
    assert combiner.with_weights(gamma=2.0).sharpness == 3.0
    assert combiner.with_weights(gamma=2.0).gamma == 2.0
    assert rf.combine(torch.ones(1), torch.ones(1), combiner).item() == 4.0
    with pytest.raises(rf.RetainFirstError, match="cannot be made with.*unexpected"):
        rf.make_combiner("sharp", sharpnes=3.0)


def test_an_argument_after_the_colon():
    @rf.register("powered", argument="power")
    @dataclass(frozen=True)
    class Powered(rf.ElementwiseCombiner):
        power: str = "1"

        def formula(self, forget, retain):
            return retain + forget ** int(self.power)

    assert rf.combine(torch.full((1,), 3.0), torch.ones(1), "powered:2").item() == 10.0
    assert "powered" not in rf.available_combiners()
    with pytest.raises(rf.RetainFirstError, match="power is given twice"):
        rf.make_combiner("powered:2", power="3")
    with pytest.raises(rf.RetainFirstError, match="sago takes no argument"):
        rf.make_combiner("sago:2")


def test_a_subclass_with_its_own_formula_does_not_inherit_the_kernel():
    class Negated(rf.Sum):
        def formula(self, forget, retain):
            return -super().formula(forget, retain)

    assert rf.combine(torch.ones(1), torch.ones(1), Negated()).item() == -2.0

    class Same(rf.SAGO):
        pass

    assert torch.equal(rf.combine(torch.ones(1), -torch.ones(1), Same()), -torch.ones(1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["forget", "retain"])
def test_a_formula_cannot_hide_a_broken_gradient(bad, where):
    class Masked(rf.ElementwiseCombiner):
        def formula(self, forget, retain):
            return torch.zeros_like(retain)

    f, r = torch.ones(3), torch.ones(3)
    (f if where == "forget" else r)[1] = bad
    assert rf.combine(f, r, Masked()).isfinite().tolist() == [True, False, True]


def refused(name, body):
    def formula(self, forget, retain):
        return body(forget, retain)

    return type(name, (rf.ElementwiseCombiner,), {"formula": formula})()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda f, r: f / f.norm(), "mixes coordinates"),
        (lambda f, r: f.flip(0) + r, "mixes coordinates"),
        (lambda f, r: f[:1], r"must return floating-point numbers of shape \(64,\)"),
        (lambda f, r: 1.0, "not float"),
        (lambda f, r: f > 0, "torch.bool"),
        (lambda f, r: f.mul_(2), "in place"),
    ],
)
def test_a_wrong_formula_is_named(body, text):
    f, r = gradients(64, torch.float32)
    before = f.clone(), r.clone()
    with pytest.raises(rf.RetainFirstError, match=f"Wrong: .*{text}"):
        rf.combine(f, r, refused("Wrong", body))
    assert torch.equal(f, before[0])
    assert torch.equal(r, before[1])


def test_a_formula_may_draw_random_numbers():
    class Dropped(rf.ElementwiseCombiner):
        def formula(self, forget, retain):
            return retain + forget * (torch.rand_like(forget) < 0.5)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    rf.combine(torch.ones(0), torch.ones(0), Dropped())
    assert torch.equal(torch.get_rng_state(), state), "the check draws from a fork"
    assert set(rf.combine(torch.ones(100), torch.ones(100), Dropped()).tolist()) == {1.0, 2.0}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (1.0, "must return two"),
        ((1.0,), "must return two"),
        ((torch.ones(2), 1.0), r"shape \(1,\)"),
        (("a", 1.0), "'a'"),
    ],
)
def test_wrong_coefficients_are_named(found, text):
    class Wrong(rf.ProjectionCombiner):
        def coefficients(self, moments):
            return found

    with pytest.raises(rf.ShapeMismatch, match=f"Wrong: .*{text}"):
        rf.combine(torch.ones(3), torch.ones(3), Wrong())


def test_registration_refuses_bad_names_and_classes():
    with pytest.raises(rf.RetainFirstError, match="'sago' is taken by retainfirst"):
        rf.register("sago")(Soft)
    for name in ("", "a:b", "a b", 3):
        with pytest.raises(rf.RetainFirstError, match="is no name"):
            rf.register(name)
    with pytest.raises(rf.RetainFirstError, match="Empty lacks the method formula"):
        rf.register("empty")(type("Empty", (rf.ElementwiseCombiner,), {}))
    with pytest.raises(rf.RetainFirstError, match="must derive from ElementwiseCombiner"):
        rf.register("text")(str)
    rf.register("soft")(Soft)
    rf.register("soft")(Soft)  # a notebook runs a cell again


def test_a_file_is_run_for_its_combiner(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text(SOFT)
    combiner = rf.make_combiner(f"{file}:soft_sign", sharpness=2.0)
    assert (combiner.name, combiner.sharpness) == ("soft_sign", 2.0)
    assert rf.make_combiner("soft_sign") == rf.make_combiner(f"{file}:soft_sign")
    with pytest.raises(rf.UnknownCombiner, match="Did you mean 'soft_sign'"):
        rf.make_combiner(f"{file}:soft_sin")
    with pytest.raises(rf.RetainFirstError, match="does not exist"):
        rf.make_combiner(f"{tmp_path / 'absent.py'}:soft_sign")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(rf.RetainFirstError, match="broken.py fails: ZeroDivisionError"):
        rf.make_combiner(f"{tmp_path / 'broken.py'}:soft_sign")


def install(folder: Path, name: str, source: str, points: str) -> None:
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[retainfirst.combiners]\n{points}\n")


def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    install(tmp_path, "stranger", PACKAGE, "soft_sign = stranger:SoftSign")
    install(tmp_path, "broken", "1 / 0", "broken = broken:Nothing")
    code = (
        "import torch, retainfirst as rf\n"
        "print(rf.combine(torch.ones(1), torch.ones(1), 'soft_sign', sharpness=0.0).item())\n"
        "print('soft_sign' in rf.available_combiners(), 'broken' in rf.available_combiners())\n"
        "try: rf.make_combiner('broken')\n"
        "except rf.RetainFirstError as error: print(error)\n"
    )
    path = ":".join([str(tmp_path), *sys.path[1:]])
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path, "PATH": ""}, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[:2] == ["1.5", "True False"]
    assert "'broken' cannot be loaded from its package: division by zero" in found.stdout
    assert "the combiner 'broken' of an installed package cannot be loaded" in found.stderr
