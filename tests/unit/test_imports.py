"""Who imports whom: the layers of the library, no circles, and no laboratory in the library.

The imports are read from the source, those inside functions and ``if TYPE_CHECKING:`` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "python"
LIBRARY, LABORATORY = "retainfirst", "retainfirst_lab"
STUDIES = f"{LABORATORY}.studies.gpu"

# A module or package of the library imports only from those above its own line.
LAYERS = (
    "retainfirst._rust",
    "retainfirst.errors",
    "retainfirst.extension",
    "retainfirst.files",
    "retainfirst.progress",
    "retainfirst.user_code",
    "retainfirst.transfer",
    "retainfirst.schedule",
    "retainfirst.moments",
    "retainfirst.scope",
    "retainfirst.geometry",
    "retainfirst.kernels",
    "retainfirst.combiners",
    "retainfirst.reference",
    "retainfirst.engines",
    "retainfirst.step",
    "retainfirst",  # the public names
    "retainfirst.objectives",
    "retainfirst.data",
    "retainfirst.models",
    "retainfirst.weights",
    "retainfirst.evaluation",
    "retainfirst.hf",
    "retainfirst.split",
    "retainfirst.unlearning",
    "retainfirst.theory",
    "retainfirst.testing",
    "retainfirst.doctor",
    "retainfirst.cli",
    "retainfirst.run",
    "retainfirst._moved",
    "retainfirst.bench",  # these three warn of their new names, in the laboratory
    "retainfirst.reproduce",
    "retainfirst.tasks",
)


@dataclass(frozen=True)
class Import:
    """One module imports another."""

    importer: str
    imported: str
    place: str
    deferred: bool  # in a function or under TYPE_CHECKING

    def __str__(self) -> str:
        return f"{self.place}: {self.importer} imports {self.imported}"


def modules(source: Path) -> dict[str, Path]:
    """Return the modules and packages of both distributions by name; a compiled module is known by its stub."""
    found = {}
    for path in sorted(source.rglob("*.py*")):
        if path.suffix in (".py", ".pyi"):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: Path) -> list[Import]:
    """Return all imports of one of these modules by another."""
    known = modules(source)
    found = []
    for name, path in known.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        for node, deferred in statements(ast.parse(path.read_text()), False):
            for target in targets(node, package, known):
                if target in known and target != name:
                    found.append(Import(name, target, f"{path.relative_to(source)}:{node.lineno}", deferred))
    return found


def statements(node: ast.AST, deferred: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, deferred
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from statements(child, deferred or later)


def targets(node: ast.Import | ast.ImportFrom, package: str, known: dict[str, Path]) -> Iterator[str]:
    """Yield what a statement imports: ``from a import b`` is the module ``a.b`` where there is one, else ``a``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        yield whole if whole in known else base


def room(module: str) -> str:
    """Return the module or package right under the top one: ``retainfirst.engines._ddp`` is in ``retainfirst.engines``."""
    return ".".join(module.split(".")[:2])


def laboratory_in_library(found: list[Import]) -> list[str]:
    """Return the imports of the laboratory by the library; the command may load it inside its functions."""
    return [
        str(one)
        for one in found
        if one.importer.split(".")[0] == LIBRARY
        and one.imported.split(".")[0] == LABORATORY
        and not (one.deferred and room(one.importer) == "retainfirst.cli")
    ]


def upward(found: list[Import]) -> list[str]:
    """Return the imports from a layer further down the list."""
    wrong = []
    for one in found:
        pair = room(one.importer), room(one.imported)
        if all(name.split(".")[0] == LIBRARY for name in pair) and pair[0] != pair[1]:
            for name in pair:
                assert name in LAYERS, f"{name} has no place in LAYERS of {Path(__file__).name}"
            if LAYERS.index(pair[0]) < LAYERS.index(pair[1]):
                wrong.append(f"{one}, which is a higher layer")
    return wrong


def private(found: list[Import]) -> list[str]:
    """Return the imports of a private module from outside its package; the studies of the kernels may look inside."""
    wrong = []
    for one in found:
        package, dot, _ = one.imported.partition("._")
        inside = one.importer == package or one.importer.startswith(f"{package}.")
        if dot and not inside and one.imported != "retainfirst._rust" and not one.importer.startswith(STUDIES):
            wrong.append(str(one))
    return wrong


def circles(found: list[Import]) -> list[str]:
    """Return a circle of imports for each module from which one leads back to it, each circle once."""
    after: dict[str, list[Import]] = {}
    for one in found:
        after.setdefault(one.importer, []).append(one)
    seen: dict[frozenset[str], str] = {}
    for start in after:
        paths = [[one] for one in after[start]]
        reached = set()
        while paths:
            path = paths.pop(0)
            last = path[-1].imported
            if last == start:
                seen.setdefault(frozenset(one.importer for one in path), "\n  ".join(map(str, path)))
                break
            if last not in reached:
                reached.add(last)
                paths += [[*path, one] for one in after.get(last, [])]
    return list(seen.values())


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(SOURCE)


def told(problems: list[str]) -> str:
    return "\n" + "\n".join(problems)


