"""Times of the combiners on a GPU."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

import retainfirst as rf
from retainfirst import kernels
from retainfirst_lab.bench.peers import Peer, sago_mask, sago_where
from retainfirst_lab.bench.timing import LEAD, Case, Sample, clock_for, rounds_of, spread
from retainfirst_lab.studies.gpu_setting import CASES, COUNT, DTYPES, ELEMENTWISE, Setting, dtype_name, make

__all__ = ["combiners", "host", "launch", "many", "peers", "wide"]

SIZES = (10**5, 10**6, 10**7, 10**8, 10**9)
LAUNCHES = (
    (512, 64, 2),
    (1024, 32, 4),
    (1024, 64, 4),
    (1024, 128, 4),
    (2048, 16, 8),
    (2048, 32, 8),
    (2048, 64, 8),
    (4096, 16, 8),
)
COPY_BYTES = 2 * 2**30
POOL_BYTES = 2**29  # ten times the largest cache

Row = dict[str, Any]
Call = Callable[[], object]


class _Pool:
    """Gradients larger than the cache; consecutive calls get different parts of them."""

    def __init__(self, setting: Setting, dtype: torch.dtype, n: int) -> None:
        self.itemsize = torch.finfo(dtype).bits // 8
        n = max(n, int(POOL_BYTES * min(setting.scale * 10, 1.0)) // self.itemsize)
        self._forget, self._retain = (torch.empty(n, device=setting.device, dtype=dtype).normal_() for _ in range(2))
        self._at, self._size = 0, n

    def next(self, n: int) -> tuple[Tensor, Tensor]:
        """Return a pair of ``n`` elements."""
        if self._at + n > self._size:
            self._at = 0
        part = slice(self._at, self._at + n)
        self._at += -(-n // 64) * 64
        return self._forget[part], self._retain[part]

    def combine(self, combiner: rf.Combiner, n: int) -> None:
        """Combine a pair of ``n`` elements."""
        forget, retain = self.next(n)
        combiner.combine_([forget], [retain])


def combiners(setting: Setting) -> list[Row]:
    """Time the combiners by size and dtype."""
    rows = []
    for dtype in DTYPES:
        pool = _Pool(setting, dtype, int(SIZES[-1] * setting.scale))
        for size in SIZES:
            n = setting.sized(size)
            names = (*ELEMENTWISE, "pcgrad", "blur")
            calls = {name: partial(pool.combine, make(name), n) for name in names}
            moved = {name: _accesses(name) * n * pool.itemsize for name in names}
            found = _measure(setting, calls, moved)
            rows += [{"combiner": name, "dtype": dtype_name(dtype), "n": n, **row} for name, row in found.items()]
        del pool, calls
    return rows


def peers(setting: Setting) -> list[Row]:
    """Time SAGO of 100 million elements, and plain torch."""
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        n = setting.sized(10**8)
        pool, combiner = _Pool(setting, dtype, 4 * n), make("sago")

        def eager(pool: _Pool = pool, combiner: rf.Combiner = combiner, n: int = n) -> None:
            with kernels.use_backend("eager"):
                pool.combine(combiner, n)

        def in_place(peer: Peer, pool: _Pool = pool, n: int = n) -> None:
            forget, retain = pool.next(n)
            retain.copy_(peer(forget, retain))

        calls: dict[str, Call] = {
            "fused": partial(pool.combine, combiner, n),
            "this library's eager backend": eager,
            "torch.where": partial(in_place, sago_where),
            "boolean masks": partial(in_place, sago_mask),
        }
        found = _measure(setting, calls, dict.fromkeys(calls, 3 * n * pool.itemsize))
        for name, row in found.items():
            ratio = row["seconds"] / found["fused"]["seconds"]
            rows.append({"peer": name, "dtype": dtype_name(dtype), "n": n, **row, "times_fused": ratio})
        del pool, calls, eager, in_place
    return rows


def many(setting: Setting) -> list[Row]:
    """Time a list of many small tensors, and one flat tensor of as many elements."""
    rows = []
    exponents = torch.rand(COUNT, generator=torch.Generator().manual_seed(1)) * 2 + 3
    sizes = [setting.sized(int(x)) for x in 10**exponents]
    lists = {"tensors of any size": sizes, "tensors of multiples of 16": [-(-n // 16) * 16 for n in sizes]}
    for dtype, name in itertools.product((torch.bfloat16, torch.float32), ("sago", "pcgrad", "pcgrad global")):
        combiner, pool = make(name), _Pool(setting, dtype, POOL_BYTES // 4)
        calls: dict[str, Call] = {"flat": partial(pool.combine, combiner, sum(lists["tensors of multiples of 16"]))}
        for kind, wanted in lists.items():
            turns = itertools.cycle([_copies(pool.next(sum(wanted)), wanted) for _ in range(8)])
            calls[kind] = partial(_combine_next, combiner, turns)
        moved = dict.fromkeys(calls, _accesses(name) * sum(sizes) * pool.itemsize)
        for kind, row in _measure(setting, calls, moved, lead=4 * LEAD).items():
            rows.append({"what": kind, "combiner": name, "dtype": dtype_name(dtype), "elements": sum(sizes), **row})
    return rows


def _copies(pair: tuple[Tensor, Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    return [[part.clone() for part in torch.split(x, list(sizes))] for x in pair]


def _combine_next(combiner: rf.Combiner, turns: Iterator[list[list[Tensor]]]) -> None:
    forget, retain = next(turns)
    combiner.combine_(forget, retain)


def wide(setting: Setting) -> list[Row]:
    """Time the two dtypes of the sums within a program."""
    import triton.language as tl

    return _with_launches(setting, {str(kind): {"wide": kind} for kind in (tl.float64, tl.float32)}, DTYPES)


def launch(setting: Setting) -> list[Row]:
    """Time different launch parameters."""
    choices = {f"block {b}, steps {s}, warps {w}": {"block": b, "steps": s, "warps": w} for b, s, w in LAUNCHES}
    return _with_launches(setting, choices, (torch.bfloat16, torch.float32))


def _with_launches(
    setting: Setting, choices: Mapping[str, Mapping[str, Any]], dtypes: Sequence[torch.dtype]
) -> list[Row]:
    from retainfirst.kernels import _triton

    rows = []
    for dtype in dtypes:
        default = _triton.WIDE if dtype == torch.float32 else _triton.NARROW_LARGE
        n = setting.sized(4 * 10**8)
        pool = _Pool(setting, dtype, n)
        for name in ("sago", "pcgrad"):
            combiner = make(name)

            def call(shape: Any, combiner: rf.Combiner = combiner, pool: _Pool = pool, n: int = n) -> None:
                _triton.LAUNCH = shape
                try:
                    pool.combine(combiner, n)
                finally:
                    _triton.LAUNCH = None

            calls = {
                label: partial(call, dataclasses.replace(default, **changes)) for label, changes in choices.items()
            }
            found = _measure(setting, calls, dict.fromkeys(calls, _accesses(name) * n * pool.itemsize))
            rows += [
                {"choice": label, "combiner": name, "dtype": dtype_name(dtype), "n": n, **row}
                for label, row in found.items()
            ]
        del pool, calls, call
    return rows


def host(setting: Setting) -> list[Row]:
    """Time a call until it returns, and until the GPU is done; the GPU is idle before."""
    from retainfirst.kernels import _triton

    rows = []
    for count, name in itertools.product((1, COUNT), CASES):
        f, r = (
            [torch.randn(setting.sized(20_000), device=setting.device, dtype=torch.bfloat16) for _ in range(count)]
            for _ in range(2)
        )
        combiner = make(name)
        returned, done = [], []
        for attempt in range(setting.rounds + 2):
            setting.wait()
            start = time.perf_counter()
            combiner.combine_(f, r)
            middle = time.perf_counter()
            setting.wait()
            if attempt >= 2:
                returned.append(middle - start)
                done.append(time.perf_counter() - start)
        rows.append(
            {"tensors": count, "combiner": name, "returns_us": 1e6 * median(returned), "done_us": 1e6 * median(done)}
        )
    start = time.perf_counter()
    for _ in range(20):
        _triton._table([f, r], 32768)
    alone = 1e6 * (time.perf_counter() - start) / 20
    return [*rows, {"tensors": COUNT, "combiner": "table of addresses alone", "returns_us": alone, "done_us": 0.0}]


def _accesses(name: str) -> int:
    """Reads and writes per element."""
    return 3 if name in ELEMENTWISE else 5


def _measure(setting: Setting, calls: Mapping[str, Call], moved: Mapping[str, int], lead: int = LEAD) -> dict[str, Row]:
    """Time calls and a large copy in turns; return seconds, and the bandwidth as a share of the copy's."""
    n = int(COPY_BYTES * min(setting.scale, 1.0))
    source, target = (torch.empty(n, device=setting.device, dtype=torch.uint8).fill_(i) for i in range(2))
    cases = {name: Case(call) for name, call in calls.items()} | {"copy": Case(lambda: target.copy_(source))}
    clock = clock_for(setting.device.type, lead)
    samples = rounds_of(cases, setting.rounds, clock)
    return {
        name: _bandwidth(samples[name], moved[name], [2 * n / one.wall for one in samples["copy"]]) for name in calls
    }


def _bandwidth(samples: Sequence[Sample], moved: int, copy_speeds: Sequence[float]) -> Row:
    seconds = median(one.wall for one in samples)
    shares = spread([moved / one.wall / speed for one, speed in zip(samples, copy_speeds, strict=True)])
    return {
        "seconds": seconds,
        "bytes_per_second": moved / seconds,
        "copy_bytes_per_second": median(copy_speeds),
        "share_of_copy": shares["median"],
        "least_share": shares["least"],
        "greatest_share": shares["greatest"],
    }
