"""A loss that a stranger wrote, cut at the model's outputs into the parts of the two tasks.

The model's outputs are replaced by leaves without a history. The loss then depends on the model through these leaves only, and
which part of the batch a forward call held says which task its leaves belong to. By the chain rule the loss's gradient is the sum
of what goes through the forget leaves and what goes through the retain leaves, for any loss; these are the gradients of a
forget loss and a retain loss where no term holds both, which a second derivative shows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from retainfirst.errors import RetainFirstError
from retainfirst.hf._parts import ONLY_FORGETS, TASKS, Parts, find_parts, shares_memory, tensors_in

__all__ = ["CutLoss"]


class _Output(NamedTuple):
    """An output of the model, and the leaf that the loss has in its place."""

    task: str
    tensor: Tensor
    leaf: Tensor


class CutLoss:
    """The loss of one microbatch.

    Args:
        name: The trainer's class, for errors.
        models: The model that the trainer gives its loss, and the model inside it, if it is wrapped.
        parts: From :func:`retainfirst.hf._parts.check_parts`.
    """

    def __init__(self, name: str, models: Sequence[nn.Module], parts: Parts | None) -> None:
        self._name, self._models, self._parts = name, models, parts
        self._outputs: list[_Output] = []
        self._tensors: dict[str, list[Tensor]] = {}
        self._used: _Tensors = set()
        self._running: nn.Module | None = None  # the outermost model whose forward call has begun
        self.computing = False

    @contextmanager
    def compute(self, inputs: Any) -> Iterator[None]:
        """Return the context in which the trainer computes its loss of a batch.

        Raises:
            RetainFirstError: The loss cannot be split: the text names the reason.
        """
        try:
            self._tensors = find_parts(inputs, self._parts)
        except RetainFirstError as error:
            raise RetainFirstError(f"{self._name}: {error}") from None
        with ExitStack() as stack:
            for model in self._models:
                # A copy of the model that the loss makes has copies of these hooks, and must not keep the batch.
                enter, leave = _weak(self._enter), _weak(self._leave)
                stack.callback(model.register_forward_pre_hook(enter).remove)
                stack.callback(model.register_forward_hook(leave, with_kwargs=True).remove)
            stack.enter_context(self._derivatives_refused())
            self.computing = True
            try:
                yield
            except RuntimeError as error:
                if "in-place" in str(error) and "leaf" in str(error):
                    raise self._refusal(
                        f"it changes the model's outputs in place, which must be done on a copy ({error})"
                    ) from error
                raise
            finally:
                self.computing = False

    def part(self, loss: Tensor, task: str) -> Tensor:
        """Return a scalar with the loss's value and the gradient of one task's part of it.

        Args:
            loss: A loss that :meth:`check` has passed.
            task: ``"forget"`` or ``"retain"``.
        """
        mine = [one for one in self._outputs if one.task == task and one.leaf in self._used]
        leaves = [one.leaf for one in mine]

        def gradients(of_loss: Tensor) -> tuple[Tensor, ...]:
            # The incoming gradient, a loss scale for one, goes through the head as in the trainer's own run.
            return torch.autograd.grad(loss, leaves, of_loss.to(loss), retain_graph=True)

        scalar: Tensor = _Head.apply(loss.detach(), gradients, *(one.tensor for one in mine))
        return scalar

    def check(self, loss: Tensor, *, terms: bool) -> bool:
        """Check that the loss can be split.

        Args:
            loss: What the trainer wants to send backward.
            terms: Check also that no term holds both parts, which takes a second derivative of the loss by the outputs.

        Returns:
            Whether the terms were checked; a loss that is NaN or infinite shows nothing.

        Raises:
            RetainFirstError: It cannot be split: the text names the reason.
        """
        self._used = used = _leaves(loss)
        for task in TASKS:
            if not any(one.task == task for one in self._outputs):
                raise self._refusal(
                    f"it never runs the model with the {task} part of the batch"
                    + (f". {ONLY_FORGETS}" if task == "retain" else "")
                )
        others = used.difference(one.leaf for one in self._outputs)
        if others:
            raise self._refusal(
                f"it reaches {self._describe(others)} otherwise than through the model's outputs, as a weight penalty, a hook on"
                " hidden states or a second trained model does; let the loss use what the model returns"
            )
        for task in TASKS:
            if not any(one.task == task and one.leaf in used for one in self._outputs):
                raise self._refusal(f"it does not depend on what the model returned for the {task} part of the batch")
        if not terms or not loss.isfinite().all():
            return False
        self._check_terms(loss)
        return True

    def _check_terms(self, loss: Tensor) -> None:
        used = [one for one in self._outputs if one.leaf in self._used]
        forget, retain = ([one.leaf for one in used if one.task == task] for task in TASKS)
        try:
            first = torch.autograd.grad(loss, forget, torch.ones_like(loss), create_graph=True)
            varying = [gradient for gradient in first if gradient.requires_grad]
            if not varying:
                return
            with torch.random.fork_rng({one.device for one in varying if one.is_cuda}):
                # Random weights: those of the gradient of a cross-entropy add up to zero.
                probe = torch.stack([(one * torch.rand_like(one)).sum().to(loss) for one in varying]).sum()
            mixed = torch.autograd.grad(probe, retain, allow_unused=True, retain_graph=True)
        except RuntimeError as error:
            if "derivative" not in str(error) and "differentiable" not in str(error):
                raise
            raise self._refusal(
                f"whether a term holds both parts shows in a second derivative, and it has none ({error})"
            ) from error
        if any(one is not None and bool(one.any()) for one in mixed):
            raise self._refusal(
                "a term holds the forget and the retain part at once, so that it is no sum of a forget and a retain loss"
            )

    def _enter(self, model: nn.Module, _: Any) -> None:
        if self.computing and self._running is None and any(model is one for one in self._models):
            self._running = model

    def _leave(self, model: nn.Module, arguments: Any, options: Any, output: Any) -> Any:
        if not self.computing or model is not self._running:
            return None
        self._running = None
        if not torch.is_grad_enabled() or not any(one.requires_grad for one in tensors_in(output)):
            return None
        task = self._task([arguments, options])

        def cut(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            self._outputs.append(_Output(task, tensor, tensor.detach().requires_grad_()))
            return self._outputs[-1].leaf

        return _replace(output, cut)

    def _task(self, given: Any) -> str:
        """Return the task whose tensors a forward call was given."""
        inputs = list(tensors_in(given))
        found = [
            task for task in TASKS if any(shares_memory(one, part) for one in inputs for part in self._tensors[task])
        ]
        if len(found) == 2:
            raise self._refusal("a forward call of the model holds both parts of the batch; it must take one at a time")
        if not found:
            raise self._refusal(
                "a forward call of the model holds neither part of the batch: its inputs share no memory with them, as after"
                " cat() or clone(). Name the parts by a function that returns the tensors which the model is given, or their"
                " views; or let the loss run the model on slices of the batch"
            )
        return found[0]

    @contextmanager
    def _derivatives_refused(self) -> Iterator[None]:
        """Refuse derivatives of what depends on the model's outputs, which end at the leaves."""
        own = {name: getattr(torch.autograd, name) for name in ("grad", "backward")}

        def guarded(name: str) -> Callable[..., Any]:
            def derivative(*arguments: Any, **options: Any) -> Any:
                roots = tensors_in([arguments[:1], options.get("outputs"), options.get("tensors")])
                cut = {one.leaf for one in self._outputs}
                if any(cut & _leaves(root) for root in roots):
                    raise self._refusal(
                        "it takes derivatives itself, and these would end at the model's outputs; move them out of compute_loss"
                    )
                return own[name](*arguments, **options)

            return derivative

        for name in own:
            setattr(torch.autograd, name, guarded(name))
        try:
            yield
        finally:
            for name, function in own.items():
                setattr(torch.autograd, name, function)

    def _describe(self, tensors: _Tensors) -> str:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._models[-1].named_parameters()}
        found = sorted(names.get(one, f"a tensor of shape {list(one.shape)}") for one in tensors)
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    def _refusal(self, reason: str) -> RetainFirstError:
        return RetainFirstError(f"{self._name}: its loss cannot be split into a forget and a retain part: {reason}")


