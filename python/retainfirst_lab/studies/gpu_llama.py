"""A training step of a large random Llama in bfloat16 on a GPU: time and peak memory of each way to combine.

``plain`` adds the two losses. ``copies`` is the simple way of research code: a backward pass for each loss, a copy of all
gradients after each, and SAGO in plain torch, parameter by parameter. The others are :class:`retainfirst.TwoTaskStep`. No
optimiser runs. The peak is torch's, above the model; a gradient set is as large as the model.

    python -m retainfirst_lab.studies.gpu_llama [--parameters 1e9] [--rounds 5] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from retainfirst.errors import require
from retainfirst.files import write_json
from retainfirst.step import TwoTaskStep
from retainfirst_lab.bench import machine
from retainfirst_lab.bench.tables import conditions
from retainfirst_lab.bench.timing import Case, clock_for, rounds_of, spread
from retainfirst_lab.report import Table, terminal

__all__ = ["WAYS", "measure", "table"]

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "sago": ("sago", {}),
    "pcgrad": ("pcgrad", {}),
    "sago, offload": ("sago", {"offload": "cpu"}),
    "pcgrad, offload": ("pcgrad", {"offload": "cpu"}),
    "sago, stream": ("sago", {"stream": True}),
    "pcgrad, stream": ("pcgrad", {"stream": True}),
}
"""Names, with the combiner and the options of the step."""

_ROWS, _LENGTH = 4, 512
_GIB = 2**30

Report = dict[str, Any]
Step = Callable[[], None]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    report = measure(arguments.parameters, arguments.rounds, arguments.device)
    if arguments.json:
        write_json(arguments.json, report)
    console = Console(width=120)
    terminal.show(table(report), console)
    console.print(conditions(report))


def measure(parameters: float, rounds: int, device: str) -> Report:
    """Return the report.

    Args:
        parameters: About how many the model has.
        rounds: In alternating order.
        device: ``"cuda"``, or ``"cpu"`` for a try, where no peak is measured.

    Raises:
        RetainFirstError: The machine has no such device.
    """
    machine.check_device(device)
    model = _model(parameters, device)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (2, _ROWS, _LENGTH), generator=generator).to(device)
    ways = {"plain": _plain(model, tokens), "copies": _copies(model, tokens)}
    ways |= {name: _ours(model, tokens, rule, options) for name, (rule, options) in WAYS.items()}
    peaks = {name: _peak(step, device) for name, step in track(ways.items(), "peaks")}
    samples = rounds_of({name: Case(step) for name, step in ways.items()}, rounds, clock_for(device))
    return {
        **machine.describe(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": [_ROWS, _LENGTH],
        "rows": [
            {"way": name, "seconds": spread([one.wall for one in samples[name]]), "peak_bytes": peaks[name]}
            for name in ways
        ],
    }


def table(report: Mapping[str, Any]) -> Table:
    """Return the table: one row for each way."""
    plain = report["rows"][0]
    rows = []
    for row in report["rows"]:
        seconds = row["seconds"]
        ratio = seconds["median"] / plain["seconds"]["median"]
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / _GIB:.2f}"
        rows.append(
            [
                row["way"],
                f"{seconds['median']:.3f} ({seconds['least']:.3f}-{seconds['greatest']:.3f})",
                f"{ratio:.2f}",
                peak,
            ]
        )
    title = "A step of {} x {} tokens for each task".format(*report["tokens"])
    set_size = 2 * report["parameters"] / _GIB
    return Table(title, ["way", "seconds", "x plain", "peak, GiB"], rows, f"One gradient set is {set_size:.2f} GiB.")


def _model(parameters: float, device: str) -> Any:
    """A Llama with the proportions of Llama 3.2 1B: 16 layers, width w, 12 w^2 elements a layer at 32,000 words."""
    library = require("transformers", "hf")
    layers, words = 16, 32_000 if parameters >= 1e8 else 256
    width = max(64, int((parameters / (12 * layers)) ** 0.5) // 64 * 64)
    config = library.LlamaConfig(
        vocab_size=words, hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return library.LlamaForCausalLM(config).to(torch.bfloat16).train()


def _loss(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return found


def _plain(model: Any, tokens: Tensor) -> Step:
    def step() -> None:
        (_loss(model, tokens[1]) - _loss(model, tokens[0])).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    return step


def _copies(model: Any, tokens: Tensor) -> Step:
    def gradients(loss: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return [p.grad.clone() for p in model.parameters()]

    def step() -> None:
        retain = gradients(_loss(model, tokens[1]))
        forget = gradients(-_loss(model, tokens[0]))
        for parameter, f, r in zip(model.parameters(), forget, retain, strict=True):
            parameter.grad = torch.where(f * r < 0, r, f)
        model.zero_grad()

    return step


def _ours(model: Any, tokens: Tensor, rule: str, options: Mapping[str, Any]) -> Step:
    two_task = TwoTaskStep(model, rule, **options)

    def step() -> None:
        with two_task.forget():
            (-_loss(model, tokens[0])).backward()  # type: ignore[no-untyped-call]
        with two_task.retain():
            _loss(model, tokens[1]).backward()  # type: ignore[no-untyped-call]
        two_task.combine()
        model.zero_grad()

    return step


def _peak(step: Step, device: str) -> int | None:
    """Return the bytes above those in use, over two steps; None on a CPU."""
    if device == "cpu":
        step()
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
