"""What the rules cost on a GPU, beside copying memory and beside plain torch, and whether they give the CPU's bits.

Times are the device's own, between two events behind a spacer that lets the host run ahead, on buffers that take turns so that
none is in a cache. Bandwidth counts what a rule has to move (element-wise: two reads and a write an element; projections: two
passes, four reads and a write), as a share of what ``copy_`` of 2 GiB moves in the same round. Medians over the rounds.

    python -m retainfirst_lab.scripts.gpu [--output FILE] [--rounds 20] [--sections check,sync,...]

A section that fails prints its traceback, is named at the end, and the others go on. With ``TRITON_INTERPRET=1`` and ``--device
cpu --scale 1e-6 --rounds 1`` it runs without a GPU, to try the script itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import retainfirst as rf
from retainfirst import kernels
from retainfirst.kernels import _dispatch

GPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ELEMENTWISE = ("sum", "sago", "sago_keep_retain")
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ELEMENTWISE},
    "pcgrad": {"scope": "tensor"},
    "pcgrad global": {"scope": "global"},
    "pcgrad toward retain": {"scope": "tensor", "round_toward_retain": True},
    "blur": {"scope": "tensor"},
    "blur global": {"scope": "global"},
}
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
COUNT = 300  # small tensors in a list
COPY_BYTES = 2 * 2**30
POOL_BYTES = 2**29  # ten times the largest cache
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
SPACER = 4_000_000  # cycles, about 2 ms: longer than the host takes for one combination of a few tensors

device = torch.device("cuda")
rounds = 20
scale = 1.0


def main() -> None:
    global device, rounds, scale
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes")
    arguments = parser.parse_args()
    device, rounds, scale = torch.device(arguments.device), arguments.rounds, arguments.scale
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds, "failed": []}
    for name in arguments.sections.split(","):
        started = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            report[name] = SECTIONS[name]()
        except Exception:
            traceback.print_exc()
            report["failed"].append(name)
        report.setdefault("seconds", {})[name] = time.perf_counter() - started
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.empty_cache()
        if arguments.output:
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


def machine() -> dict[str, Any]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device)}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, "l2_bytes": getattr(properties, "L2_cache_size", None)}
        found["driver_cuda"] = torch.version.cuda
    return found


# Checks


def check() -> list[dict[str, Any]]:
    """Every rule, dtype and scope, against the CPU; the kernel for projections also with equal coefficients."""
    rows = []
    for dtype, (name, options) in itertools.product((*GPU_DTYPES, torch.float64), CASES.items()):
        rule = combiner(name, options)
        sets = [mixed_tensors(dtype), *([special_tensors(dtype)] if name in ELEMENTWISE else [])]
        updates: list[list[Tensor]] = []
        geometries = []
        for where in (torch.device("cpu"), device):
            updates.append([])
            for i, (forget, retain) in enumerate(sets):
                f, r = ([unalign(x.to(where), j) for j, x in enumerate(xs)] for xs in (forget, retain))
                geometry = rule.combine_(f, r)
                updates[-1] += [x.cpu() for x in r]
                if i == 0:
                    geometries.append(geometry.as_dict())
        row = {"rule": name, "dtype": str(dtype)[6:]} | compare(*updates)
        row["geometry_error"] = max(abs(geometries[0][k] - v) / abs(v or 1.0) for k, v in geometries[1].items())
        row["backend"] = _dispatch._kernels("auto", f[0], r[0]).__name__.rpartition(".")[2]
        row["must_be_equal"] = name in ELEMENTWISE
        rows.append(row)
    for dtype in GPU_DTYPES:
        forget, retain = mixed_tensors(dtype)
        coefficients = torch.randn(2, len(retain), dtype=torch.float64)
        results = []
        for where in (torch.device("cpu"), device, device):
            f, r = [x.to(where) for x in forget], [x.to(where).clone() for x in retain]
            table = kernels.linear_(f, r, *coefficients.to(where))
            results.append(([x.cpu() for x in r], table.cpu()))
        row = compare(results[0][0], results[1][0])
        row["same_sums_twice"] = torch.equal(results[1][1], results[2][1])
        rows.append({"rule": "linear_, equal coefficients", "dtype": str(dtype)[6:]} | row | {"must_be_equal": True})
    return rows


def mixed_tensors(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """40 pairs of sizes of all kinds, a third of them tiny gradients."""
    sizes = [0, 1, 2, 7, 15, 16, 17, 2047, 2048, 2049, 32767, 32768, 32769]
    sizes += [int(x) for x in torch.randint(1, 200_000, (40 - len(sizes),))]
    sizes = [max(1, int(n * scale)) if scale < 1 and n > 3000 else n for n in sizes]
    forget, retain = ([torch.randn(n, dtype=torch.float64) for n in sizes] for _ in range(2))
    for i in range(0, 40, 3):
        smallest = 1e-6 if dtype == torch.float16 else 1e-25
        forget[i], retain[i] = forget[i] * smallest, retain[i] * smallest
    return [x.to(dtype) for x in forget], [x.to(dtype) for x in retain]


def special_tensors(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Every pair of special values."""
    info = torch.finfo(dtype)
    values = [0.0, 1.0, info.max, info.tiny, info.tiny * info.eps, float("inf"), float("nan")]
    special = torch.tensor(values + [-x for x in values], dtype=torch.float64).to(dtype)
    return [special.repeat(len(special))], [special.repeat_interleave(len(special))]


