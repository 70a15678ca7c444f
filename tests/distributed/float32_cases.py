"""One float32 step of each engine of torch beside the same in float64, over a bound derived element by element."""

from __future__ import annotations

from functools import partial

import torch
from torch import distributed as dist

import cases
import retainfirst as rf
from setting import MICRO_BATCHES, Data, make_model, rule
from wraps import WRAPS, whole

U = 2.0**-24  # half the spacing of float32 at 1: the largest relative error of one rounding
# A power of two, so that multiplying is exact, and so large that the weights' own rounding does not hide the gradients'.
RATE = 64.0


def averages(data, task):
    """The average of a task's gradients and, element by element, how far float32 may take it.

    The gradient of each pass is taken as float32 gives it, since it is the same with and without a wrapper; each process then
    adds those of its micro-batches and of the other processes, in any order, and divides by the number of processes, at once or
    in two parts. So a term goes through at most k = micro-batches - 1 + processes - 1 + 2 roundings, and the sum of terms g is
    off by at most k U / (1 - k U) times the sum of |g| (Higham, Accuracy and Stability, 3.1). Beside that, float64 is exact.
    """
    found = []
    for micro in range(MICRO_BATCHES):
        for rank in range(data.world):
            model = make_model(torch.float32)
            data.loss(model, 0, micro, task, rank).backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    k = MICRO_BATCHES + data.world
    average, error = {}, {}
    for name in found[0]:
        terms = torch.stack([gradients[name].double() for gradients in found])
        average[name] = terms.sum(0) / data.world
        error[name] = k * U / (1 - k * U) * terms.abs().sum(0) / data.world
    return average, error


def one_step(wrap, name):
    rank, data = dist.get_rank(), Data(dist.get_world_size(), rare=None)
    model = WRAPS[wrap](make_model(torch.float32))
    step = rf.TwoTaskStep(model, rule(name))
    for micro in range(MICRO_BATCHES):
        for task in ("forget", "retain"):
            with getattr(step, task)():
                data.loss(model, 0, micro, task, rank).backward()
    step.combine()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=RATE).step()
    return {key: p.double() for key, p in whole(model).items()}


def compared(wrap, name):
    data = Data(dist.get_world_size(), rare=None)
    combiner, found = rule(name), one_step(wrap, name)
    (forget, forget_error), (retain, retain_error) = (averages(data, task) for task in ("forget", "retain"))
    ratio, relative, undecided, elements = 0.0, 0.0, 0, 0
    for key, start in ((key, p.detach().double()) for key, p in make_model(torch.float32).named_parameters()):
        zero = torch.zeros_like(start)
        f, r, df, dr = (part.get(key, zero) for part in (forget, retain, forget_error, retain_error))
        update = rf.combine(f, r, combiner)
        longest = combiner.alpha * r.abs() + combiner.gamma * f.abs()
        # At most a product each, a sum, and one more where a rule cuts something off.
        error = (
            combiner.alpha * dr + combiner.gamma * df + 4 * U * (longest + combiner.alpha * dr + combiner.gamma * df)
        )
        # Where a sum may have either sign, a rule that looks at signs may give anything up to the longest update.
        open_ = ((f.abs() <= df) & (df > 0)) | ((r.abs() <= dr) & (dr > 0))
        error += longest * open_
        # The step itself: a subtraction, rounded in the result.
        bound = RATE * error + U * (start.abs() + RATE * (update.abs() + error)) + 1e-300
        distance = (found[key] - (start - RATE * update)).abs()
        ratio = max(ratio, (distance / bound).max().item())
        if (decided := ~open_ & (longest > 0)).any():
            relative = max(relative, (bound[decided].max() / (RATE * longest.max())).item())
        undecided, elements = undecided + open_.sum().item(), elements + start.numel()
    return {"ratio": ratio, "bound": relative, "undecided": undecided / elements}


CASES = {
    f"{wrap}, {name}": partial(compared, wrap, name) for wrap in WRAPS for name in ("sum", "sago", "sago_keep_retain")
}

if __name__ == "__main__":
    cases.main(CASES)
