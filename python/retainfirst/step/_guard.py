"""The guard: measures the step that an optimiser makes against the two gradients, and puts back what works against retain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from retainfirst import kernels
from retainfirst.combiners import SAGO, Combiner
from retainfirst.engines import Engine, Gradients, local
from retainfirst.errors import RetainFirstError
from retainfirst.step._step_geometry import StepGeometry, step_table

__all__ = ["GUARD_MODES", "Guard", "GuardMode", "guard_step_"]

GuardMode = Literal["off", "measure", "enforce"]
"""What a trainer does about its optimiser's steps."""

GUARD_MODES: tuple[str, ...] = get_args(GuardMode)

_guarded: WeakSet[Optimizer] = WeakSet()


@torch.no_grad()
def guard_step_(before: Iterable[Tensor], after: Iterable[Tensor], retain: Iterable[Tensor]) -> int:
    """Put back every coordinate of a step that works against the retain gradient (theorem T11), in a loop of your own.

    Afterwards no coordinate has ``(after - before) * retain > 0``. Only stored numbers are compared, so that this is exact in
    every format. NaN is never put back.

    Args:
        before: Parameters before the step.
        after: The same after it, changed in place.
        retain: Retain gradients of the same shapes.

    Returns:
        The number of coordinates that were put back; it waits for the device.

    Raises:
        RetainFirstError: The lists differ in length or shapes.

    Example:
        >>> after = [torch.tensor([1.5, -1.5])]
        >>> guard_step_([torch.tensor([1.0, -1.0])], after, [torch.tensor([2.0, 2.0])])
        1
        >>> after
        [tensor([ 1.0000, -1.5000])]
    """
    lists = [list(before), list(after), list(retain)]
    shapes = [[x.shape for x in tensors] for tensors in lists]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise RetainFirstError(
            f"guard_step_: before, after and retain must have the same shapes, not {[list(map(tuple, s)) for s in shapes]}"
        )
    if not lists[1]:
        return 0
    return int(kernels.guard_(lists[0], lists[1], signs=lists[2])[1].sum())


