"""Two-gradient training in the transformers ``Trainer``, from version 4.45 to 5.x (extra ``hf``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retainfirst.combiners import Combiner, resolve
from retainfirst.engines import check_zero_config
from retainfirst.errors import RetainFirstError, did_you_mean, require
from retainfirst.geometry import Geometry
from retainfirst.objectives import get_objective
from retainfirst.step import TwoTaskStep, check_memory_options

transformers: Any = require("transformers", "hf")
has_length = transformers.trainer_utils.has_length

__all__ = ["TwoTaskTrainer", "TwoTaskTrainerMixin", "TwoTaskTraining"]

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]


class TwoTaskTraining:
    """Gives a ``transformers.Trainer`` two gradients and their combination, for any pair of losses.

    Most trainers want :class:`TwoTaskTrainerMixin`; this class is for trainers whose own methods have the names of its methods.
    Put it before the trainer in a class's bases and give :meth:`task_losses`. Batches are ``{"forget": {...}, "retain": {...}}``.
    Everything else stays the trainer's own: data loading, mixed precision, clipping (of the combined gradient), optimiser,
    schedule, checkpoints, resume.

    Every training log has ``forget_loss`` and ``retain_loss`` (means over the microbatches of all processes since the last log,
    unweighted and with the sign in which they are minimised) and the :class:`~retainfirst.geometry.Geometry` of the last step;
    the trainer's own ``loss`` is ``alpha * retain_loss + gamma * forget_loss``. A checkpoint keeps the moving average of a combiner
    that has one.

    Args:
        *args: For the trainer.
        combiner: A combiner, or a name with ``combiner_options`` (:func:`retainfirst.make_combiner`).
        combiner_options: ``alpha``, ``gamma`` and the combiner's own; only with a name.
        offload: See :class:`~retainfirst.TwoTaskStep`: ``"cpu"`` keeps the idle task's gradients in host memory.
        stream: See there: combine during the retain pass; without gradient accumulation.
        **kwargs: For the trainer.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: An optimiser that updates inside the backward pass (LOMO, AdaLOMO, layer-wise ones), before there are
            two gradients; or FSDP without ``use_orig_params``, or DeepSpeed without ZeRO or with offloading.
    """

    def __init__(
        self,
        *args: Any,
        combiner: str | Combiner = "sago",
        combiner_options: Mapping[str, Any] | None = None,
        offload: Literal["cpu"] | None = None,
        stream: bool = False,
        **kwargs: Any,
    ) -> None:
        self._two_task_step: TwoTaskStep | None = None
        self._step_state: dict[str, Any] = {}
        self.combiner = resolve(combiner, **(combiner_options or {}))
        check_memory_options(self.combiner, offload, stream)
        self._memory: dict[str, Any] = {"offload": offload, "stream": stream}
        super().__init__(*args, **kwargs)
        me: Any = self
        if stream and me.args.gradient_accumulation_steps > 1:
            raise RetainFirstError(
                f"{type(self).__name__}: stream=True combines during the retain pass, so that a step is one micro-batch; set"
                ' gradient_accumulation_steps=1, or use offload="cpu" to save memory'
            )
        optim = str(getattr(me.args.optim, "value", me.args.optim))
        if "lomo" in optim or "layerwise" in optim:
            raise RetainFirstError(
                f"optim={optim!r} updates parameters inside the backward pass, before two gradients can be combined"
            )
        fsdp = getattr(me.accelerator.state, "fsdp_plugin", None)
        if fsdp is not None and getattr(fsdp, "fsdp_version", 1) == 1 and not fsdp.use_orig_params:
            raise RetainFirstError(
                f"{type(self).__name__}: FSDP keeps no single parameters with use_orig_params=false; set it to true, or use"
                " version 2"
            )
        if me.is_deepspeed_enabled:
            check_zero_config(me.accelerator.state.deepspeed_plugin.deepspeed_config)
        # The columns of a pair are "forget" and "retain", which no model's forward takes: the trainer would drop both.
        me.args.remove_unused_columns = False
        self.last_geometry: Geometry | None = None
        self._loss_sum, self._micro_steps = torch.zeros(2), 0
        self._loss_scale = 1.0
        me.add_callback(_StartAfresh(self))

    @property
    def combiner(self) -> Combiner:
        """The combiner. Another one, set between two steps, combines from the next step on."""
        return self._combiner

    @combiner.setter
    def combiner(self, combiner: Combiner) -> None:
        combiner = resolve(combiner)
        if self._two_task_step is not None:
            self._two_task_step.combiner = combiner
        self._combiner = combiner

    def task_losses(self) -> tuple[Loss, Loss]:
        """Return two functions of a model and a whole batch: the forget loss and the retain loss, both to be minimised."""
        raise NotImplementedError(f"{type(self).__name__} must define task_losses()")

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002
        """Run one microbatch, forget then retain, and combine when the trainer is about to step."""
        me: Any = self
        model.train()
        if callable(getattr(me.optimizer, "train", None)):
            me.optimizer.train()
        inputs = me._prepare_inputs(inputs)
        _check_batch(inputs)
        step = self._two_task_step or self._make_step(model)
        compute_forget, compute_retain = self.task_losses()
        last = self._about_to_step()
        with step.forget(last=last):
            forget_loss = self._backward(model, inputs, compute_forget)
        with step.retain(last=last):
            retain_loss = self._backward(model, inputs, compute_retain)
        if last:
            # Under a loss scaler the gradients are that much longer, until the optimiser's step.
            scaler: Any = me.accelerator.scaler
            zero: Any = model.optimizer if me.is_deepspeed_enabled else None
            self._loss_scale = scaler.get_scale() if scaler is not None else float(getattr(zero, "loss_scale", 1.0))
            self.last_geometry = step.combine()
        self._loss_sum = self._loss_sum.to(forget_loss.device) + torch.stack([forget_loss, retain_loss]).float()
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
        inputs = me._prepare_inputs(inputs)
        _check_batch(inputs)
        with torch.no_grad(), me.compute_loss_context_manager():
            forget_loss, retain_loss = (compute(model, inputs) for compute in self.task_losses())
        return (self.combiner.alpha * retain_loss + self.combiner.gamma * forget_loss).mean(), None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add both losses and the geometry to a training log."""
        if "loss" in logs and self._micro_steps:
            # Over the processes too, like the trainer's own loss; the trainer logs on all of them at once.
            losses = getattr(self, "accelerator").reduce(self._loss_sum / self._micro_steps, "mean")  # noqa: B009
            forget_loss, retain_loss = losses.tolist()
            self._forget_losses()
            logs.update(forget_loss=forget_loss, retain_loss=retain_loss)
            if self.last_geometry is not None:
                for name, value in self.last_geometry.all_reduce().as_dict().items():
                    logs[name] = value / self._loss_scale if name.startswith("norm") else value
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _make_step(self, model: nn.Module) -> TwoTaskStep:
        step = TwoTaskStep(model, self.combiner, trained=self._in_optimizer(model), **self._memory)
        if self._step_state:
            step.load_state_dict(self._step_state)
            self._step_state = {}
        self._two_task_step = step
        return step

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save what the trainer does, and the step's state beside it."""
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        state = self._two_task_step.state_dict() if self._two_task_step else {}
        if state:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save(state, _state_file(output_dir, getattr(self, "args").process_index))  # noqa: B009

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
        self._loss_sum, self._micro_steps = torch.zeros_like(self._loss_sum), 0

    def _backward(self, model: nn.Module, inputs: Batch, compute: Loss) -> Tensor:
        me: Any = self
        with me.compute_loss_context_manager():
            loss = compute(model, inputs).mean()
        if me.is_deepspeed_enabled:
            me.accelerator.backward(loss / self._micro_batches(), scale_wrt_gas=False)
        else:
            # Exactly one of them divides by the number of microbatches: accelerate up to transformers 4.45, the trainer later.
            me.accelerator.backward(loss * (me.accelerator.gradient_accumulation_steps / self._micro_batches()))
        return loss.detach()

    def _in_optimizer(self, model: nn.Module) -> set[nn.Parameter] | None:
        """Return the parameters that the optimiser changes; None where it holds copies of its own."""
        groups = getattr(self, "optimizer").param_groups  # noqa: B009
        return {p for group in groups for p in group["params"]} & set(model.parameters()) or None

    def _micro_batches(self) -> int:
        """Return the number of microbatches in this step; recent versions know that an epoch's last step is shorter."""
        me: Any = self
        return int(getattr(me, "current_gradient_accumulation_steps", me.args.gradient_accumulation_steps))

    def _about_to_step(self) -> bool:
        """Whether the trainer steps the optimiser after this microbatch."""
        state = (accelerator := getattr(self, "accelerator")).gradient_state  # noqa: B009
        if accelerator.sync_gradients:
            return True
        # transformers 4.45 steps at the end of an epoch shorter than the accumulation, and says so only afterwards.
        loader = state.active_dataloader
        short = has_length(loader) and len(loader) <= accelerator.gradient_accumulation_steps
        return bool(state.end_of_dataloader and short)