def unalign(x: Tensor, i: int) -> Tensor:
    """Copy; every fourth tensor to one element past an aligned address."""
    return torch.cat([x.new_zeros(1), x])[1:] if i % 4 == 3 else x.clone()


def compare(expected: list[Tensor], found: list[Tensor]) -> dict[str, Any]:
    """Count elements whose bits differ (all NaN are one), and the largest distance in units in the last place."""
    differing, most, total, first = 0, 0, 0, None
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        total += a.numel()
        kind = BITS[a.dtype]
        bad = (a.view(kind) != b.view(kind)) & ~(a.isnan() & b.isnan())
        if bad.any():
            place = int(bad.nonzero()[0])
            first = first or f"tensor {i}, element {place}: {b[place].item()!r}, should be {a[place].item()!r}"
            differing += int(bad.sum())
            distance = ordered(a[bad]) - ordered(b[bad])
            most = max(most, int(distance.abs().max()))
    return {"elements": total, "differing": differing, "most_ulp": most, "first": first}


def ordered(x: Tensor) -> Tensor:
    bits = x.view(BITS[x.dtype]).long()
    return torch.where(bits < 0, -(bits & (2 ** (torch.finfo(x.dtype).bits - 1) - 1)), bits)


def sync() -> dict[str, Any]:
    """No rule may wait for the device."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)]).to(device, torch.bfloat16)
    found: dict[str, Any] = {}
    for name, options in (CASES | {"pcgrad module": {"scope": "module"}, "pcgrad block": {"scope": "block"}}).items():
        step = rf.TwoTaskStep(model, combiner(name, options))
        for attempt in range(2):
            x = torch.randn(8, 64, device=device, dtype=torch.bfloat16)
            with step.forget():
                (-model(x).square().mean()).backward()
            with step.retain():
                model(x + 1).square().mean().backward()
            if attempt and device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            try:
                step.combine()
                found[name] = "no wait"
            except Exception:
                traceback.print_exc()
                found[name] = "waits"
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            model.zero_grad()
    return found


def huge() -> dict[str, Any]:
    """One tensor of more elements than an int32 counts."""
    n = int((2**31 + 5000) * scale)
    f = torch.randn(n, device=device, dtype=torch.bfloat16)
    r = torch.randn(n, device=device, dtype=torch.bfloat16)
    parts = [slice(0, n // 20), slice(n - n // 20, n)]
    before = [(f[part].clone(), r[part].clone()) for part in parts]
    geometry = rf.SAGO(0.3, 0.7).combine_([f], [r])
    found = {
        f"part {i}": compare([slow_sago(*pair, 0.3, 0.7)], [r[part]])
        for i, (pair, part) in enumerate(zip(before, parts, strict=True))
    }
    found["norm_forget_relative_error"] = abs(geometry.norm_forget / n**0.5 - 1)
    return found


# Times


def rules() -> list[dict[str, Any]]:
    rows = []
    for dtype in GPU_DTYPES:
        pool = Pool(dtype, int(SIZES[-1] * scale))
        copy = copier()
        for size in SIZES:
            n = sized(size)
            calls = {name: call_on(pool, n, combiner(name, CASES[name])) for name in (*ELEMENTWISE, "pcgrad", "blur")}
            for name, result in measure(calls, copy).items():
                accesses = 3 if name in ELEMENTWISE else 5
                rows.append(
                    {"rule": name, "dtype": str(dtype)[6:], "n": n} | bandwidth(result, accesses * n * pool.itemsize)
                )
        del pool, copy, calls
    return rows


def peers() -> list[dict[str, Any]]:
    """SAGO of 100 million elements in plain torch."""
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        n = sized(10**8)
        pool, copy = Pool(dtype, 4 * n), copier()
        rule = rf.SAGO(0.5, 0.5)

        def eager(pool: Pool = pool, rule: rf.SAGO = rule, n: int = n) -> None:
            with kernels.use_backend("eager"):
                rule.combine_(*pool.next(n))

        calls = {
            "fused": call_on(pool, n, rule),
            "this library's eager backend": eager,
            "torch.where": lambda pool=pool, n=n: [
                where_sago(f, r, 0.5, 0.5) for f, r in zip(*pool.next(n), strict=True)
            ],
            "boolean masks": lambda pool=pool, n=n: [
                masked_sago(f, r, 0.5, 0.5) for f, r in zip(*pool.next(n), strict=True)
            ],
        }
        for name, result in measure(calls, copy).items():
            row = {"peer": name, "dtype": str(dtype)[6:], "n": n} | bandwidth(result, 3 * n * pool.itemsize)
            rows.append(row)
        fused = rows[-len(calls)]["seconds"]
        for row in rows[-len(calls) :]:
            row["times_fused"] = row["seconds"] / fused
        del pool, copy, calls, eager
    return rows


def where_sago(f: Tensor, r: Tensor, alpha: float, gamma: float) -> None:
    r.copy_(torch.where(torch.sign(f) * torch.sign(r) < 0, alpha * r, gamma * f))


def masked_sago(f: Tensor, r: Tensor, alpha: float, gamma: float) -> None:
    conflict = torch.sign(f) * torch.sign(r) < 0
    update = torch.zeros_like(r)
    update[conflict] = alpha * r[conflict]
    update[~conflict] = gamma * f[~conflict]
    r.copy_(update)


def slow_sago(f: Tensor, r: Tensor, alpha: float, gamma: float) -> Tensor:
    f, r, dtype = f.float(), r.float(), r.dtype
    return torch.where(torch.sign(f) * torch.sign(r) < 0, alpha * r, gamma * f).to(dtype)


def many() -> list[dict[str, Any]]:
    """A list of many small tensors beside one flat tensor of as many elements."""
    rows = []
    generator = torch.Generator().manual_seed(1)
    exponents = torch.rand(COUNT, generator=generator) * 2 + 3
    sizes = [sized(int(x)) for x in 10**exponents]
    lists = {"tensors of any size": sizes, "tensors of multiples of 16": [-(-n // 16) * 16 for n in sizes]}
    for dtype, (name, options) in itertools.product(
        (torch.bfloat16, torch.float32), (("sago", {}), ("pcgrad", {}), ("pcgrad", {"scope": "global"}))
    ):
        rule = combiner(name, options)
        pool, copy = Pool(dtype, POOL_BYTES // 4), copier()
        calls: dict[str, Callable[[], Any]] = {"flat": call_on(pool, sum(lists["tensors of multiples of 16"]), rule)}
        for kind, wanted in lists.items():
            separate = [
                ([x.clone() for x in f], [x.clone() for x in r]) for f, r in (pool.split(wanted) for _ in range(8))
            ]
            turns = itertools.cycle(separate)
            calls[kind] = lambda turns=turns, rule=rule: rule.combine_(*next(turns))
        accesses = (3 if name in ELEMENTWISE else 5) * pool.itemsize
        for kind, result in measure(calls, copy, spacer=4 * SPACER).items():
            row = {
                "what": kind,
                "rule": f"{name} {options.get('scope', '')}".strip(),
                "dtype": str(dtype)[6:],
                "elements": sum(sizes),
            }
            rows.append(row | bandwidth(result, accesses * sum(sizes)))
    return rows


def wide() -> list[dict[str, Any]]:
    """The dtype of the sums within a program."""
    import triton.language as tl

    return with_launches({str(kind): {"wide": kind} for kind in (tl.float64, tl.float32)}, GPU_DTYPES)


def launch() -> list[dict[str, Any]]:
    """How the work is cut up."""
    choices = {f"block {b}, steps {s}, warps {w}": {"block": b, "steps": s, "warps": w} for b, s, w in LAUNCHES}
    return with_launches(choices, (torch.bfloat16, torch.float32))


def with_launches(choices: dict[str, dict[str, Any]], dtypes: tuple[torch.dtype, ...]) -> list[dict[str, Any]]:
    from retainfirst.kernels import _triton

    rows = []
    for dtype in dtypes:
        usual = _triton.WIDE if dtype == torch.float32 else _triton.NARROW_LARGE
        n = sized(4 * 10**8)
        pool, copy = Pool(dtype, n), copier()
        for name in ("sago", "pcgrad"):
            rule = combiner(name, {})
            calls = {}
            for label, change in choices.items():
                shape = dataclasses.replace(usual, **change)

                def call(shape: Any = shape, rule: rf.Combiner = rule, pool: Pool = pool, n: int = n) -> None:
                    _triton.LAUNCH = shape
                    try:
                        rule.combine_(*pool.next(n))
                    finally:
                        _triton.LAUNCH = None

                calls[label] = call
            accesses = (3 if name in ELEMENTWISE else 5) * pool.itemsize
            for label, result in measure(calls, copy).items():
                rows.append(
                    {"choice": label, "rule": name, "dtype": str(dtype)[6:], "n": n} | bandwidth(result, accesses * n)
                )
        del pool, copy
    return rows


def host() -> list[dict[str, Any]]:
    """The time until a call returns, the device being idle before; and until the device is done as well."""
    rows = []
    for count, (name, options) in itertools.product((1, COUNT), CASES.items()):
        f, r = (
            [torch.randn(sized(20_000), device=device, dtype=torch.bfloat16) for _ in range(count)] for _ in range(2)
        )
        rule = combiner(name, options)
        returned, done = [], []
        for attempt in range(rounds + 2):
            wait()
            start = time.perf_counter()
            rule.combine_(f, r)
            middle = time.perf_counter()
            wait()
            if attempt >= 2:
                returned.append(middle - start)
                done.append(time.perf_counter() - start)
        rows.append(
            {
                "tensors": count,
                "rule": name,
                "returns_us": 1e6 * statistics.median(returned),
                "done_us": 1e6 * statistics.median(done),
            }
        )
    from retainfirst.kernels import _triton

    start = time.perf_counter()
    for _ in range(20):
        _triton._plan(f, r, 32768)
    rows.append(
        {
            "tensors": 300,
            "rule": "table of addresses alone",
            "returns_us": 1e6 * (time.perf_counter() - start) / 20,
            "done_us": 0.0,
        }
    )
    return rows


class Pool:
    """Gradients larger than the cache, given out in turns."""

    def __init__(self, dtype: torch.dtype, n: int) -> None:
        self.itemsize = torch.finfo(dtype).bits // 8
        n = max(n, int(POOL_BYTES * min(scale * 10, 1.0)) // self.itemsize)
        self.pair = [torch.empty(n, device=device, dtype=dtype).normal_() for _ in range(2)]
        self.at, self.size = 0, n

    def next(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        step = -(-n // 64) * 64
        if self.at + n > self.size:
            self.at = 0
        part = slice(self.at, self.at + n)
        self.at += step
        return [self.pair[0][part]], [self.pair[1][part]]

    def split(self, sizes: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        [f], [r] = self.next(sum(sizes))
        return list(f.split(sizes)), list(r.split(sizes))


def call_on(pool: Pool, n: int, rule: rf.Combiner) -> Callable[[], Any]:
    return lambda: rule.combine_(*pool.next(n))


def copier() -> tuple[Callable[[], Any], int]:
    """Return a copy and the bytes that it moves."""
    n = int(COPY_BYTES * min(scale, 1.0))
    source, target = (torch.empty(n, device=device, dtype=torch.uint8).fill_(i) for i in range(2))
    return lambda: target.copy_(source), 2 * n


def measure(
    calls: dict[str, Callable[[], Any]], copy: tuple[Callable[[], Any], int], spacer: int = SPACER
) -> dict[str, dict[str, Any]]:
    """Time calls and the copy, round by round in alternating order."""
    copying, copied = copy
    everything = {"copy": copying} | calls
    for call in everything.values():
        call()
        call()
    wait()
    times: dict[str, list[float]] = {name: [] for name in everything}
    for i in range(rounds):
        order = list(everything) if i % 2 == 0 else list(everything)[::-1]
        ends = {name: timed(everything[name], spacer) for name in order}
        wait()
        for name, end in ends.items():
            times[name].append(end())
    speeds = [copied / t for t in times["copy"]]
    return {name: {"times": times[name], "copy_speeds": speeds} for name in calls}


def timed(call: Callable[[], Any], spacer: int) -> Callable[[], float]:
    """Run a call; return the function that gives its seconds once the device is done."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        return lambda: taken
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(spacer)
    first.record()
    call()
    last.record()
    return lambda: first.elapsed_time(last) / 1e3