class Guard:
    """Watches the steps of an optimiser; made by :meth:`retainfirst.TwoTaskStep.guard`.

    A combiner's promises are about the update ``u`` in ``.grad``. The parameters move by ``d``, their difference over
    ``optimizer.step()``, which preconditioning, momentum and weight decay turn away from ``u``. The guard measures ``d``, and
    with ``enforce`` it puts back every coordinate that works against the retain gradient ``r``. Then ``d_i r_i <= 0`` at every
    coordinate and ``<d, r> <= 0`` (theorem T11), exactly in every format and with any optimiser.

    SAGO's update has the signs of ``r`` or is zero (theorem T12). With SAGO, enforcing therefore reads ``.grad`` and needs no
    copy of ``r``; it also puts back coordinates where ``.grad`` is zero. Clipping and loss scaling keep the signs. Around an
    optimiser that is not one of ``torch.optim`` it copies ``.grad``, which that step may change.

    Memory: during ``optimizer.step()`` a copy of the parameters; from ``combine()`` until then a copy of ``r`` where it is
    needed, and in steps that are measured one of the forget gradient too. With the step's ``offload="cpu"`` they are in host
    memory.

    Attributes:
        geometry: The geometry of the last measured step; None before the first.
        enforce: Whether coordinates are put back. A change counts from the next ``combine()``, as of ``every``.
        every: After how many steps one is measured; 0: never.
        removed: Whether :meth:`remove` was called.
    """

    def __init__(self, optimizer: Optimizer, *, enforce: bool, every: int, to_host: bool) -> None:
        """Set the guard; see :meth:`retainfirst.TwoTaskStep.guard`."""
        self.geometry: StepGeometry | None = None
        self.enforce, self.every, self.removed = enforce, every, False
        self._optimizer, self._to_host = _checked(optimizer), to_host
        self._versions: dict[str, tuple[nn.Parameter, int]] = {}
        self._depth = 0  # of nested calls of step()
        self._reset()
        # torch.compile must not trace into the hooks.
        compiler: Any = torch.compiler
        before, after = compiler.disable(self._before_step), compiler.disable(self._after_step)
        self._handles = [self._optimizer.register_step_pre_hook(before), self._optimizer.register_step_post_hook(after)]
        _guarded.add(self._optimizer)

    def remove(self) -> None:
        """Take the guard off; the optimiser then steps as before."""
        for handle in self._handles:
            handle.remove()
        _guarded.discard(self._optimizer)
        self._reset()
        self.removed = True

    def begin(self, engine: Engine, moved: dict[str, nn.Parameter], number: int) -> None:
        """Begin a combination.

        Args:
            engine: The step's engine.
            moved: The parameters that the optimiser moves, by name.
            number: The number of the step, from 1.

        Raises:
            RetainFirstError: The parameters have changed since the last combination, but not by the guarded optimiser; or it
                does not hold them.
        """
        changed = next((name for name, (p, version) in self._versions.items() if p._version != version), None)
        self._reset()
        if changed is not None:
            raise RetainFirstError(
                f"{changed}: it has changed since the last combine(), but not by a whole step of the {self._kind} that the guard"
                " watches. After replacing the optimiser call guard.remove() and step.guard(optimizer)"
            )
        self.check_parameters(engine, moved)
        self._engine, self._moved = engine, moved
        self._due, self._number, self._enforced = True, number, self.enforce
        self._measured = self.every > 0 and number % self.every == 0

    def keep(self, combiner: Combiner, names: list[str], forget: Gradients, retain: Gradients) -> None:
        """Keep what the guard needs of the gradients, before the update overwrites them.

        Args:
            combiner: Combines these parameters.
            names: The parameters; each has both gradients.
            forget: By parameter name.
            retain: By parameter name.
        """
        # A subclass of SAGO may have another formula.
        by_update = self._enforced and type(combiner) is SAGO
        if by_update:
            self._by_update.update(names)
        for name in names:
            if self._measured or (self._enforced and not by_update):
                self._retain[name] = self._copy(retain[name])
            if self._measured:
                self._forget[name] = self._copy(forget[name])

    def finish(self) -> None:
        """End a combination: only the guarded optimiser may change the parameters now."""
        if self._engine.values_stay:
            self._versions = {name: (parameter, parameter._version) for name, parameter in self._moved.items()}

    def check_parameters(self, engine: Engine, moved: dict[str, nn.Parameter]) -> None:
        """Refuse an optimiser that does not move the step's parameters, or an engine whose optimiser moves copies of them.

        Raises:
            RetainFirstError: See above.
        """
        if engine.steps_copies:
            raise RetainFirstError(
                f"step.guard(): {type(engine).__name__} moves flat copies of its partitions and writes the parameters from them,"
                " so that a guard on the parameters would be overwritten; use DDP or FSDP, or no guard"
            )
        held = {parameter for group in self._optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, parameter in moved.items() if parameter not in held]
        if missing:
            raise RetainFirstError(
                f"step.guard(): this {self._kind} does not hold {len(missing)} of the step's {len(moved)} parameters, such as"
                f" {missing[0]}. Give the one optimiser that moves all of them; if the model was wrapped or the optimiser rebuilt"
                " since, call guard.remove() and step.guard(optimizer) again"
            )

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A subclass may call its base's step(), which has hooks too: only the outermost call counts.
        if self._depth > 0:
            self._depth += 1
            return
        if any(argument is not None for argument in (*args[1:], kwargs.get("closure"))):  # the first is the optimiser
            raise RetainFirstError(
                "Guard: optimizer.step(closure) computes gradients inside the step; call combine() first, and step() without one"
            )
        if not self._due:
            raise RetainFirstError(
                f"Guard: {type(optimizer).__name__}.step() without combine() since the last step; call combine() before each"
                " step, or take the guard off with guard.remove()"
            )
        if self._measured or self._enforced:
            self._remember(optimizer)
        self._depth = 1

    def _remember(self, optimizer: Optimizer) -> None:
        """Copy the parameters that will move, and take note of the update's signs."""
        # Optimisers of torch leave the signs of .grad alone, or make it zero; others may add weight decay to it in place.
        keeps_signs = type(optimizer).__module__.startswith("torch.optim.")
        for name, parameter in self._moved.items():
            if parameter.grad is None:
                continue  # it does not move
            if name not in self._retain and name not in self._by_update:
                raise RetainFirstError(
                    f"Guard: {name} has a .grad that combine() did not write; run backward passes inside the blocks of"
                    " TwoTaskStep"
                )
            self._before[name] = self._copy(local(parameter))
            if name in self._by_update:
                signs = local(parameter.grad).detach()
                self._signs[name] = signs if keeps_signs else self._copy(signs)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        if self._measured or self._enforced:
            others = [name for name in self._before if name not in self._signs]
            found = [self._guard_([*self._signs], [*self._signs.values()], zeros=True)] if self._signs else []
            if others:
                kept = [self._retain[name] for name in others] if self._enforced else None
                found.append(self._guard_(others, kept, zeros=False))
            if self._measured and not _skipped(optimizer):
                table = step_table(found, local(next(iter(self._moved.values()))))
                self.geometry = StepGeometry(table, self._engine.reduce, self._number)
        self._reset()

    def _guard_(self, names: list[str], signs: list[Tensor] | None, *, zeros: bool) -> tuple[Tensor | None, Tensor]:
        before = [self._before[name] for name in names]
        after = [local(self._moved[name]).detach() for name in names]
        gradients = None
        if self._measured:
            gradients = [self._forget[name] for name in names], [self._retain[name] for name in names]
        return kernels.guard_(before, after, signs=signs, zeros=zeros, gradients=gradients)

    @property
    def _kind(self) -> str:
        return type(self._optimizer).__name__

    def _copy(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not self._to_host or tensor.is_cpu:
            return tensor.clone()
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor, non_blocking=True)

    def _reset(self) -> None:
        self._due = self._measured = self._enforced = False
        self._number = self._depth = 0
        self._before: Gradients = {}
        self._signs: Gradients = {}
        self._retain: Gradients = {}
        self._forget: Gradients = {}
        self._by_update: set[str] = set()
        self._versions = {}


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser has skipped the step by itself, as a loss scaler told it; this waits for the device."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf > 0)


def _checked(optimizer: object) -> Optimizer:
    """Return the optimiser whose hooks run; accelerate's and DeepSpeed's wrappers hold it as ``optimizer``."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    if not isinstance(optimizer, Optimizer):
        raise RetainFirstError(f"step.guard(): {optimizer!r} is not a torch.optim.Optimizer")
    if isinstance(optimizer, LBFGS):
        raise RetainFirstError(
            "step.guard(): LBFGS moves the parameters several times in one step, with gradients of its own; use another optimiser"
        )
    if optimizer in _guarded:
        raise RetainFirstError(
            f"step.guard(): this {type(optimizer).__name__} has a guard already; call remove() on that one first"
        )
    return optimizer
