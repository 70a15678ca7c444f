"""Two gradients where training has one: collect them apart, combine them, and leave the result in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from retainfirst._named import by_name
from retainfirst._streaming import Streaming
from retainfirst.combiners import Combiner, Sum, check_pairs, resolve
from retainfirst.engines import Engine, Gradients, HostMemory, find_engine, named_parameters
from retainfirst.errors import NonFiniteGradient, RetainFirstError, StaleGradient
from retainfirst.geometry import Geometry

__all__ = ["TwoTaskStep", "check_memory_options"]

_TASKS = ("forget", "retain")


class TwoTaskStep:
    """Collects the forget and the retain gradient of one optimiser step and combines them.

    Inside :meth:`forget` and :meth:`retain` autograd accumulates straight into that task's gradients; between the blocks
    every ``.grad`` is None. :meth:`combine` writes the update over the retain gradients and hands them to ``.grad``, so one
    gradient set is held on top of what plain training holds, and a single activation graph is alive if each loss is computed
    inside its block. Any number of micro-batches may go into a step, in any order.

    A parameter that only one task reaches counts as zero for the other; one that neither reaches keeps ``.grad = None``.
    An exception inside a block discards the whole step, both tasks, and passes on: the model has no ``.grad`` then, and the
    next block starts a new step.

    With several processes each gives its own rows, and gradients are averaged over the processes before they are combined
    (:mod:`retainfirst.engines`): give the wrapped model or the one inside the wrapper. Each process must call :meth:`combine`
    equally often; one that has no rows for a task leaves the task out.

    Args:
        model: The model, or its parameters, plain or with names; the frozen ones are left alone. Which ones are frozen is
            looked up at the start of each step. Wrap it before the first step.
        combiner: A combiner, or a name with its ``options``.
        trained: The parameters that the optimiser changes, where these are not all that require a gradient. The others take no
            part in the rule and its geometry, and their ``.grad`` is the weighted sum, for what looks at it (clipping, for one).
        offload: ``"cpu"``: the task whose passes do not run waits in the memory of the host (pinned, for a GPU), and is brought
            back in parts, of 16 MiB or one parameter, to be combined; no gradient set is then held on the device beyond what
            plain training holds. It costs one copy of a gradient set to the host and one back (two for rules that look at
            groups), and two more for each further micro-batch. For a model on the CPU nothing changes.
        stream: Combine each group of the rule's scope as soon as the retain pass has reached all of it, and free its forget
            gradient there and then, so that one gradient set is held in all. It needs one process, the forget passes first, one
            backward pass of the retain loss a step, and a scope below ``"global"``.
        check_finite: Raise :class:`~retainfirst.errors.NonFiniteGradient` when a gradient holds NaN or infinity. Costs a wait
            for the device at each step. Without it such values show in the update, as a loss scaler expects.
        **options: ``alpha``, ``gamma``, ``scope``, ``aggregator``; only with a name.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: Nothing to train, a model that is distributed in a way that is not supported, or ``offload`` or
            ``stream`` where it cannot work.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> step = TwoTaskStep(model, "sago", alpha=1.0, gamma=0.5)
        >>> with step.forget():
        ...     (-model(torch.ones(4, 2)).square().mean()).backward()
        >>> with step.retain():
        ...     model(-torch.ones(4, 2)).square().mean().backward()
        >>> geometry = step.combine()  # then optimizer.step() and optimizer.zero_grad()
        >>> geometry.cos_update_retain >= 0
        True
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        combiner: str | Combiner = "sago",
        *,
        trained: Iterable[nn.Parameter] | None = None,
        offload: Literal["cpu"] | None = None,
        stream: bool = False,
        check_finite: bool = False,
        **options: Any,
    ) -> None:
        self.combiner = resolve(combiner, **options)
        self.check_finite = check_finite
        check_memory_options(self.combiner, offload, stream)
        self._host = HostMemory() if offload == "cpu" else None
        self._stream = stream
        self._trained = None if trained is None else set(trained)
        self._source = model if isinstance(model, nn.Module) else by_name(model)
        self._started = False
        self._gradients: dict[str, Gradients] = {}
        self._averaging: dict[str, Callable[[], Gradients]] = {}
        self._streaming: Streaming | None = None
        self._open: str | None = None
        self._engine = self._find_engine()
        self._first = True

    def forget(self, *, last: bool = False) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the forget loss (one that is minimised).

        Args:
            last: No block of this task follows in this step, so that averaging its gradients over processes may begin when the
                block ends and go on during the other task's passes. The same on every process.
        """
        return self._block("forget", last)

    def retain(self, *, last: bool = False) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the retain loss; ``last`` as in :meth:`forget`."""
        return self._block("retain", last)

    def combine(self) -> Geometry:
        """Combine what the blocks collected and write the update to ``.grad``.

        Returns:
            The geometry of the whole model, and by group on request; it waits for the device only when read.

        Raises:
            RetainFirstError: Called inside a block, or without a backward pass for one of the tasks.
            StaleGradient: A backward pass ran outside the blocks.
            NonFiniteGradient: A gradient holds NaN or infinity and ``check_finite`` was asked for; the step is discarded, as it
                is after any error in the combination itself.
        """
        self._refuse_open("combine()")
        if not self._started:
            self._start()
        self._refuse_stale()
        forget, retain = self._averages()
        streaming, self._streaming = self._streaming, None
        self.reset()
        for task, gradients in (("forget", forget), ("retain", retain)):
            if not gradients and not (streaming and streaming.names):
                raise RetainFirstError(
                    f"combine(): no {task} gradient was collected in this step; run loss.backward() inside `with step.{task}():`"
                )
        if self._host is not None:
            self._host.swap("forget", forget, retain, self._engine.parameters)
        done = streaming.names if streaming else []
        left = (forget.keys() | retain.keys()).difference(done)
        trained, others = self._split(name for name in self._engine.parameters if name in left)
        geometry = self._combine_(self.combiner, trained, forget, retain)
        if others:
            self._combine_(self._plain(), others, forget, retain)
        if streaming:
            geometry = Geometry.join([*streaming.geometries, geometry])
            trained = self._split(done)[0] + trained
        if self.check_finite:
            _check_finite(geometry.all_reduce(), trained)
        self._engine.write(retain)
        return geometry

    def reset(self) -> None:
        """Discard what the blocks of the current step have collected."""
        self._started, self._gradients, self._averaging, self._streaming = False, {}, {}, None

    def _start(self) -> None:
        """Look up what is trained now: a model may be unfrozen or given adapters between two steps."""
        trainable = self._trainable()
        # At the first step once more: the model may have been wrapped since the construction.
        if self._first or not _same(trainable, self._engine.parameters):
            self._engine, self._first = self._find_engine(), False
        self._started = True

    @contextmanager
    def _block(self, task: str, last: bool) -> Iterator[None]:
        self._refuse_open(f"{task}()")
        if not self._started:
            self._start()
        self._refuse_stale()
        if task in self._averaging:
            raise RetainFirstError(f"{task}(): a block of this step was the last one already, as its last=True said")
        streaming = self._start_streaming(task) if self._stream else None
        collected = self._gradients.setdefault(task, {})
        self._open = task
        try:
            if self._host is not None:
                self._make_room(task, self._host)
            with self._engine.block(task, collected), streaming.running() if streaming else nullcontext():
                yield
            if last:
                self._averaging[task] = self._engine.average(collected)
        except BaseException:
            self._engine.clear()
            self.reset()
            raise
        finally:
            self._open = None

    def _averages(self) -> tuple[Gradients, Gradients]:
        try:
            for task in _TASKS:
                if task not in self._averaging:
                    self._average(task)
            return self._averaging["forget"](), self._averaging["retain"]()
        except BaseException:
            self.reset()
            raise

    def _average(self, task: str) -> None:
        gradients = self._gradients.setdefault(task, {})
        if self._host is None or not self._engine.averages_at_the_end:
            self._averaging[task] = self._engine.average(gradients)
            return
        # One task after the other, so that the device holds the gradients of one.
        self._make_room(task, self._host)
        done = self._gradients[task] = self._engine.average(gradients)()
        self._averaging[task] = lambda: done

    def _make_room(self, task: str, host: HostMemory) -> None:
        """Send the other task's gradients to the host before this task's passes."""
        [other] = {*_TASKS} - {task}
        leaving = self._gradients.get(other, {})
        if other in self._averaging:
            leaving = self._gradients[other] = self._averaging[other]()
            self._averaging[other] = lambda: leaving
        host.swap(other, leaving, self._gradients[task], self._engine.parameters)

    def _start_streaming(self, task: str) -> Streaming | None:
        if task == "forget":
            if self._streaming is not None:
                raise RetainFirstError(
                    "forget(): with stream=True the forget passes of a step come before its retain pass"
                )
            return None
        if self._streaming is not None or not self._gradients.get("forget"):
            problem = "once a step" if self._streaming else "after the forget passes"
            raise RetainFirstError(f"retain(): with stream=True this block comes {problem}")
        trained, others = self._split(self._engine.parameters)
        groups = [[trained[i] for i in group] for group in self.combiner.group(trained).values()]

        def combine(names: list[str], forget: Gradients, retain: Gradients) -> Geometry | None:
            if self._split(names)[0]:
                return self._combine_(self.combiner, names, forget, retain)
            self._combine_(self._plain(), names, forget, retain)
            return None

        groups += [[name] for name in others]
        self._streaming = Streaming(self._engine.parameters, groups, self._gradients["forget"], combine)
        return self._streaming

    def _combine_(self, rule: Combiner, names: list[str], forget: Gradients, retain: Gradients) -> Geometry:
        """Combine parameters, each reached by one task at least; the update goes into ``retain``."""
        for name in names:
            if name not in retain:
                retain[name] = torch.zeros_like(forget[name], device=self._engine.parameters[name].device)
            elif name not in forget:
                forget[name] = torch.zeros_like(retain[name])
        mine = [forget[name] for name in names], [retain[name] for name in names]
        pairs = check_pairs(rule.name, names, *mine, same_device=self._host is None)
        return rule.combine_named_(*pairs, rule.group(names), self._engine.reduce)

    def _plain(self) -> Combiner:
        return Sum(self.combiner.alpha, self.combiner.gamma)

    def _split(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Split names into those that the optimiser changes and the others."""
        trained: list[str] = []
        others: list[str] = []
        for name in names:
            mine = self._trained is None or self._engine.parameters[name] in self._trained
            (trained if mine else others).append(name)
        return trained, others

    def _refuse_open(self, call: str) -> None:
        if self._open is not None:
            raise RetainFirstError(f"{call} inside `with step.{self._open}():`; leave that block first")

    def _refuse_stale(self) -> None:
        name = self._engine.stale()
        if name is not None:
            self.reset()
            raise StaleGradient(
                f"{name}: .grad is set outside the blocks of TwoTaskStep, so it would be lost or counted for the wrong task."
                " Call optimizer.zero_grad(set_to_none=True) after optimizer.step(), and backward() only inside a block."
                " The current step was discarded."
            )

    def _find_engine(self) -> Engine:
        engine = find_engine(self._source if isinstance(self._source, nn.Module) else None, self._trainable())
        if self._stream and type(engine) is not Engine:
            raise RetainFirstError(
                f"TwoTaskStep: stream=True works in one process; {type(engine).__name__} averages over several, which must come"
                ' first; use offload="cpu" to save memory'
            )
        return engine

    def _trainable(self) -> dict[str, nn.Parameter]:
        source = self._source
        everything = named_parameters(source) if isinstance(source, nn.Module) else source
        trainable = {name: p for name, p in everything.items() if p.requires_grad}
        if not trainable:
            raise RetainFirstError("TwoTaskStep: no parameter requires a gradient; unfreeze what is to be trained")
        return trainable


def check_memory_options(combiner: Combiner, offload: object, stream: object) -> None:
    """Refuse values of ``offload`` and ``stream`` of :class:`TwoTaskStep` that cannot work.

    Raises:
        RetainFirstError: An unknown value, or streaming with a rule that needs the whole gradient.
    """
    if offload not in (None, "cpu"):
        raise RetainFirstError(f'offload must be "cpu" or None, not {offload!r}')
    if not isinstance(stream, bool):
        raise RetainFirstError(f"stream must be True or False, not {stream!r}")
    if stream and getattr(combiner, "scope", None) == "global":
        raise RetainFirstError(
            f"{combiner.name} with scope 'global' needs the whole gradient before it can combine any of it, so that stream=True"
            " would save nothing; choose another scope, or leave stream out"
        )


def _same(left: dict[str, nn.Parameter], right: dict[str, nn.Parameter]) -> bool:
    return left.keys() == right.keys() and all(right[name] is parameter for name, parameter in left.items())


def _check_finite(geometry: Geometry, names: list[str]) -> None:
    for i, tasks in geometry.not_finite().items():
        raise NonFiniteGradient(
            f"{names[i]}: the {' and the '.join(tasks)} gradient holds NaN or infinity; lower the learning rate, clip, or look"
            " at the loss. The step was discarded."
        )
