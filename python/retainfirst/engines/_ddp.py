"""torch's DistributedDataParallel: every process holds the whole model and its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from retainfirst.engines._local import Engine, Gradients
from retainfirst.errors import DtypeMismatch, RetainFirstError
from retainfirst.transfer import send

__all__ = ["DDPEngine"]

# As DDP's own default. A larger gradient is a bucket by itself.
BUCKET_BYTES = 25 * 2**20

_Item = tuple[str, nn.Parameter]


class DDPEngine(Engine):
    """The model is wrapped in ``DistributedDataParallel``.

    Gradients live whole in ``.grad`` on every process, as without DDP. All passes run under DDP's ``no_sync``: its own averaging
    would overwrite one task's gradients by the other's where gradients are views of its buckets. Each task's gradients are
    averaged once a step, after all its microbatches, in buckets of 25 MiB that become the gradients' memory. With ``last=True`` a
    step sends one task's buckets while the other task's passes run.

    Bytes sent: two gradient sets a step, twice those of plain DDP, and two bytes a parameter tensor; the combination sends
    nothing. A parameter that only some processes reach counts as zero on the others.

    DDP's ``find_unused_parameters`` makes no difference, and may be False although a task leaves parameters out, as long as
    the forward passes run inside the blocks.

    Args:
        parameters: What is trained, by name.
        wrappers: The wrappers that hold the model, or parts of it. Parameters outside them are not averaged, nor those that
            they ignore.

    Raises:
        RetainFirstError: A wrapper with a communication hook, mixed precision of its own, or ``static_graph``.
    """

    averages_at_the_end = True

    def __init__(self, parameters: dict[str, nn.Parameter], wrappers: Sequence[DistributedDataParallel]) -> None:
        super().__init__(parameters)
        self._wrappers = wrappers
        for wrapper in wrappers:
            _refuse_special(wrapper)
        self._shared = _by_process_group(parameters, wrappers)

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Return the context in which DDP does not average."""
        with ExitStack() as stack:
            for wrapper in self._wrappers:
                if wrapper._join_config.enable:
                    raise RetainFirstError(
                        "TwoTaskStep: DistributedDataParallel.join() is not supported; let every process call combine() equally"
                        " often, if need be without a block before it"
                    )
                stack.enter_context(wrapper.no_sync())
                if wrapper.gradient_as_bucket_view:
                    stack.enter_context(_out_of_buckets(wrapper))
            yield

    def average(self, gradients: Gradients) -> Callable[[], Gradients]:
        """See :meth:`Engine.average`; asynchronous."""
        waiting = [_Averaging(items, gradients, group) for group, items in self._shared]

        def finish() -> Gradients:
            for averaging in waiting:
                averaging.finish()
            for wrapper in self._wrappers:
                # Without this, DDP would never broadcast buffers again, as it does after each step of its own.
                wrapper.require_forward_param_sync = True
            return gradients

        return finish


@contextmanager
def _out_of_buckets(wrapper: DistributedDataParallel) -> Iterator[None]:
    """Keep gradients out of DDP's buckets: a forward pass outside the blocks would make DDP average into them."""
    before = {p: p.grad for p in wrapper.parameters()}
    yield
    for parameter, old in before.items():
        if parameter.grad is None or parameter.grad is old:
            continue
        if old is not None:
            raise RetainFirstError(
                "TwoTaskStep: a gradient was replaced inside a block, by zero_grad(), or by DistributedDataParallel with"
                " gradient_as_bucket_view=True because the forward pass ran outside the block; compute the loss inside it"
            )
        parameter.grad = parameter.grad.clone()


