"""A check of the binding under valgrind, which makes slices of addresses and lengths; run by ``make test-memory``.

Every array is an allocation of exactly its size. Only errors with the module in their stack count, since valgrind reports many
in the interpreter. Torch is not imported, which would take minutes under valgrind.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def main() -> None:
    """Require that valgrind finds no error in the module, and that it finds lengths that are one too large."""
    if len(sys.argv) > 1:
        call_everything(load(), too_many=int(sys.argv[1]))
        return
    errors = errors_in_module(too_many=0)
    if errors:
        sys.exit("\n\n".join(errors[:5]) + f"\n\n{len(errors)} kinds of invalid access in retainfirst._rust")
    if not errors_in_module(too_many=1):
        sys.exit("Valgrind did not find lengths that are one too large: it cannot check the module on this machine.")
    print("No invalid access in retainfirst._rust; lengths that are one too large were found.")


def module_path() -> Path:
    package = find_spec("retainfirst")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("_rust.*.so"))


def load() -> ModuleType:
    """Import the module without the package, which imports torch."""
    import numpy  # noqa: F401 - now, since a first import by the module would have the module in its stack

    spec = spec_from_file_location("_rust", module_path())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_everything(rust: ModuleType, too_many: int) -> None:
    """Call each function that takes addresses, with tensors of each length up to two more than a step of its loops."""
    weights = 1.0, 0.5
    for dtype, size in SIZES.items():
        for n in range(35):
            forget, retain = (allocate(n * size), allocate(0)), (allocate(n * size), allocate(0))
            memory = dtype, list(forget), list(retain), [n + too_many, 0]
            rust.moments(*memory)
            for combiner in ("sum", "sago", "sago_keep_retain"):
                rust.elementwise_(combiner, *memory, *weights)
                rust.elementwise_(combiner, *memory, *weights, False)
            for toward_retain in (False, True):
                rust.linear_(*memory, [1.0, 1.0], [0.5, 0.5], toward_retain)
            rust.baseline_(*memory, *weights)
            before, signs = (allocate(n * size), allocate(0)), (allocate(n * size), allocate(0))
            step = dtype, list(before), list(retain), [n + too_many, 0]
            for zeros in (False, True):
                rust.guard_(*step, list(signs), zeros, [], [])
                rust.guard_(*step, list(signs), zeros, list(forget), list(signs))
            rust.guard_(*step, [], False, list(forget), list(signs))
            for address in forget + retain + before + signs:
                libc.free(address)


libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def allocate(nbytes: int) -> int:
    """Return the address of new memory, filled with 0x11: small numbers in every dtype."""
    address: int = libc.malloc(nbytes)
    ctypes.memset(address, 0x11, nbytes)
    return address


def errors_in_module(too_many: int) -> list[str]:
    """Run the calls under valgrind, and return its errors in the module: their kind and functions."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["valgrind", "--quiet", "--num-callers=40", "--xml=yes", f"--xml-file={report}"]
        # Valgrind needs one allocation for each Python object.
        environment = os.environ | {"PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run([*command, sys.executable, __file__, str(too_many)], check=not too_many, env=environment)
        found = ET.parse(report).getroot().findall("error")
    errors = []
    for error in found:
        kind, frames = error.findtext("kind", ""), error.findall("stack/frame")
        inside = any(Path(frame.findtext("obj", "")).name == module_path().name for frame in frames)
        # The interpreter does not free all memory at its end.
        if inside and not kind.startswith("Leak_"):
            errors.append("\n  ".join([kind, *(frame.findtext("fn", "?") for frame in frames)]))
    return errors


if __name__ == "__main__":
    main()
