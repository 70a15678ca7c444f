"""Recompute a recorded step from formulas alone, in the framework's environment; print how far the step is from it.

``python independent.py MODEL RECORD DTYPE AUTOCAST MAX_NORM FORGET RETAIN COMBINER [WEIGHT]``. Nothing of retainfirst or of the
framework is imported: the forget loss and the retain loss are functions of this file, each with a backward pass of its own, and
the combiners are formulas.
"""

from __future__ import annotations

import json
import sys

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

BETA = 0.1


def nll(model, ids, mask, labels):
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def logits(model, ids, mask):
    return model(input_ids=ids, attention_mask=mask).logits


@torch.no_grad()
def frozen(function, *arguments):
    return function(*arguments)


def npo(difference):
    """Negative preference optimisation, from the loss (or the log-ratio) above the reference's."""
    return -functional.logsigmoid(BETA * difference).mean() * 2 / BETA


def row_nll(model, ids, mask, labels):
    """The negative log-likelihood of each row, summed over its tokens."""
    scores = logits(model, ids, mask)[:, :-1].transpose(1, 2)
    return functional.cross_entropy(scores, labels[:, 1:], ignore_index=-100, reduction="none").sum(dim=-1)


def kl_of_probabilities(model, reference, ids, mask):
    ours, theirs = (
        functional.log_softmax(x, dim=-1).flatten(0, 1)
        for x in (logits(model, ids, mask), frozen(logits, reference, ids, mask))
    )
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


# Each takes the model, the frozen copy, and the (ids, mask, labels) of a task.
FORGET = {
    "ga": lambda model, _, ids, mask, labels: -nll(model, ids, mask, labels),
    # MUSE: element by element of the logits.
    "npo_logits": lambda model, ref, ids, mask, _: npo(frozen(logits, ref, ids, mask) - logits(model, ids, mask)),
    "npo_rows": lambda model, ref, *task: npo(row_nll(model, *task) - frozen(row_nll, ref, *task)),
    # WMDP: of the mean over all tokens of the batch.
    "npo_batch": lambda model, ref, *task: npo(nll(model, *task) - frozen(nll, ref, *task)),
}
RETAIN = {
    "nll": lambda model, _, *task: nll(model, *task),
    # MUSE: of the logits as if they were log-probabilities.
    "kl_logits": lambda model, ref, ids, mask, _: functional.kl_div(
        logits(model, ids, mask), frozen(logits, ref, ids, mask), reduction="batchmean", log_target=True
    ),
    "kl": lambda model, ref, ids, mask, _: kl_of_probabilities(model, ref, ids, mask),
}


def tasks(batch):
    """Return the forget and the retain part of a batch, each as ids, mask and labels."""
    parts = [batch["forget"], batch["retain"]] if isinstance(batch, dict) else list(batch)
    for part in parts:
        if isinstance(part, dict):
            yield part["input_ids"], part["attention_mask"], part["labels"]
        elif isinstance(batch, dict):
            yield part[:3]
        else:
            ids, labels, mask = part
            yield ids, mask, labels


def gradients(model, reference, losses, batches, autocast):
    """Return the gradient of the mean over microbatches, of forget and of retain."""
    found = []
    for task, loss in enumerate(losses):
        for p in model.parameters():
            p.grad = None
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                value = loss(model, reference, *list(tasks(batch))[task])
            (value / len(batches)).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    return found


def sago(f, r):
    """Retain where the signs oppose each other, forget elsewhere."""
    return torch.where(f.sign() * r.sign() < 0, r, f)


def pcgrad(f, r):
    """Per tensor: retain, and forget without its part against retain."""
    f64, r64 = f.double(), r.double()
    dot = (f64 * r64).sum()
    along = dot / (r64 * r64).sum() if dot < 0 else 0
    return (r64 + f64 - along * r64).to(r.dtype)


def clip(update, largest):
    norm = torch.stack([u.norm() for u in update.values()]).norm()
    scale = (largest / (norm + 1e-6)).clamp(max=1)
    return {name: u * scale.to(u.dtype) for name, u in update.items()}


COMBINERS = {"sago": sago, "pcgrad": pcgrad, "sum": lambda f, r: f + r}


def recompute(trained, reference, batches, forget, retain, combiner, *, weight=1.0, autocast=False, largest=0.0):
    """Return the update of a step, by parameter, before the optimiser; and the two gradients.

    Args:
        trained: The model.
        reference: A copy of it as it was when the training began.
        batches: The microbatches of the step.
        forget: A name in FORGET.
        retain: A name in RETAIN.
        combiner: A name in COMBINERS.
        weight: Of the retain loss.
        autocast: Compute the losses in bfloat16 where autocast does so.
        largest: The norm to which the update is clipped; 0 for none.
    """
    losses = FORGET[forget], lambda *given: weight * RETAIN[retain](*given)
    of_forget, of_retain = gradients(trained, reference, losses, batches, autocast)
    update = {name: COMBINERS[combiner](f, of_retain[name]) for name, f in of_forget.items()}
    return (clip(update, largest) if largest else update), of_forget, of_retain


def main(model, record, dtype, autocast, largest, forget, retain, combiner, weight="1"):
    """Print how far the recorded step is from the recomputed one."""
    found = torch.load(record, weights_only=False)
    trained, reference = (AutoModelForCausalLM.from_pretrained(model, torch_dtype=getattr(torch, dtype)) for _ in "ab")
    start = dict(trained.named_parameters())
    update, *both = recompute(
        trained.train(), reference.eval(), found["batches"], forget, retain, combiner,
        weight=float(weight), autocast=autocast == "autocast", largest=float(largest),
    )  # fmt: skip
    apart = {name: (update[name].double() - recorded.double()).abs() for name, recorded in found["gradients"].items()}
    print(json.dumps({
        "begins": all(start[name].equal(weight.to(start[name].dtype)) for name, weight in found["weights"].items()),
        "names": found["gradients"].keys() == update.keys(), "microbatches": len(found["batches"]),
        "difference": max(float(d.max()) for d in apart.values()), "size": max(float(u.abs().max()) for u in update.values()),
        "difference_of_clear_signs": max(float((d * clear(name, both)).max()) for name, d in apart.items()),
        "clear": sum(int(clear(name, both).sum()) for name in apart) / sum(d.numel() for d in apart.values()),
    }))  # fmt: skip


def clear(name, both):
    """Return where both gradients are further from 0 than rounding can have moved them, a share of 1e-5 of the largest."""
    return torch.stack([g[name].abs() > 1e-5 * g[name].abs().max() for g in both]).all(dim=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