def test_the_library_never_imports_the_laboratory(found):
    problems = laboratory_in_library(found)
    assert not problems, told(problems)


def test_no_layer_imports_from_a_higher_one(found):
    problems = upward(found)
    assert not problems, told(problems)


def test_private_modules_are_imported_in_their_packages_only(found):
    problems = private(found)
    assert not problems, told(problems)


@pytest.mark.parametrize("package", [LIBRARY, LABORATORY])
def test_no_circles(found, package):
    problems = circles([one for one in found if one.importer.split(".")[0] == package])
    assert not problems, told(problems)


def test_every_module_has_a_layer():
    rooms = {room(name) for name in modules(SOURCE) if name.split(".")[0] == LIBRARY}
    assert not rooms - set(LAYERS), f"give a place in LAYERS: {rooms - set(LAYERS)}"
    assert not set(LAYERS) - rooms, f"take out of LAYERS: {set(LAYERS) - rooms}"


PLANTED = {
    "retainfirst/__init__.py": "from retainfirst.step import Step\n",
    "retainfirst/_rust.pyi": "",
    "retainfirst/errors.py": "",
    "retainfirst/kernels/__init__.py": "from retainfirst.kernels import _dispatch",
    "retainfirst/kernels/_dispatch.py": "from retainfirst import _rust\n",
    "retainfirst/step.py": "import retainfirst.errors\nfrom .kernels import run\nclass Step: ...\n",
    "retainfirst/cli/__init__.py": "def bench():\n    from retainfirst_lab.bench import main\n",
    "retainfirst_lab/__init__.py": "",
    "retainfirst_lab/bench.py": "from retainfirst.step import Step\n",
}


@pytest.fixture
def planted(tmp_path):
    """Write a library and a laboratory with nothing wrong in them, but for the files given; return their imports."""

    def write(changed: dict[str, str] | None = None) -> list[Import]:
        for name, text in (PLANTED | (changed or {})).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return imports(tmp_path)

    return write


def test_nothing_is_found_where_nothing_is_wrong(planted):
    found = planted()
    assert {(one.importer, one.imported) for one in found} == {
        ("retainfirst", "retainfirst.step"),
        ("retainfirst.kernels", "retainfirst.kernels._dispatch"),
        ("retainfirst.kernels._dispatch", "retainfirst._rust"),
        ("retainfirst.step", "retainfirst.errors"),
        ("retainfirst.step", "retainfirst.kernels"),
        ("retainfirst.cli", "retainfirst_lab.bench"),
        ("retainfirst_lab.bench", "retainfirst.step"),
    }
    assert laboratory_in_library(found) == upward(found) == private(found) == circles(found) == []


@pytest.mark.parametrize(
    "text",
    [
        "import retainfirst_lab\n",
        "def late():\n    from retainfirst_lab import bench\n",
        "class Late:\n    def run(self):\n        import retainfirst_lab.bench as bench\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from retainfirst_lab.bench import main\n",
    ],
)
def test_the_laboratory_in_the_library_is_found(planted, text):
    [problem] = laboratory_in_library(planted({"retainfirst/step.py": text}))
    assert problem.startswith("retainfirst/step.py:")
    assert "retainfirst.step imports retainfirst_lab" in problem


def test_the_laboratory_at_the_head_of_the_command_is_found(planted):
    [problem] = laboratory_in_library(planted({"retainfirst/cli/bench.py": "from retainfirst_lab.bench import main\n"}))
    assert problem == "retainfirst/cli/bench.py:1: retainfirst.cli.bench imports retainfirst_lab.bench"


@pytest.mark.parametrize("text", ["from ..step import Step\n", "def late():\n    from retainfirst import step\n"])
def test_an_import_from_a_higher_layer_is_found(planted, text):
    found = planted({"retainfirst/kernels/_eager.py": text})
    [problem] = upward(found)
    assert "retainfirst.kernels._eager imports retainfirst.step, which is a higher layer" in problem


@pytest.mark.parametrize("name", ["retainfirst/step.py", "retainfirst_lab/bench.py"])
def test_a_private_module_of_another_package_is_found(planted, name):
    [problem] = private(planted({name: "def late():\n    from retainfirst.kernels._dispatch import run\n"}))
    assert problem.startswith(f"{name}:2: ")
    assert "imports retainfirst.kernels._dispatch" in problem


def test_a_new_module_needs_a_place_among_the_layers(planted):
    with pytest.raises(AssertionError, match=r"retainfirst\.novel has no place in LAYERS"):
        upward(planted({"retainfirst/novel.py": "from retainfirst import errors\n"}))


def test_a_circle_is_found_once_with_all_its_imports(planted):
    found = planted(
        {
            "retainfirst/kernels/one.py": "from retainfirst.kernels import two\n",
            "retainfirst/kernels/two.py": "def late():\n    from retainfirst.kernels.three import x\n",
            "retainfirst/kernels/three.py": "import retainfirst.kernels.one\n",
        }
    )
    [problem] = circles(found)
    for number, following in (("one", "two"), ("two", "three"), ("three", "one")):
        assert f"retainfirst.kernels.{number} imports retainfirst.kernels.{following}" in problem
