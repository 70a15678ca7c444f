"""The time to combine gradients, compared with memory traffic, with parts of the work, and with other implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retainfirst import _rust, kernels
from retainfirst.combiners import make_combiner
from retainfirst.errors import RetainFirstError, did_you_mean
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.peers import GAMMA, peers_for, plain_addition
from retainfirst_lab.bench.timing import Case, Sample, clock_for, ratios, rounds_of, spread

__all__ = ["COMBINERS", "DTYPES", "Plan", "measure"]

COMBINERS = ("sum", "pcgrad", "sago", "sago_keep_retain", "blur")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROJECTIONS, ELEMENTWISE = ("pcgrad", "blur"), ("sum", "sago", "sago_keep_retain")
# Arrays in memory: forget, retain and a copy of retain; and the temporaries of the peers.
_ARRAYS, _PEERS_ARRAYS = 3, 7
_MANY, _SMALLEST, _LARGEST = 300, 1_000, 100_000

Tick = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """The cases to measure.

    Attributes:
        sizes: Numbers of elements.
        dtypes: Keys of :data:`DTYPES`.
        threads: Numbers of threads, each measured; a GPU uses the first only.
        rounds: Rounds of each case; slow cases get fewer.
        patience: Seconds after which a case is left out of the rounds that follow.
        peers: Measure other implementations too, with the first number of threads. They take most of the time.
        device: ``"cpu"`` or ``"cuda"``.
    """

    sizes: Sequence[int] = tuple(10**k for k in range(3, 9))
    dtypes: Sequence[str] = tuple(DTYPES)
    threads: Sequence[int] = (1, 2)
    rounds: int = 15
    patience: float = 2.0
    peers: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        machine.check_device(self.device)
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise RetainFirstError(f"Unknown dtype {dtype!r}. {did_you_mean(dtype, DTYPES)}")
        for name in ("sizes", "dtypes", "threads"):
            if not getattr(self, name):
                raise RetainFirstError(f"{name}: none given")
        if min(*self.sizes, *self.threads, self.rounds) < 1:
            raise RetainFirstError("Sizes, threads and rounds must be 1 or more")
        arrays = _ARRAYS + (_PEERS_ARRAYS if self.peers else 0)
        needed = max(self.sizes) * arrays * max(DTYPES[dtype].itemsize for dtype in self.dtypes)
        machine.check_room(f"{max(self.sizes):,} elements", needed, self.device)

    @property
    def steps(self) -> int:
        """The number of calls of ``tick``."""
        return self.rounds * (len(self.sizes) + 1) * len(self.dtypes) * len(self._used_threads)

    @property
    def _used_threads(self) -> Sequence[int]:
        return self.threads if self.device == "cpu" else self.threads[:1]


def measure(plan: Plan, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return the report.

    Args:
        plan: The cases.
        tick: Called with the name of the running case, :attr:`Plan.steps` times.
    """
    rows: list[dict[str, Any]] = []
    bandwidth, many = [], []
    for count in plan._used_threads:
        with machine.threads(count):
            for name in plan.dtypes:
                forget, kept = _gradients(max(plan.sizes), name, plan.device)
                retain = kept.clone()
                for n in sorted(plan.sizes):
                    cases = _cases(forget[:n], retain[:n], kept[:n], plan, plan.peers and count == plan.threads[0])
                    label = f"{name}, {n:.0e} elements, {count} thread(s)"
                    samples = _run(cases, plan, lambda label=label: tick(label))  # type: ignore[misc]
                    about = {"threads": count, "dtype": name, "elements": n}
                    rows += [{**about, **row} for row in _rows(samples, n * forget.itemsize)]
                    if n == max(plan.sizes):
                        bandwidth.append({**about, **_bandwidth(samples, n * forget.itemsize)})
                del forget, retain, kept
                found = _many_tensors(name, plan, lambda: tick("many small tensors"))
                many += [{"threads": count, "dtype": name, **row} for row in found]
    return {
        "benchmark": "combine",
        **machine.describe(plan.device),
        "threads": list(plan._used_threads),
        "rounds": plan.rounds,
        "weights": {"alpha": 1.0, "gamma": GAMMA},
        "bandwidth": bandwidth,
        "rows": rows,
        "many_tensors": many,
    }


def _run(cases: dict[str, Case], plan: Plan, tick: Callable[[], object]) -> dict[str, list[Sample]]:
    return rounds_of(cases, plan.rounds, clock_for(plan.device), tick=tick, patience=plan.patience)


def _gradients(n: int, name: str, device: str) -> tuple[Tensor, Tensor]:
    """Two gradients whose signs conflict at random, so that branch prediction cannot help."""
    generator = torch.Generator(device).manual_seed(0)
    made = [torch.empty(n, dtype=DTYPES[name], device=device) for _ in range(2)]
    for x in made:
        for part in torch.split(x, 1 << 22):
            part.copy_(torch.randn(len(part), generator=generator, device=device))
    return made[0], made[1]


