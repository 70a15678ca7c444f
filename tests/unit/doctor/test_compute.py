"""What the examination says of the extension, of devices and of engines."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import pytest
import torch
from torch import distributed

from retainfirst import __version__, _rust
from retainfirst.doctor import _devices as compute
from retainfirst.doctor import _processes as processes


@pytest.fixture
def extension(monkeypatch):
    """Replace the extension: by a module, or by an error that its import raises."""

    def put(module):
        def find(name):
            assert name == "retainfirst._rust"
            if isinstance(module, BaseException):
                raise module
            return module

        monkeypatch.setattr(compute.importlib, "import_module", find)
        return compute.extension()

    return put


def test_the_extension_that_is_built_of_these_sources():
    found = compute.extension()
    assert found.status == "ok"
    assert found.text == f"{__version__}, {_rust.instruction_set()}, {_rust.get_num_threads()} threads"


def test_an_absent_extension_is_missing(extension):
    found = extension(ModuleNotFoundError("No module named 'retainfirst._rust'", name="retainfirst._rust"))
    assert (found.status, found.text) == ("missing", "not installed, combining in plain torch")
    assert "wheel" in found.advice


@pytest.mark.parametrize(
    "error",
    [ImportError("undefined symbol: PyFoo\nmore"), ModuleNotFoundError("No module named 'numpy'", name="numpy")],
)
def test_an_extension_that_cannot_be_loaded_is_broken(extension, error):
    found = extension(error)
    assert found.status == "broken"
    assert str(error).splitlines()[0] in found.text
    assert "install it again" in found.advice


@pytest.mark.parametrize(("built", "text"), [("0.0.9", "built for 0.0.9"), (None, "built of other sources")])
def test_an_extension_of_another_version_is_broken(extension, built, text):
    module = ModuleType("_rust")
    if built:
        module.__version__ = built
    found = extension(module)
    assert found.status == "broken"
    assert text in found.text
    assert __version__ in found.text


def test_the_real_import_without_the_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "retainfirst._rust", None)
    assert compute.importlib is importlib
    assert compute.extension().status == "missing"


def of_cpu():
    return next(one for one in compute.devices() if one.name == "cpu")


@pytest.mark.parametrize(
    ("backend", "text"), [("auto", "combined by Rust kernels"), ("eager", "combined by plain torch")]
)
def test_the_backend_of_the_cpu(monkeypatch, backend, text):
    monkeypatch.setenv("RETAINFIRST_BACKEND", backend)
    found = of_cpu()
    assert found.status == "ok"
    assert text in found.text
    assert f"{torch.get_num_threads()} threads" in found.text


def test_an_unknown_backend_is_broken(monkeypatch):
    monkeypatch.setenv("RETAINFIRST_BACKEND", "rusty")
    found = of_cpu()
    assert found.status == "broken"
    assert "Unknown backend 'rusty'" in found.text


def test_a_backend_that_combines_wrongly_is_broken(monkeypatch):
    monkeypatch.setattr(compute, "combine", lambda forget, retain, name: forget)
    found = of_cpu()
    assert found.status == "broken"
    assert "combines wrongly" in found.text


class FakeCuda:
    """A GPU whose tensors are those of the CPU."""

    type = "cuda"

    def __str__(self):
        return "cuda:0"


def test_a_gpu_without_triton_says_why(monkeypatch):
    def eager(*tensors):
        warnings.warn("retainfirst works without Triton on cuda:0, as it fails there: no C compiler", stacklevel=1)
        return "eager"

    monkeypatch.setattr(compute, "backend_for", eager)
    monkeypatch.setattr(compute, "_pair", lambda device: (torch.tensor([-5.0, 0.4]), torch.tensor([1.0, 10.0])))
    found = compute._device(FakeCuda(), "H200")
    assert found.status == "missing"
    assert "plain torch" in found.text
    assert "no C compiler" in found.advice


def test_a_machine_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    gpu = [one for one in compute.devices() if one.name == "gpu"]
    assert [one.status for one in gpu] == ["missing"]


def test_the_engines(monkeypatch):
    found = {one.name: one for one in processes.engines()}
    assert set(found) == {"DDP", "FSDP", "DeepSpeed"}
    assert "gloo" in found["DDP"].text
    assert found["FSDP"].text == "FSDP 1 and 2"
    monkeypatch.setattr(distributed, "is_available", lambda: False)
    assert {one.status for one in processes.engines()} == {"missing"}