class _Averaging:
    """An average of gradients in flight."""

    def __init__(self, items: Sequence[_Item], gradients: Gradients, group: dist.ProcessGroup) -> None:
        self._gradients = gradients
        self._missing: dict[str, tuple[int, Tensor]] = {}
        # Every process sends every parameter: asking the others first would wait for the device.
        reached = [name in gradients for name, _ in items]
        self._flags = send(torch.tensor(reached, dtype=torch.uint8), items[0][1].device)
        self._work = [dist.all_reduce(self._flags, dist.ReduceOp.MAX, group, async_op=True)]
        position = {name: i for i, (name, _) in enumerate(items)}
        for bucket in _buckets(items):
            flat = self._fill(bucket, position).div_(group.size())
            self._work.append(dist.all_reduce(flat, group=group, async_op=True))

    def _fill(self, bucket: Sequence[_Item], position: dict[str, int]) -> Tensor:
        """Move gradients into one flat tensor, of which they are views from then on."""
        name, parameter = bucket[0]
        found = self._gradients.get(name)
        if len(bucket) == 1 and found is not None and found.is_contiguous() and parameter.is_contiguous():
            _check(name, found, parameter)
            if found.device == parameter.device:  # not on the host
                return found.view(-1)
        flat = torch.zeros(sum(p.numel() for _, p in bucket), dtype=parameter.dtype, device=parameter.device)
        start = 0
        for name, parameter in bucket:
            part = _like(flat[start : start + parameter.numel()], parameter)
            start += parameter.numel()
            if name in self._gradients:
                _check(name, self._gradients[name], parameter)
                self._gradients[name] = part.copy_(self._gradients[name])
            else:
                self._missing[name] = position[name], part
        return flat

    def finish(self) -> None:
        for work in self._work:
            work.wait()
        if self._missing:
            reached = self._flags.tolist()
            self._gradients.update({name: part for name, (i, part) in self._missing.items() if reached[i]})


def _check(name: str, gradient: Tensor, parameter: Tensor) -> None:
    if gradient.layout != torch.strided or gradient.dtype != parameter.dtype:
        raise DtypeMismatch(
            f"{name}: the gradient is {gradient.dtype}, {gradient.layout}, and the parameter {parameter.dtype}; only dense"
            " gradients of the parameter's dtype can be averaged over processes"
        )


def _like(part: Tensor, parameter: Tensor) -> Tensor:
    """View a flat part in the shape of a parameter and, if that is dense, with its strides, as autograd gives gradients."""
    dense = sorted(zip(parameter.stride(), parameter.shape, strict=True))
    expected = 1
    for stride, size in dense:
        if size > 1 and stride != expected:
            return part.view(parameter.shape)
        expected *= size
    return part.as_strided(parameter.shape, parameter.stride())


def _buckets(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Group parameters of a dtype and a device, the same way on every process."""
    kinds: dict[tuple[torch.dtype, torch.device], list[_Item]] = {}
    for name, parameter in items:
        kinds.setdefault((parameter.dtype, parameter.device), []).append((name, parameter))
    for alike in kinds.values():
        bucket: list[_Item] = []
        size = 0
        for name, parameter in alike:
            if bucket and size + parameter.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append((name, parameter))
            size += parameter.nbytes
        yield bucket


def _by_process_group(
    parameters: dict[str, nn.Parameter], wrappers: Sequence[DistributedDataParallel]
) -> list[tuple[dist.ProcessGroup, list[_Item]]]:
    group_of: dict[nn.Parameter, dist.ProcessGroup] = {}
    for wrapper in wrappers:
        for name, parameter in wrapper.module.named_parameters(remove_duplicate=False):
            if name not in wrapper.parameters_to_ignore:
                group = group_of.setdefault(parameter, wrapper.process_group)
                if group is not wrapper.process_group:
                    raise RetainFirstError(
                        f"TwoTaskStep: {name} is in two DistributedDataParallel wrappers with different process groups; give the"
                        " one that counts, or drop the other"
                    )
    shared: dict[dist.ProcessGroup, list[_Item]] = {}
    for name, parameter in parameters.items():
        if parameter in group_of:
            shared.setdefault(group_of[parameter], []).append((name, parameter))
    return list(shared.items())


def _refuse_special(wrapper: DistributedDataParallel) -> None:
    if wrapper._comm_hooks:
        raise RetainFirstError(
            "TwoTaskStep: a DistributedDataParallel with a communication hook averages in its own way, which is not supported;"
            " build it without register_comm_hook (with accelerate: without comm_hook)"
        )
    if wrapper.static_graph:
        raise RetainFirstError(
            "TwoTaskStep: DistributedDataParallel with static_graph=True averages in the first backward pass whatever it is told;"
            " build it without, which costs nothing here"
        )
    if wrapper.mixed_precision is not None:
        raise RetainFirstError(
            "TwoTaskStep: DistributedDataParallel's own mixed_precision is not supported; use autocast, or a model in bfloat16"
        )
