"""Valgrind watches the binding make slices of addresses and lengths; run by ``make test-memory``.

The arrays are allocations of just their size. The interpreter and its libraries give valgrind much to report: only what has the
module in its stack counts. Torch is left out, which valgrind would take minutes to load.
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
    """Without arguments: require that the module is clean, and that one element too many is found."""
    if len(sys.argv) > 1:
        call_everything(load(), too_many=int(sys.argv[1]))
        return
    errors = errors_in_module(too_many=0)
    if errors:
        sys.exit("\n\n".join(errors[:5]) + f"\n\n{len(errors)} kinds of invalid access in retainfirst._rust")
    if not errors_in_module(too_many=1):
        sys.exit("Lengths were one too large, and valgrind saw nothing: this check is worth nothing here.")
    print("No invalid access in retainfirst._rust; lengths that are one too large were found.")


def module_path() -> Path:
    package = find_spec("retainfirst")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("_rust.*.so"))


def load() -> ModuleType:
    """Import the module without the package, and so without torch."""
    import numpy  # noqa: F401 - here, not when the module first needs it: then its import would be in the module's stack

    spec = spec_from_file_location("_rust", module_path())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_everything(rust: ModuleType, too_many: int) -> None:
    """Call each function that takes addresses, with two tensors of each length up to two more than are worked on at once."""
    weights = 1.0, 0.5
    for dtype, size in SIZES.items():
        for n in range(35):
            forget, retain = (allocate(n * size), allocate(0)), (allocate(n * size), allocate(0))
            memory = dtype, list(forget), list(retain), [n + too_many, 0]
            rust.moments(*memory)
            for rule in ("sum", "sago", "sago_keep_retain"):
                rust.elementwise_(rule, *memory, *weights)
                rust.update_alone_(rule, *memory, *weights)
            for toward_retain in (False, True):
                rust.linear_(*memory, [1.0, 1.0], [0.5, 0.5], toward_retain)
            rust.limit_(*memory, *weights)
            for address in forget + retain:
                libc.free(address)


libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def allocate(nbytes: int) -> int:
    """The address of so many bytes, all 0x11: small numbers in every dtype."""
    address: int = libc.malloc(nbytes)
    ctypes.memset(address, 0x11, nbytes)
    return address


def errors_in_module(too_many: int) -> list[str]:
    """What valgrind reports with the module in its stack, in words and functions."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["valgrind", "--quiet", "--num-callers=40", "--xml=yes", f"--xml-file={report}"]
        # One thread, and an allocation a Python object, as valgrind needs it.
        environment = os.environ | {"PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run([*command, sys.executable, __file__, str(too_many)], check=not too_many, env=environment)
        found = ET.parse(report).getroot().findall("error")
    errors = []
    for error in found:
        kind, frames = error.findtext("kind", ""), error.findall("stack/frame")
        inside = any(Path(frame.findtext("obj", "")).name == module_path().name for frame in frames)
        # An interpreter that ends gives little of its memory back.
        if inside and not kind.startswith("Leak_"):
            errors.append("\n  ".join([kind, *(frame.findtext("fn", "?") for frame in frames)]))
    return errors


if __name__ == "__main__":
    main()