class _Head(torch.autograd.Function):
    """A loss's value as a function of some of the model's outputs, whose gradients are computed when they are asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Callable[[Tensor], tuple[Tensor, ...]], *_: Tensor) -> Tensor:
        """Return the value."""
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the outputs' gradients."""
        return None, None, *ctx.gradients(of_loss)


def _weak(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method as long as its object lives; a deep copy of it is the function itself."""
    reference = WeakMethod(method)

    def call(*arguments: Any) -> Any:
        alive = reference()
        return alive(*arguments) if alive else None

    return call


_Tensors = set[Tensor]


def _leaves(root: Tensor) -> _Tensors:
    """Return the leaves that a tensor's graph ends at."""
    if root.grad_fn is None:
        return {root} if root.requires_grad else set()
    found: _Tensors = set()
    seen: set[Node] = {root.grad_fn}
    waiting = [root.grad_fn]
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(leaf)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


def _replace(nested: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a model's output with other tensors; what holds none stays itself."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, Mapping):
        new: Any = copy.copy(nested)
        for key, value in nested.items():
            new[key] = _replace(value, function)
        return new
    if isinstance(nested, list | tuple):
        values = [_replace(one, function) for one in nested]
        return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)
    if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
        new = copy.copy(nested)
        for field in dataclasses.fields(nested):
            object.__setattr__(new, field.name, _replace(getattr(nested, field.name), function))
        return new
    return nested
