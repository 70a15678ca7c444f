"""What every two-gradient trainer has: the step, its combiner and its guard, and their part in logs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retainfirst.combiners import Combiner, resolve, resolve_scheduled
from retainfirst.engines import check_zero_config
from retainfirst.errors import RetainFirstError, require
from retainfirst.geometry import Geometry
from retainfirst.hf._arguments import refuse_optimizer, refuse_split_model
from retainfirst.hf._guard import TrainerGuard
from retainfirst.step import TwoTaskStep, check_memory_options

transformers: Any = require("transformers", "hf")
has_length = transformers.trainer_utils.has_length

__all__ = ["Batch", "Loss", "StepInTrainer", "tokenizer_of", "transformers"]

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]


class StepInTrainer:
    """Holds a trainer's :class:`~retainfirst.TwoTaskStep`; a subclass gives the ``training_step`` that runs it.

    Call :meth:`_choose_step` first, and :meth:`_join_trainer` once the trainer is constructed.

    Attributes:
        last_geometry: The :class:`~retainfirst.geometry.Geometry` of the last step; None before the first, and after a step
            that ``logging_steps`` leaves out, which is not measured.
    """

    last_geometry: Geometry | None = None
    _two_task_step: TwoTaskStep | None = None
    _loss_scale = 1.0

    def _choose_step(
        self,
        combiner: str | Combiner,
        combiner_options: Mapping[str, Any],
        *,
        where: str | Callable[[str, nn.Parameter], bool] | None,
        offload: Any,
        stream: Any,
        guard: Any,
    ) -> None:
        """Check the options and keep them; a refused one changes nothing."""
        chosen, schedule = resolve_scheduled(combiner, **combiner_options)
        check_memory_options(chosen, offload, stream)
        self._guard = TrainerGuard(guard)
        self._combiner, self._schedule = chosen, schedule
        self._step_options: dict[str, Any] = {"offload": offload, "stream": stream, "where": where}
        self._step_state: dict[str, Any] = {}

    def _join_trainer(self) -> None:
        """Refuse set-ups in which two gradients cannot be taken, and see to it that each training starts afresh."""
        self._refuse_set_up()
        getattr(self, "add_callback")(_StartAfresh(self))  # noqa: B009

    def _refuse_set_up(self) -> None:
        me: Any = self
        name = type(self).__name__
        if self._step_options["stream"] and me.args.gradient_accumulation_steps > 1:
            raise RetainFirstError(
                f"{name}: stream=True combines during the retain pass, so that a step is one micro-batch; set"
                ' gradient_accumulation_steps=1, or use offload="cpu" to save memory'
            )
        refuse_optimizer(me.args)
        refuse_split_model(name, me.model)
        if me.is_deepspeed_enabled:
            check_zero_config(me.accelerator.state.deepspeed_plugin.deepspeed_config)
            self._guard.refuse_deepspeed(name)
        if self._fsdp_version() == 1 and not me.accelerator.state.fsdp_plugin.use_orig_params:
            raise RetainFirstError(
                f"{name}: FSDP keeps no single parameters with use_orig_params=false; set it to true, or use version 2"
            )

    def _fsdp_version(self) -> int | None:
        plugin = getattr(getattr(self, "accelerator").state, "fsdp_plugin", None)  # noqa: B009
        return None if plugin is None else getattr(plugin, "fsdp_version", 1)

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

    def _combine(self, model: nn.Module, step: TwoTaskStep, **scales: Any) -> None:
        """Combine the two gradients; the optimiser's step comes next."""
        me: Any = self
        # Under a loss scaler the gradients are that much longer, until the optimiser's step.
        scaler: Any = me.accelerator.scaler
        zero: Any = model.optimizer if me.is_deepspeed_enabled else None
        self._loss_scale = scaler.get_scale() if scaler is not None else float(getattr(zero, "loss_scale", 1.0))
        logged = self._about_to_log()
        self._guard.before_combining(logged=logged)
        self.last_geometry = step.combine(**scales, measure=logged)

    def _step_logs(self) -> dict[str, float]:
        """Return the geometry of the last step, if it was measured, and what the guard has measured."""
        logs = {}
        if self.last_geometry is not None:
            for name, value in self.last_geometry.all_reduce().as_dict().items():
                logs[name] = value / self._loss_scale if name.startswith("norm") else value
        return logs | self._guard.logs()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the geometry to a training log."""
        if "loss" in logs:
            logs.update(self._step_logs())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _start_afresh(self) -> None:
        """Drop what an earlier training left, such as the gradients of half a step."""
        self._combiner = self.combiner
        self._guard.remove()
        self._two_task_step = None

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

    def __init__(self, trainer: StepInTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer._start_afresh()


def tokenizer_of(trainer: Any) -> Any:
    """Return a trainer's tokenizer, or None; transformers 4.46 renamed the attribute."""
    return getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)


def _empty_cache(device: torch.device) -> None:
    """Free cached memory between the forward and the backward pass, as the trainer does for ``torch_empty_cache_steps``."""
    backend = getattr(torch, device.type, None)
    for name in ("empty_cache", "clear_graph_cache"):  # the second of mps only
        getattr(backend, name, lambda: None)()


def _state_file(folder: str, process: int) -> Path:
    return Path(folder) / f"retainfirst_{process}.pt"
