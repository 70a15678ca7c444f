"""The wheels and the sdist hold both packages, with all files that are not code."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from building import ROOT, run, tool


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def text(wheel: Path, name: str) -> str:
    """Return a file of the wheel's records."""
    with zipfile.ZipFile(wheel) as archive:
        [path] = [path for path in archive.namelist() if path.endswith(f".dist-info/{name}")]
        return archive.read(path).decode()


def sources() -> set[str]:
    """Return the files of both packages, without those that building and running leave behind."""
    left_behind = {".pyc", ".so", ".pyd"}
    found = (ROOT / "python").rglob("*")
    return {
        path.relative_to(ROOT / "python").as_posix()
        for path in found
        if path.is_file() and path.suffix not in left_behind
    }


@pytest.mark.slow
def test_the_wheel_has_every_file_of_both_packages_and_no_other(wheel):
    packaged = {name for name in names(wheel) if not name.startswith("retainfirst-")}
    compiled = {name for name in packaged if name.startswith("retainfirst/_rust.") and not name.endswith(".pyi")}
    assert len(compiled) == 1
    assert packaged - compiled == sources()


@pytest.mark.slow
def test_the_wheel_has_its_license_and_its_command(wheel):
    kept = {name.split("/", 1)[1] for name in names(wheel) if name.startswith("retainfirst-")}
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"} <= kept


@pytest.mark.slow
def test_the_wheel_for_every_platform_lacks_the_extension_alone(wheel, universal):
    assert universal.name.endswith("-py3-none-any.whl")
    gone = names(wheel) - names(universal)
    assert sum(name.endswith((".so", ".pyd")) for name in gone) == 1
    assert all(name.endswith((".so", ".pyd")) or "/sboms/" in name for name in gone)
    assert text(universal, "METADATA") == text(wheel, "METADATA")
    assert "Root-Is-Purelib: true\nTag: py3-none-any\n" in text(universal, "WHEEL")
    assert {line.split(",")[0] for line in text(universal, "RECORD").splitlines()} == names(universal)


@pytest.mark.slow
def test_a_wheel_without_an_extension_is_refused(universal, tmp_path):
    with pytest.raises(AssertionError, match="should be one compiled extension"):
        run(sys.executable, "release/universal_wheel.py", universal, tmp_path)


@pytest.mark.slow
def test_the_sdist_has_all_sources_and_builds(dist, tmp_path):
    [sdist] = dist.glob("retainfirst-*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames()}
    rust = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rust").rglob("*") if path.suffix in (".rs", ".toml")}
    assert {f"python/{name}" for name in sources()} | rust | {
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
    } <= packed
    assert not [name for name in packed if name.endswith((".so", ".pyd", ".pyc"))]
    # Not optimised: this is about the sources. Cargo keeps the products of the crates from the registry for all builds.
    settings = {"MATURIN_PEP517_ARGS": "--profile dev", "CARGO_TARGET_DIR": str(ROOT / "target")}
    run(tool("uv"), "build", "--wheel", "--python", sys.executable, "--out-dir", tmp_path, sdist, **settings)
    [wheel] = tmp_path.glob("*.whl")
    assert any(name.startswith("retainfirst/_rust.abi3") for name in names(wheel))


@pytest.mark.slow
def test_the_plugin_has_its_configs_and_its_license(plugin):
    configs = ROOT / "plugin" / "src" / "retainfirst_open_unlearning" / "conf"
    wanted = {path.relative_to(ROOT / "plugin" / "src").as_posix() for path in configs.rglob("*.yaml")}
    assert wanted
    assert wanted <= names(plugin)
    assert "retainfirst" in text(plugin, "licenses/LICENSE")


def test_the_files_that_are_not_code_are_among_those_looked_for():
    found = sources()
    assert {"retainfirst/py.typed", "retainfirst/_rust.pyi"} <= found
    assert {".yaml", ".j2"} <= {Path(name).suffix for name in found if name.startswith("retainfirst_lab/")}
