"""What was built, installed where there is neither a compiler nor this tree, and used there.

uv made this environment, so that its cache has every dependency: an environment of links to it is made in seconds, and sees
nothing of the source tree, as one with this environment's packages on its path could.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from building import run, tool

pytestmark = pytest.mark.slow

# Prints the bits of the element-wise updates, which all backends share, and the lengths of the others, which round otherwise.
COMBINE = """
import hashlib, torch, retainfirst as rf
from retainfirst.extension import AVAILABLE
print(AVAILABLE)
torch.manual_seed(0)
for name in rf.available_combiners():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        forget, retain = torch.randn(2, 999).to(dtype)
        update = rf.combine(forget, retain, name)
        bits = hashlib.sha256(update.view(torch.uint8).numpy().tobytes()).hexdigest()
        print(name, dtype, bits if name in ("sum", "sago", "sago_keep_retain") else f"{update.double().norm():.6g}")
"""
PLUGIN = "import hydra_plugins.retainfirst_open_unlearning, retainfirst_open_unlearning"


class Bare:
    """An environment with a Python and the given packages, on a machine without a compiler."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.constraints = folder / "environment", folder / "constraints.txt"
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        run(tool("uv"), "venv", "--quiet", "--python", sys.executable, self.folder)
        chosen = "--all-extras", "--no-emit-project", "--no-hashes", "--quiet"
        run(tool("uv"), "export", "--locked", *chosen, "--output-file", self.constraints)

    @property
    def variables(self) -> dict[str, str]:
        # The model of the built-in facts is trained once in all tests.
        kept = {name: os.environ[name] for name in ("RETAINFIRST_CACHE", "SYSTEMROOT") if name in os.environ}
        return {**kept, "PATH": str(self.bin), "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}

    def install(self, *options: str | Path) -> None:
        run(
            tool("uv"), "pip", "install", "--quiet", "--python", self.folder, "--constraints", self.constraints, *options,
            PATH=str(self.bin),
        )  # fmt: skip

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in its folder, with nothing else on the path."""
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder, env=self.variables, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip

    def output(self, *command: str) -> str:
        made = self.call(*command)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Bare:
    """With the wheel and what it depends on, without extras and without one package from source."""
    made = Bare(tmp_path_factory.mktemp("bare"))
    made.install("--only-binary", ":all:", wheel)
    return made


@pytest.fixture(scope="module")
def compiled(bare) -> tuple[str, Any]:
    """The bits of all combiners, and the results of unlearning the built-in model, with the extension."""
    return bare.output("python", "-c", COMBINE), json.loads(
        bare.output("retainfirst", "unlearn", "--output", "first", "--json")
    )


def test_the_environment_has_no_compiler_and_does_not_see_the_tree(bare):
    assert not [name for name in ("cargo", "cc", "gcc", "clang", "make") if shutil.which(name, path=str(bare.bin))]
    place = bare.output("python", "-c", "import retainfirst; print(retainfirst.__file__)")
    assert Path(place.strip()).is_relative_to(bare.folder)


def test_one_command_unlearns_the_built_in_model(compiled, bare):
    bits, results = compiled
    assert bits.startswith("True\n")
    assert results["sago"]["after"]["forget_accuracy"] < 0.4
    assert results["sago"]["after"]["retain_accuracy"] > results["sum"]["after"]["retain_accuracy"]
    assert (bare.folder / "first" / "sago" / "unlearning.json").is_file()


def test_the_plugin_can_be_imported(bare, plugin):
    bare.install(plugin)
    bare.output("python", "-c", PLUGIN)


def test_the_wheel_for_every_platform_has_the_same_results(compiled, bare, universal):
    bits, results = compiled
    bare.install("--reinstall", "--no-deps", universal)
    assert bare.output("python", "-c", COMBINE) == bits.replace("True", "False", 1)
    assert json.loads(bare.output("retainfirst", "unlearn", "--output", "second", "--json")) == results
    first, second = (bare.folder / name / "sago" / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    refused = bare.call("retainfirst", "verify")
    assert refused.returncode == 2
    assert "retainfirst verify needs the compiled extension" in refused.stderr