def _cases(forget: Tensor, retain: Tensor, kept: Tensor, plan: Plan, peers: bool) -> dict[str, Case]:
    """Cases by name. Each measurement starts from the same retain gradient."""

    def restore() -> None:
        retain.copy_(kept)

    works: dict[str, Callable[[], object]] = {"copy": lambda: retain.copy_(forget)}
    if plan.device == "cpu":
        memory = str(forget.dtype).removeprefix("torch."), [forget.data_ptr()], [retain.data_ptr()], [len(forget)]
        works["baseline"] = lambda: _rust.baseline_(*memory, 1.0, GAMMA)
        for name in ELEMENTWISE:
            works[f"{name}, update alone"] = lambda name=name: _rust.elementwise_(name, *memory, 1.0, GAMMA, False)  # type: ignore[misc]
    for name in COMBINERS:
        combiner = make_combiner(name, gamma=GAMMA)
        works[name] = lambda combiner=combiner: combiner.combine_([forget], [retain])  # type: ignore[misc]
    works["dot products"] = lambda: kernels.moments([forget], [retain])
    works["plain addition"] = lambda: plain_addition(forget, retain)
    if peers:
        for name, peer in peers_for(forget.dtype, plan.device).items():
            works[name] = lambda peer=peer: peer(forget, retain)  # type: ignore[misc]
    return {name: Case(work, restore) for name, work in works.items()}


def _rows(samples: dict[str, list[Sample]], nbytes: int) -> list[dict[str, Any]]:
    """One row for each case: seconds, and the ratio to the baseline."""
    on_cpu = "baseline" in samples
    # An element-wise combiner makes three passes over memory, a copy two.
    base, factor = (samples["baseline"], 1.0) if on_cpu else (samples["copy"], 1.5)
    rows = []
    for name, found in samples.items():
        row: dict[str, Any] = {"case": name, "rounds": len(found), "seconds": spread([one.wall for one in found])}
        row["cpu_seconds"] = spread([one.cpu for one in found if one.cpu is not None]) if on_cpu else None
        row |= {"against": "baseline" if on_cpu else "copy", **ratios(found, base, factor=factor)}
        if name in PROJECTIONS and on_cpu:
            row["to_passes"] = ratios(found, samples["dot products"], base)
        if f"{name}, update alone" in samples:
            row["to_update_alone"] = ratios(found, samples[f"{name}, update alone"])
        if name in ("copy", "baseline"):
            row["gb_s"] = nbytes * (2 if name == "copy" else 3) / row["seconds"]["median"] / 1e9
        rows.append(row)
    return rows


def _bandwidth(samples: dict[str, list[Sample]], nbytes: int) -> dict[str, float]:
    found = {"copy_gb_s": 2 * nbytes / spread([one.wall for one in samples["copy"]])["median"] / 1e9}
    if "baseline" in samples:
        found["baseline_gb_s"] = 3 * nbytes / spread([one.wall for one in samples["baseline"]])["median"] / 1e9
    return found


def _many_tensors(dtype: str, plan: Plan, tick: Callable[[], object]) -> list[dict[str, Any]]:
    """Many small tensors, one flat tensor of the same total size, and as many tensors of one element each."""
    largest = min(_LARGEST, max(plan.sizes))
    smallest = min(_SMALLEST, largest)
    lengths = [round(smallest * (largest / smallest) ** (i / (_MANY - 1))) for i in range(_MANY)]
    forget, kept = _gradients(sum(lengths), dtype, plan.device)
    retain = kept.clone()
    pieces = list(torch.split(forget, lengths)), list(torch.split(retain, lengths))
    single = [[x[:1].clone() for x in part] for part in pieces]
    cases: dict[str, Case] = {}
    for name in ("sago", "pcgrad"):
        combiner = make_combiner(name, gamma=GAMMA)
        for what, pair in (("flat", ([forget], [retain])), ("many", pieces), ("call", single)):
            cases[f"{name} {what}"] = Case(
                lambda combiner=combiner, pair=pair: combiner.combine_(*pair),  # type: ignore[misc]
                lambda: retain.copy_(kept),
            )
    samples = _run(cases, plan, tick)
    return [
        {
            "case": name,
            "tensors": _MANY,
            "elements": sum(lengths),
            "to_flat": ratios(samples[f"{name} many"], samples[f"{name} flat"]),
            "call_microseconds": spread(
                [(one.wall if one.cpu is None else one.cpu) / _MANY * 1e6 for one in samples[f"{name} call"]]
            ),
        }
        for name in ("sago", "pcgrad")
    ]
