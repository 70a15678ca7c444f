"""A training step with two losses, for any trainer of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retainfirst.combiners import Combiner
from retainfirst.errors import RetainFirstError
from retainfirst.hf._arguments import refuse_arguments
from retainfirst.hf._stepping import Batch, Loss, StepInTrainer
from retainfirst.step import GuardMode

__all__ = ["TwoTaskTraining"]


class TwoTaskTraining(StepInTrainer):
    """Gives a ``transformers.Trainer`` two gradients and their combination, for any pair of losses.

    Most trainers want :class:`TwoTaskTrainerMixin`; this class is for trainers whose own methods have the names of its methods.
    Put it before the trainer in a class's bases and give :meth:`task_losses`. Batches are ``{"forget": {...}, "retain": {...}}``.
    Everything else stays the trainer's own: data loading, mixed precision, clipping (of the combined gradient), optimiser,
    schedule, checkpoints, resume.

    Every training log has ``forget_loss`` and ``retain_loss`` (means over the microbatches of all processes since the last log,
    unweighted and with the sign in which they are minimised) and the :class:`~retainfirst.geometry.Geometry` of the last step
    (also in ``last_geometry``; None after a step that ``logging_steps`` leaves out, which is not measured); the trainer's own
    ``loss`` is ``alpha * retain_loss + gamma * forget_loss``. With a guard there are also ``cos_step_retain`` of the last
    measured step and ``step_opposes_retain``, the share of the steps measured since the last log in which the parameters moved
    against the retain gradient. A checkpoint keeps the moving average of a combiner that has one.

    Args:
        *args: For the trainer.
        combiner: A combiner, or a name with ``combiner_options`` (:func:`retainfirst.make_combiner`).
        combiner_options: ``alpha``, ``gamma`` and the combiner's own; only with a name. A weight may be a function from the
            number of finished optimiser steps to a number (:mod:`retainfirst.schedule`).
        where: See :class:`~retainfirst.TwoTaskStep`: combine only these parameters by the combiner.
        offload: See :class:`~retainfirst.TwoTaskStep`: ``"cpu"`` keeps the idle task's gradients in host memory.
        stream: See there: combine during the retain pass; without gradient accumulation.
        guard: What to do about the optimiser's steps (:meth:`retainfirst.TwoTaskStep.guard`): ``"off"``; ``"measure"`` each of
            them; or ``"enforce"`` that no coordinate works against the retain gradient, measuring the steps that are logged.
        **kwargs: For the trainer.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: An optimiser that updates inside the backward pass (LOMO, AdaLOMO, layer-wise ones), before there are
            two gradients; FSDP without ``use_orig_params``; DeepSpeed without ZeRO, with offloading or with a guard; an argument
            that would have no effect (:data:`retainfirst.hf._arguments.REFUSED`); or a model split by tensor parallelism or by
            SageMaker.
    """

    def __init__(
        self,
        *args: Any,
        combiner: str | Combiner = "sago",
        combiner_options: Mapping[str, Any] | None = None,
        where: str | Callable[[str, nn.Parameter], bool] | None = None,
        offload: Literal["cpu"] | None = None,
        stream: bool = False,
        guard: GuardMode = "off",
        **kwargs: Any,
    ) -> None:
        self._choose_step(combiner, combiner_options or {}, where=where, offload=offload, stream=stream, guard=guard)
        super().__init__(*args, **kwargs)
        me: Any = self
        refuse_arguments(type(self).__name__, me.args, kwargs, me.accelerator.num_processes)
        # The columns of a pair are "forget" and "retain", which no model's forward takes: the trainer would drop both.
        me.args.remove_unused_columns = False
        # Sums of losses over items, and the items, each of forget and retain.
        self._loss_sums, self._micro_steps = torch.zeros(2, 2), 0
        self._window_items = torch.zeros(2, dtype=torch.float64)
        self._join_trainer()

    def task_losses(self) -> tuple[Loss, Loss]:
        """Return two functions of a model and a whole batch: the forget loss and the retain loss, both to be minimised."""
        raise NotImplementedError(f"{type(self).__name__} must define task_losses()")

    def count_items(self, inputs: Batch) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        """Return how many items each loss of a microbatch is the mean of, such as labelled tokens.

        The gradients of a step are then those of the mean over all items of all its microbatches and processes, as of one large
        batch. None: each microbatch counts the same, as in a plain mean of the losses.

        Args:
            inputs: The whole batch, as for the losses.

        Returns:
            The number of items of the forget and of the retain loss, tensors without dimensions; or None.
        """
        return None

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002
        """Run one microbatch, forget then retain, and combine when the trainer is about to step."""
        me: Any = self
        model.train()
        if callable(getattr(me.optimizer, "train", None)):
            me.optimizer.train()
        inputs = me._prepare_inputs(inputs)
        _check_batch(inputs)
        step = self._two_task_step or self._make_step(model)
        self._guard.note_step()
        compute_forget, compute_retain = self.task_losses()
        last = self._about_to_step()
        counted = self.count_items(inputs)
        items = torch.ones(2) if counted is None else torch.stack([one.float() for one in counted]).detach()
        weights = items / self._typical_items() if counted is not None and self._items_matter() else None
        with step.forget(last=last):
            forget_loss = self._backward(model, inputs, compute_forget, None if weights is None else weights[0])
        with step.retain(last=last):
            retain_loss = self._backward(model, inputs, compute_retain, None if weights is None else weights[1])
        if weights is not None:
            self._window_items = self._window_items.to(items.device) + items
        if last:
            self._combine(model, step, **self._scales())
        items = items.to(forget_loss.device)
        sums = torch.stack([torch.stack([forget_loss, retain_loss]).float() * items, items])
        self._loss_sums = self._loss_sums.to(sums.device) + sums
        self._micro_steps += 1
        weighted = self.combiner.alpha * retain_loss + self.combiner.gamma * forget_loss
        return weighted / self._micro_batches()

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Evaluate a pair by the weighted sum of its two losses; any other batch as the trainer does."""
        me: Any = self
        if "forget" not in inputs:
            plain: tuple[Any, Any, Any] = super().prediction_step(  # type: ignore[misc]
                model, inputs, prediction_loss_only, ignore_keys
            )
            return plain
        if me.compute_metrics is not None and not prediction_loss_only:
            raise RetainFirstError(
                f"{type(self).__name__}: compute_metrics gets no predictions from pairs; give an eval_dataset of plain rows"
            )
        inputs = me._prepare_inputs(inputs)
        _check_batch(inputs)
        with torch.no_grad(), me.compute_loss_context_manager():
            forget_loss, retain_loss = (compute(model, inputs) for compute in self.task_losses())
        return (self.combiner.alpha * retain_loss + self.combiner.gamma * forget_loss).mean(), None, None

    def floating_point_ops(self, inputs: Batch) -> int:
        """Count both halves of a pair as the trainer counts a batch."""
        count: Any = super().floating_point_ops  # type: ignore[misc]
        return int(sum(map(count, (inputs["forget"], inputs["retain"]))) if "forget" in inputs else count(inputs))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add both losses to a training log, beside the geometry."""
        if "loss" in logs and self._micro_steps:
            # Over the processes too, like the trainer's own loss; the trainer logs on all of them at once.
            sums, items = getattr(self, "accelerator").reduce(self._loss_sums, "sum")  # noqa: B009
            forget_loss, retain_loss = (sums / items).tolist()
            self._forget_losses()
            logs.update(forget_loss=forget_loss, retain_loss=retain_loss)
        super().log(logs, *args, **kwargs)

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._forget_losses()
        self._window_items.zero_()

    def _forget_losses(self) -> None:
        self._loss_sums, self._micro_steps = torch.zeros_like(self._loss_sums), 0

    def _items_matter(self) -> bool:
        """Whether a step has several microbatches or processes, which may hold unequal numbers of items."""
        return self._micro_batches() > 1 or getattr(self, "accelerator").num_processes > 1  # noqa: B009

    def _typical_items(self) -> float:
        """Return a power of two near the number of items, the same everywhere: it keeps weighted losses in float16's range."""
        rows: int = getattr(self, "args").per_device_train_batch_size  # noqa: B009
        return float(2 ** round(math.log2(rows * 64)))

    def _scales(self) -> dict[str, Any]:
        """Return the factors that turn sums over items into the mean over all items of the step."""
        accelerator: Any = getattr(self, "accelerator")  # noqa: B009
        if not self._items_matter() or not self._window_items.any():
            return {}
        total = accelerator.reduce(self._window_items, "sum") if accelerator.num_processes > 1 else self._window_items
        forget, retain = accelerator.num_processes * self._micro_batches() * self._typical_items() / total
        self._window_items = torch.zeros_like(self._window_items)
        return {"forget_scale": forget, "retain_scale": retain}


def _check_batch(inputs: Batch) -> None:
    for task in ("forget", "retain"):
        if not inputs.get(task):
            raise RetainFirstError(
                f"the batch has no {task!r} part, only {sorted(inputs)}; give a"
                " retainfirst.data.PairedDataset and its collator"
            )
