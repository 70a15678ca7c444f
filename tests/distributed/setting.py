"""What every engine is tested on: a model with all that makes averaging hard, uneven rows, and the same step on one process."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import retainfirst as rf

RULES: dict[str, dict] = {
    "sum": {},
    "sago": {"alpha": 0.5, "gamma": 2.0},
    "sago_keep_retain": {"gamma": 0.5},
    **{f"pcgrad {scope}": {"scope": scope, "alpha": 0.5} for scope in ("tensor", "module", "block", "global")},
    **{f"blur {scope}": {"scope": scope, "gamma": 2.0} for scope in ("tensor", "module", "block", "global")},
}
MICRO_BATCHES, STEPS, CLIP = 3, 2, 0.5


def rule(name: str) -> rf.Combiner:
    return rf.make_combiner(name.split()[0], **RULES[name])


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width + 3), nn.Linear(width + 3, width, bias=False)
        self.gain = nn.Parameter(torch.ones(1))  # smaller than any number of processes

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.down(torch.tanh(self.up(x)))


class Model(nn.Module):
    """Tied and frozen weights, a head for each task, one that some rows need, one that nothing needs, and no round sizes."""

    def __init__(self, tokens: int = 11, width: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight
        self.forget_head, self.retain_head = nn.Linear(width, 1), nn.Linear(width, 1)
        self.rare, self.unused = nn.Linear(width, 1, bias=False), nn.Linear(width, 1)

    def forward(self, rows: Tensor, task: str, rare: bool = False) -> Tensor:
        """Return one loss a row."""
        hidden = self.embedding(rows[:, :-1])
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.frozen(hidden)
        loss = nn.functional.cross_entropy(self.head(hidden).mT, rows[:, 1:], reduction="none").mean(1)
        loss = loss + getattr(self, f"{task}_head")(hidden).square().mean((1, 2))
        return loss + self.rare(hidden).square().mean((1, 2)) if rare else loss


def make_model(dtype: torch.dtype = torch.float64) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model().to(dtype)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    # Without weight decay, since sharded optimisers step on what no gradient has reached as well.
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01, weight_decay=0.0)


class Data:
    """Rows of each step, micro-batch, task and process: more on some processes than on others."""

    def __init__(
        self,
        world: int,
        *,
        rare: int | None = 0,
        absent: frozenset[tuple[int, str]] = frozenset(),
        device: torch.device | str = "cpu",
    ) -> None:
        """Rank ``rare`` alone reaches one of the parameters; ``absent``: ranks and tasks without rows."""
        self.world, self._rare, self._absent, self._device = world, rare, absent, device

    def has_rows(self, task: str, rank: int) -> bool:
        return (rank, task) not in self._absent

    def rows(self, step: int, micro: int, task: str, rank: int) -> Tensor:
        seed = 1000 * step + 100 * micro + 10 * rank + (task == "forget")
        count = 2 + (rank + micro) % 2
        return torch.randint(11, (count, 6), generator=torch.Generator().manual_seed(seed)).to(self._device)

    def total(self, step: int, task: str) -> int:
        ranks = [rank for rank in range(self.world) if self.has_rows(task, rank)]
        return sum(len(self.rows(step, m, task, rank)) for m in range(MICRO_BATCHES) for rank in ranks)

    def rare(self, micro: int, task: str, rank: int) -> bool:
        """Whether the pass reaches the parameter that only one process reaches, in one micro-batch of one task."""
        return rank == self._rare and micro == 1 and task == "retain"

    def loss(self, model: Callable[..., Tensor], step: int, micro: int, task: str, rank: int) -> Tensor:
        """One process's share: the mean over processes and the sum over micro-batches is the mean over all rows."""
        losses = model(self.rows(step, micro, task, rank), task, self.rare(micro, task, rank))
        share = losses.sum() * (self.world / self.total(step, task))
        return -share if task == "forget" else share


def on_one_process(
    data: Data,
    name: str,
    dtype: torch.dtype = torch.float64,
    clip: float = CLIP,
    make: Callable[[torch.dtype], nn.Module] = make_model,
    enforce: bool = False,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train by hand on all rows at once: plain autograd, one gradient after the other, and the pure function.

    With ``enforce`` the geometry is that of the parameters' step, after what works against retain was put back.
    """
    model = make(dtype)
    optimizer = make_optimizer(model)
    geometries = []
    for step in range(STEPS):
        found = []
        for task in ("forget", "retain"):
            twin = copy.deepcopy(model)
            ranks = [rank for rank in range(data.world) if data.has_rows(task, rank)]
            losses = [data.loss(twin, step, micro, task, rank) for micro in range(MICRO_BATCHES) for rank in ranks]
            (sum(losses) / data.world).backward()
            found.append({key: p.grad for key, p in twin.named_parameters()})
        update = rf.combine(*found, rule(name))
        for key, p in model.named_parameters():
            p.grad = update[key]
        geometries.append(measured(*found, update))
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        if enforce:
            geometries[-1] = put_back(before, model, *found, update if name.startswith("sago") else None)
    return model, geometries


@torch.no_grad()
def put_back(before: dict, model: nn.Module, forget: dict, retain: dict, update: dict | None) -> dict[str, float]:
    """Put back what works against retain, by the definitions of theorems T11 and T12; return the geometry of the step."""
    steps: dict[str, dict] = {"d": {}, "f": {}, "r": {}}
    for key, p in model.named_parameters():
        if forget[key] is None and retain[key] is None:
            continue
        f, r = (torch.zeros_like(p) if found[key] is None else found[key] for found in (forget, retain))
        d = p - before[key]
        opposing = d * r > 0 if update is None else (d * update[key] > 0) | (update[key] == 0)
        p.copy_(torch.where(opposing, before[key], p))
        for name, value in (("d", before[key] - p), ("f", f), ("r", r)):
            steps[name][key] = value
    found = measured(steps["d"], steps["r"], steps["f"])
    return {
        "cos_step_retain": found["cos_forget_retain"],
        "cos_step_forget": found["cos_update_forget"],
        "norm_step": found["norm_forget"],
    }


def measured(forget: dict, retain: dict, update: dict) -> dict[str, float]:
    """The geometry by its definitions."""
    reached = {key: torch.zeros_like(u) for key, u in update.items() if u is not None}
    f, r, u = (
        torch.cat([(zero if found[key] is None else found[key]).reshape(-1) for key, zero in reached.items()])
        for found in (forget, retain, update)
    )
    cosine = nn.functional.cosine_similarity
    return {
        "cos_forget_retain": cosine(f, r, 0).item(),
        "cos_update_retain": cosine(u, r, 0).item(),
        "cos_update_forget": cosine(u, f, 0).item(),
        "norm_forget": f.norm().item(),
        "norm_retain": r.norm().item(),
        "norm_update": u.norm().item(),
        "conflict_fraction": (f.sign() * r.sign() < 0).double().mean().item(),
    }


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of parameters, relative to the largest number in each."""
    return max(
        ((found[key] - value).abs().max() / value.abs().max().clamp_min(1e-30)).item()
        for key, value in expected.items()
    )