class TwoTaskTrainerMixin(TwoTaskTraining):
    """Gives a ``transformers.Trainer`` two gradients and their combination.

    Like :class:`TwoTaskTraining`, with the two losses as methods: give ``compute_forget_loss`` and ``compute_retain_loss``.
    """

    def task_losses(self) -> tuple[Loss, Loss]:
        """Return the two methods."""
        return self.compute_forget_loss, self.compute_retain_loss

    def compute_forget_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the forget loss, to be minimised (gradient ascent gives minus the likelihood loss).

        Args:
            model: The model, as the trainer wrapped it.
            inputs: The whole batch, ``{"forget": {...}, "retain": {...}}``, on the model's device.

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_forget_loss(model, inputs)")

    def compute_retain_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the retain loss, to be minimised; arguments as in :meth:`compute_forget_loss`."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_retain_loss(model, inputs)")


class TwoTaskTrainer(TwoTaskTrainerMixin, transformers.Trainer):  # type: ignore[misc]
    """A trainer with the objectives of :mod:`retainfirst.objectives` chosen by name.

    Args:
        *args: For ``transformers.Trainer``.
        objective: ``"ga"``, ``"npo"`` or ``"simnpo"``.
        retain_loss: ``"nll"`` or ``"kl"``.
        objective_options: Keyword arguments for the forget objective: ``beta``, ``delta``, ``reference``.
        retain_options: Keyword arguments for the retain objective: ``reference``.
        **kwargs: ``combiner``, ``combiner_options``, ``offload``, ``stream``, and all that ``transformers.Trainer`` takes.

    Raises:
        RetainFirstError: An unknown objective, or one that lacks what it needs.
    """

    def __init__(
        self,
        *args: Any,
        objective: str = "simnpo",
        retain_loss: str = "nll",
        objective_options: Mapping[str, Any] | None = None,
        retain_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._forget_objective = _with_options("forget", objective, objective_options or {})
        self._retain_objective = _with_options("retain", retain_loss, retain_options or {})
        super().__init__(*args, **kwargs)

    def compute_forget_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the chosen forget objective on the forget half of the batch."""
        return self._forget_objective(model, inputs["forget"])

    def compute_retain_loss(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Return the chosen retain objective on the retain half of the batch."""
        return self._retain_objective(model, inputs["retain"])


class _StartAfresh(transformers.TrainerCallback):  # type: ignore[misc]
    """Drops microbatches left over by an earlier ``train()`` that stopped in the middle of a step."""

    def __init__(self, trainer: TwoTaskTraining) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer._two_task_step = None
        self._trainer._forget_losses()


def _state_file(folder: str, process: int) -> Path:
    return Path(folder) / f"retainfirst_{process}.pt"


def _with_options(kind: Literal["forget", "retain"], name: str, options: Mapping[str, Any]) -> Callable[..., Tensor]:
    objective = get_objective(kind, name)
    known = list(inspect.signature(objective).parameters.values())[2:]  # after the model and the batch
    names = [parameter.name for parameter in known]
    for option in options:
        if option not in names:
            raise RetainFirstError(
                f"{name} has no option {option!r}. {did_you_mean(option, names) if names else 'It has none.'}"
            )
    for parameter in known:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise RetainFirstError(
                f"{name} needs the option {parameter.name!r}; give it in the options of the {kind} objective"
            )
    return partial(objective, **options)


def _check_batch(inputs: Batch) -> None:
    for task in ("forget", "retain"):
        if not inputs.get(task):
            raise RetainFirstError(
                f"the batch has no {task!r} part, only {sorted(inputs)}; give a"
                " retainfirst.data.PairedDataset and its collator"
            )
