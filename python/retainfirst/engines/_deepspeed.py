"""DeepSpeed's ZeRO stages 1, 2 and 3: the engine averages and shards gradients, clips and steps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from retainfirst.engines._local import Engine, Gradients
from retainfirst.engines._tables import over_processes
from retainfirst.errors import RetainFirstError

__all__ = ["ZeroEngine", "check_zero_config"]


class ZeroEngine(Engine):
    """The model is in a ``DeepSpeedEngine`` with ZeRO stage 1, 2 or 3, without offloading.

    Gradients live in the engine's optimiser, averaged, each process holding its partition of them. The engine averages in each
    ``engine.backward``: a block declares every microbatch the last of a step, since the engine has one buffer for gradients and
    would mix two tasks in it. After each pass the block takes the gradients out and adds them to the task's own. :meth:`write`
    puts the update into that buffer, so that ``engine.step()`` clips it and steps. Where accelerate calls ``engine.step()`` right
    after a backward pass, the step waits until the update is there.

    Every parameter has a gradient, zero if no pass has reached it, as for DeepSpeed's own optimisers.

    Memory: two partitions of gradients over what the engine holds (stage 3), or one (stages 1 and 2).
    Bytes sent: as many as two backward passes of the engine send, for each microbatch; stage 1 by itself would average only once
    a step. Rules that look at groups send one table of 88 bytes a group and process; element-wise rules nothing more.

    Args:
        parameters: What is trained, by name.
        engine: The engine.

    Raises:
        RetainFirstError: Another stage, offloaded gradients, or an optimiser of another kind.
    """

    values_stay = False
    steps_copies = True

    def __init__(self, parameters: dict[str, nn.Parameter], engine: Any) -> None:
        super().__init__(parameters)
        self._engine, self._optimizer = engine, engine.optimizer
        self._stage = int(engine.zero_optimization_stage())
        _refuse_special(self._stage, self._optimizer)
        self.reduce = over_processes(self._optimizer.dp_process_group)
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._layout: dict[int, list[str | int]] = {}
        self._step_due = False

    @contextmanager
    def block(self, task: str, collected: Gradients) -> Iterator[None]:  # noqa: ARG002
        """See :meth:`Engine.block`."""
        engine, backward = self._engine, self._engine.backward

        def collecting(*arguments: Any, **options: Any) -> Any:
            engine.set_gradient_accumulation_boundary(True)
            loss = backward(*arguments, **options)
            self._collect(collected)
            return loss

        def put_off(*_: Any, **__: Any) -> None:
            self._step_due = True

        if self._stage == 3:
            # The last step's update is still there, and would count for parameters that the next pass does not reach.
            self._optimizer.grad_partitions_flat_buffer.zero_()
        engine.backward, engine.step = collecting, put_off
        engine.set_gradient_accumulation_boundary(True)
        try:
            yield
        finally:
            del engine.backward, engine.step
        self._collect(collected)  # of a backward pass outside the engine, which some versions allow

    def stale(self) -> str | None:
        """See :meth:`Engine.stale`."""
        return next((name for name, _ in self._held()), None) if self._stage < 3 else super().stale()

    def clear(self) -> None:
        """See :meth:`Engine.clear`."""
        super().clear()
        self._collect({})
        self._step_due = False

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """See :meth:`Engine.average`: the engine has averaged; this adds empty gradients where the partition is empty."""
        empty = torch.empty(0, dtype=self._optimizer.gradient_accumulation_dtype, device=self._engine.device)
        return lambda: {name: gradients.get(name, empty) for name in self.parameters} if gradients else {}

    def write(self, update: Gradients) -> None:
        """See :meth:`Engine.write`; then makes a step that accelerate has asked for."""
        if self._stage == 3:
            for name, place in self._held():
                place.copy_(update[name])
        else:
            for i, layout in self._layout.items():
                self._optimizer.averaged_gradients[i] = [
                    update[entry] if isinstance(entry, str) else self._padding(entry) for entry in layout
                ]
        if self._step_due:
            self._step_due = False
            self._engine.step()

    def _collect(self, collected: Gradients) -> None:
        """Take the partitions of a backward pass out of the engine."""
        for name, part in self._held():
            if name in collected:
                collected[name] += part
            else:
                collected[name] = part.clone() if self._stage == 3 else part
        if self._stage == 3:
            self._optimizer.grad_partitions_flat_buffer.zero_()
        else:
            for i in self._optimizer.averaged_gradients:
                self._optimizer.averaged_gradients[i] = None

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        """Yield this process's partitions of the gradients in the engine, by parameter, without padding."""
        zero = self._optimizer
        for i, group in enumerate(zero.fp16_groups if self._stage == 3 else zero.params_in_partition):
            found = zero.averaged_gradients.get(i)
            if found is None:
                continue
            waiting, self._layout[i] = list(group), []
            for part in found:
                # Recent versions mark padding; earlier ones have it after the last parameter only.
                if not waiting or getattr(part, "_zero_padding", False):
                    self._layout[i].append(part.numel())
                    continue
                parameter = waiting.pop(0)
                name = self._names.get(parameter)
                if name is not None:
                    self._layout[i].append(name)
                    yield name, part if self._stage < 3 else self._unpadded(parameter, part)

    def _unpadded(self, parameter: Any, part: Tensor) -> Tensor:
        start = parameter.partition_numel() * dist.get_rank(self._optimizer.dp_process_group)
        return part.narrow(0, 0, max(0, min(part.numel(), parameter.ds_numel - start)))

    def _padding(self, size: int) -> Any:
        padding: Any = torch.zeros(size, dtype=self._optimizer.gradient_accumulation_dtype, device=self._engine.device)
        padding._zero_padding = True
        return padding


def check_zero_config(config: Mapping[str, Any]) -> None:
    """Refuse a DeepSpeed configuration that cannot work, before an engine exists.

    Args:
        config: DeepSpeed's configuration.

    Raises:
        RetainFirstError: ZeRO is off, or the optimiser is offloaded.
    """
    zero = config.get("zero_optimization") or {}
    device = (zero.get("offload_optimizer") or {}).get("device") or "none"
    _refuse(int(zero.get("stage", 0)), offload=str(device) != "none")


def _refuse(stage: int, *, offload: bool) -> None:
    if stage == 0:
        raise RetainFirstError(
            "DeepSpeed without ZeRO (stage 0) is not supported; use stage 1, 2 or 3, or several processes without it"
        )
    if offload:
        raise RetainFirstError(
            "DeepSpeed's offload_optimizer keeps gradients elsewhere, which is not supported; set its device to none"
        )


def _refuse_special(stage: int, optimizer: Any) -> None:
    _refuse(
        stage, offload=bool(getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False))
    )
    kind = type(optimizer)
    plain = isinstance(optimizer, _zero_class("stage_1_and_2", "DeepSpeedZeroOptimizer")) or kind is _zero_class(
        "stage3", "DeepSpeedZeroOptimizer_Stage3"
    )
    if not plain or any(getattr(optimizer, "is_moe_param_group", ())) or getattr(optimizer, "zenflow", False):
        raise RetainFirstError(
            f"TwoTaskStep: DeepSpeed's {kind.__name__} is not supported (nor are MoE layers, MiCS and ZenFlow); use plain ZeRO,"
            " with bf16 in stage 2 or 3"
        )


def _zero_class(module: str, name: str) -> type:
    kind: type = getattr(importlib.import_module(f"deepspeed.runtime.zero.{module}"), name)
    return kind
