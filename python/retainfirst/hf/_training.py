"""A training step with two gradients, for any trainer of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retainfirst.combiners import Combiner, resolve, resolve_scheduled
from retainfirst.engines import check_zero_config
from retainfirst.errors import RetainFirstError, require
from retainfirst.geometry import Geometry
from retainfirst.hf._arguments import refuse_arguments, refuse_split_model
from retainfirst.hf._guard import TrainerGuard
from retainfirst.step import GuardMode, TwoTaskStep, check_memory_options

transformers: Any = require("transformers", "hf")
has_length = transformers.trainer_utils.has_length

__all__ = ["Batch", "Loss", "TwoTaskTraining", "transformers"]

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]


class TwoTaskTraining:
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
        self._two_task_step: TwoTaskStep | None = None
        self._step_state: dict[str, Any] = {}
        self.combiner, self._schedule = resolve_scheduled(combiner, **(combiner_options or {}))
        check_memory_options(self.combiner, offload, stream)
        self._step_options: dict[str, Any] = {"offload": offload, "stream": stream, "where": where}
        self._guard = TrainerGuard(guard)
        super().__init__(*args, **kwargs)
        me: Any = self
        if stream and me.args.gradient_accumulation_steps > 1:
            raise RetainFirstError(
                f"{type(self).__name__}: stream=True combines during the retain pass, so that a step is one micro-batch; set"
                ' gradient_accumulation_steps=1, or use offload="cpu" to save memory'
            )
        refuse_arguments(type(self).__name__, me.args, kwargs, me.accelerator.num_processes)
        refuse_split_model(type(self).__name__, me.model)
        fsdp = getattr(me.accelerator.state, "fsdp_plugin", None)
        if fsdp is not None and getattr(fsdp, "fsdp_version", 1) == 1 and not fsdp.use_orig_params:
            raise RetainFirstError(
                f"{type(self).__name__}: FSDP keeps no single parameters with use_orig_params=false; set it to true, or use"
                " version 2"
            )
        if me.is_deepspeed_enabled:
            check_zero_config(me.accelerator.state.deepspeed_plugin.deepspeed_config)
            self._guard.refuse_deepspeed(type(self).__name__)
        # The columns of a pair are "forget" and "retain", which no model's forward takes: the trainer would drop both.
        me.args.remove_unused_columns = False
        self.last_geometry: Geometry | None = None
        # Sums of losses over items, and the items, each of forget and retain.
        self._loss_sums, self._micro_steps = torch.zeros(2, 2), 0
        self._window_items = torch.zeros(2, dtype=torch.float64)
        self._loss_scale = 1.0
        me.add_callback(_StartAfresh(self))

    @property
    def combiner(self) -> Combiner:
        """The combiner. Another one, set between two steps, combines from the next step on."""
        return self._combiner if self._two_task_step is None else self._two_task_step.combiner

    @combiner.setter
    def combiner(self, combiner: Combiner) -> None:
        combiner = resolve(combiner)
        if self._two_task_step is not None:
            self._two_task_step.combiner = combiner
        self._combiner = combiner

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
            # Under a loss scaler the gradients are that much longer, until the optimiser's step.
            scaler: Any = me.accelerator.scaler
            zero: Any = model.optimizer if me.is_deepspeed_enabled else None
            self._loss_scale = scaler.get_scale() if scaler is not None else float(getattr(zero, "loss_scale", 1.0))
            logged = self._about_to_log()
            self._guard.before_combining(logged=logged)
            self.last_geometry = step.combine(**self._scales(), measure=logged)
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
        """Add both losses and the geometry to a training log."""
        if "loss" in logs and self._micro_steps:
            # Over the processes too, like the trainer's own loss; the trainer logs on all of them at once.
            sums, items = getattr(self, "accelerator").reduce(self._loss_sums, "sum")  # noqa: B009
            forget_loss, retain_loss = (sums / items).tolist()
            self._forget_losses()
            logs.update(forget_loss=forget_loss, retain_loss=retain_loss)
            if self.last_geometry is not None:
                for name, value in self.last_geometry.all_reduce().as_dict().items():
                    logs[name] = value / self._loss_scale if name.startswith("norm") else value
            logs.update(self._guard.logs())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _make_step(self, model: nn.Module) -> TwoTaskStep:
        trained = self._in_optimizer(model)
        step = TwoTaskStep(model, self.combiner, trained=trained, **self._schedule, **self._step_options)
        if self._step_state:
            step.load_state_dict(self._step_state)
            self._step_state = {}
        me: Any = self
        step.steps = me.state.global_step
        self._guard.set(step, me)
        self._two_task_step = step
        return step

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save what the trainer does, and the step's state beside it."""
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self._two_task_step is not None and self.combiner.average:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save(self._two_task_step.state_dict(), _state_file(output_dir, getattr(self, "args").process_index))  # noqa: B009

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load what the trainer does, and the step's state beside it."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None or not self.combiner.average:
            return
        file = _state_file(checkpoint, getattr(self, "args").process_index)  # noqa: B009
        if not file.is_file():
            raise RetainFirstError(
                f"{checkpoint} has no {file.name}, the moving average of {self.combiner.name}; resume with the combiner and the"
                " number of processes of the run that saved it"
            )
        self._step_state = torch.load(file, map_location="cpu", weights_only=True)

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

    def _backward(self, model: nn.Module, inputs: Batch, compute: Loss, weight: Tensor | None) -> Tensor:
        me: Any = self
        with me.compute_loss_context_manager():
            loss = compute(model, inputs).mean()
        every = me.args.torch_empty_cache_steps
        if every is not None and me.state.global_step % every == 0:
            _empty_cache(loss.device)
        unweighted = loss.detach()
        loss = loss if weight is None else loss * weight.to(loss.device)
        if me.is_deepspeed_enabled:
            me.accelerator.backward(loss / self._micro_batches(), scale_wrt_gas=False)
        else:
            # Exactly one of them divides by the number of microbatches: accelerate up to transformers 4.45, the trainer later.
            me.accelerator.backward(loss * (me.accelerator.gradient_accumulation_steps / self._micro_batches()))
        return unweighted

    def _in_optimizer(self, model: nn.Module) -> set[nn.Parameter] | None:
        """Return the parameters that the optimiser changes; None where it holds copies of its own."""
        groups = getattr(self, "optimizer").param_groups  # noqa: B009
        return {p for group in groups for p in group["params"]} & set(model.parameters()) or None

    def _micro_batches(self) -> int:
        """Return the number of microbatches in this step; recent versions know that an epoch's last step is shorter."""
        me: Any = self
        return int(getattr(me, "current_gradient_accumulation_steps", me.args.gradient_accumulation_steps))

    def _about_to_log(self) -> bool:
        """Whether the step that is being made may be logged; measuring the others would take time for nothing."""
        me: Any = self
        number = me.state.global_step + 1
        strategy = getattr(me.args.logging_strategy, "value", me.args.logging_strategy)
        if strategy != "steps" or number >= me.state.max_steps or (number == 1 and me.args.logging_first_step):
            return True
        return bool(number % me.state.logging_steps == 0)

    def _about_to_step(self) -> bool:
        """Whether the trainer steps the optimiser after this microbatch."""
        state = (accelerator := getattr(self, "accelerator")).gradient_state  # noqa: B009
        if accelerator.sync_gradients:
            return True
        # transformers 4.45 steps at the end of an epoch shorter than the accumulation, and says so only afterwards.
        loader = state.active_dataloader
        short = has_length(loader) and len(loader) <= accelerator.gradient_accumulation_steps
        return bool(state.end_of_dataloader and short)


class _StartAfresh(transformers.TrainerCallback):  # type: ignore[misc]
    """Drops microbatches left over by an earlier ``train()`` that stopped in the middle of a step."""

    def __init__(self, trainer: TwoTaskTraining) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer._combiner = self._trainer.combiner
        self._trainer._guard.remove()
        self._trainer._two_task_step = None
        self._trainer._forget_losses()
        self._trainer._window_items.zero_()


def _empty_cache(device: torch.device) -> None:
    """Free cached memory between the forward and the backward pass, as the trainer does for ``torch_empty_cache_steps``."""
    backend = getattr(torch, device.type, None)
    for name in ("empty_cache", "clear_graph_cache"):  # the second of mps only
        getattr(backend, name, lambda: None)()


def _state_file(folder: str, process: int) -> Path:
    return Path(folder) / f"retainfirst_{process}.pt"


def _check_batch(inputs: Batch) -> None:
    for task in ("forget", "retain"):
        if not inputs.get(task):
            raise RetainFirstError(
                f"the batch has no {task!r} part, only {sorted(inputs)}; give a"
                " retainfirst.data.PairedDataset and its collator"
            )