def bandwidth(result: dict[str, Any], moved: float) -> dict[str, Any]:
    shares = [moved / t / speed for t, speed in zip(result["times"], result["copy_speeds"], strict=True)]
    seconds = statistics.median(result["times"])
    return {
        "seconds": seconds,
        "bytes_per_second": moved / seconds,
        "copy_bytes_per_second": statistics.median(result["copy_speeds"]),
        "share_of_copy": statistics.median(shares),
        "least_share": min(shares),
        "greatest_share": max(shares),
    }


def combiner(name: str, options: dict[str, Any]) -> rf.Combiner:
    """Equal weights of a half, so that repeated updates stay in the range of float16."""
    return rf.make_combiner(name.split()[0], alpha=0.5, gamma=0.5, **options)


def sized(n: int) -> int:
    return max(16, int(n * scale) // 16 * 16) if n % 16 == 0 else max(1, int(n * scale))


def wait() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


SECTIONS: dict[str, Callable[[], Any]] = {
    "check": check,
    "sync": sync,
    "huge": huge,
    "rules": rules,
    "peers": peers,
    "list": many,
    "wide": wide,
    "host": host,
    "launch": launch,
}


def show(report: dict[str, Any]) -> None:
    console = Console(width=150)
    for name in SECTIONS:
        rows = report.get(name)
        if isinstance(rows, dict):
            rows = [{"what": key, "found": value} for key, value in rows.items()]
        if not rows:
            continue
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table(*columns, title=name, pad_edge=False)
        for row in rows:
            table.add_row(*(cell(key, row.get(key)) for key in columns))
        console.print(table)
    console.print(report["machine"], {k: round(v, 1) for k, v in report["seconds"].items()})
    wrong = [row for row in report.get("check", []) if row["differing"] and row["must_be_equal"]]
    console.print(
        f"bits that differ and must not: {len(wrong)} rows; sections that failed: {report['failed'] or 'none'}"
    )


def cell(key: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if key.endswith("bytes_per_second"):
        return f"{value / 1e9:,.0f} GB/s"
    return f"{1e6 * value:,.1f} us" if key == "seconds" else f"{value:.3g}"


if __name__ == "__main__":
    main()
