"""The two gradients of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from retainfirst.combiners import Combiner, Sum, check_pairs, resolve_scheduled
from retainfirst.engines import Engine, Gradients, find_engine, named_parameters
from retainfirst.errors import NonFiniteGradient, RetainFirstError, StaleGradient
from retainfirst.geometry import Geometry
from retainfirst.schedule import Weight, weight_at
from retainfirst.step._guard import Guard
from retainfirst.step._named import by_name
from retainfirst.step._offload import Offload
from retainfirst.step._options import check_guard_options, check_memory_options, selection
from retainfirst.step._retain_average import RetainAverage
from retainfirst.step._streaming import Streaming
from retainfirst.step._task import Task

__all__ = ["TwoTaskStep"]


class TwoTaskStep:
    """Collects the forget and the retain gradient of one optimiser step and combines them.

    Inside :meth:`forget` and :meth:`retain` autograd accumulates straight into that task's gradients; between the blocks
    every ``.grad`` is None. :meth:`combine` writes the update over the retain gradients and hands them to ``.grad``, so a step
    holds one gradient set more than plain training, and a single activation graph if each loss is computed inside its block.
    Any number of microbatches may go into a step, in any order.

    A parameter that only one task reaches counts as zero for the other; a parameter that neither reaches keeps
    ``.grad = None``. An exception inside a block discards the whole step, both tasks, and passes on: the model has no ``.grad``
    then, and the next block starts a new step.

    With several processes each gives its own rows, and gradients are averaged over the processes before they are combined
    (:mod:`retainfirst.engines`): give the wrapped model. Each process must call :meth:`combine` equally often; a process that
    has no rows for a task leaves the task out.

    Args:
        model: The model, or its parameters, plain or with names; frozen ones are left alone. Which ones are frozen is looked up
            at the start of each step. Wrap the model before the first step.
        combiner: A combiner, or a name with its ``options``.
        trained: The parameters that the optimiser changes, if these are not all that require a gradient. The others take no
            part in the combination and its geometry; their ``.grad`` is the weighted sum, for code that looks at it
            (clipping, for one).
        where: Combine only these parameters by the combiner: a regular expression that is searched in the names, or a function
            of a name and a parameter. The others get the weighted sum ``alpha r + gamma f`` and do not count in the geometry.
        alpha: Weight of retain: a number (only with a combiner's name), or a function from the number of finished steps to a
            number, evaluated at each :meth:`combine` (:mod:`retainfirst.schedule`). One that leaves the weight's range is refused
            here, as far as its end is known.
        gamma: Weight of forget, likewise.
        offload: ``"cpu"``: the gradients of the idle task wait in host memory (pinned, for a GPU), and come back in parts, of
            16 MiB or one parameter, to be combined. The device then holds no gradient set beyond plain training's. Each step
            copies one gradient set to the host and one back (two for projections), and each further microbatch copies two
            more. For a model on the CPU nothing changes.
        stream: Combine each group of the combiner's scope as soon as the retain pass has reached all of it, and free its forget
            gradient then, so that one gradient set is held in all. This needs one process, the forget passes first, one
            backward pass of the retain loss a step, and a scope below ``"global"``.
        check_finite: Raise :class:`~retainfirst.errors.NonFiniteGradient` when a gradient holds NaN or infinity; each step then
            waits for the device. By default such values show in the update, as a loss scaler expects.
        **options: The combiner's own options; only with a name.

    Attributes:
        steps: Number of finished steps, which the functions ``alpha`` and ``gamma`` are given; set it when you resume.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: Nothing to train, or nothing that ``where`` selects; a model that is distributed in an unsupported
            way; or ``offload`` or ``stream`` where it cannot work.

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
        where: str | Callable[[str, nn.Parameter], bool] | None = None,
        alpha: Weight | None = None,
        gamma: Weight | None = None,
        offload: Literal["cpu"] | None = None,
        stream: bool = False,
        check_finite: bool = False,
        **options: Any,
    ) -> None:
        weights = {name: weight for name, weight in (("alpha", alpha), ("gamma", gamma)) if weight is not None}
        chosen, self._schedule = resolve_scheduled(combiner, **options, **weights)
        self.steps = 0
        check_memory_options(chosen, offload, stream)
        self.check_finite = check_finite
        self._offload = Offload() if offload == "cpu" else None
        self._stream = stream
        self._retain_average: RetainAverage | None = None
        self._guard: Guard | None = None
        self._combiner: Combiner = chosen
        self.combiner = chosen
        self._where = selection(where)
        self._trained = None if trained is None else set(trained)
        self._source = model if isinstance(model, nn.Module) else by_name(model)
        self._forget, self._retain = Task("forget"), Task("retain")
        self._started = False
        self._streaming: Streaming | None = None
        self._open: Task | None = None
        self._engine = self._find_engine()
        self._first = True

    @property
    def combiner(self) -> Combiner:
        """The combiner. Set another one between two steps, for example ``step.combiner.with_weights(gamma=2.0)``."""
        return self._combiner

    @combiner.setter
    def combiner(self, combiner: Combiner) -> None:
        if not isinstance(combiner, Combiner):
            raise RetainFirstError(f"TwoTaskStep: combiner must be a combiner, not {combiner!r}; see make_combiner")
        check_memory_options(combiner, "cpu" if self._offload else None, self._stream)
        if not combiner.average:
            self._retain_average = None
        elif self._retain_average is None or combiner.average != self._combiner.average:
            self._retain_average = RetainAverage(combiner.average)
        self._combiner = combiner

    def forget(self, *, last: bool = False) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the forget loss (one that is minimised).

        Args:
            last: No block of this task follows in this step, so that its gradients are averaged over processes while the other
                task's passes run. The same on every process.
        """
        return self._block(self._forget, self._retain, last)

    def retain(self, *, last: bool = False) -> AbstractContextManager[None]:
        """Return the block in which backward passes belong to the retain loss; ``last`` as in :meth:`forget`."""
        return self._block(self._retain, self._forget, last)

    @overload
    def combine(
        self,
        *,
        forget_scale: float | Tensor | None = ...,
        retain_scale: float | Tensor | None = ...,
        measure: Literal[True] = ...,
    ) -> Geometry: ...
    @overload
    def combine(
        self, *, forget_scale: float | Tensor | None = ..., retain_scale: float | Tensor | None = ..., measure: bool
    ) -> Geometry | None: ...
    def combine(
        self,
        *,
        forget_scale: float | Tensor | None = None,
        retain_scale: float | Tensor | None = None,
        measure: bool = True,
    ) -> Geometry | None:
        """Combine the gradients of both tasks and write the update to ``.grad``.

        Args:
            forget_scale: Factor of the collected forget gradient, a number or a tensor without dimensions; None: 1. For losses
                whose normalisation is known only after the last microbatch. The same on every process.
            retain_scale: Factor of the collected retain gradient, likewise.
            measure: False: write the update alone, with the same bits, which takes less time. With ``stream=True`` or
                ``check_finite`` the step is measured all the same.

        Returns:
            The geometry of the whole model, and by group on request; it waits for the device only when read. None without
            ``measure``.

        Raises:
            RetainFirstError: Called inside a block, or without a backward pass for one of the tasks.
            StaleGradient: A backward pass ran outside the blocks.
            NonFiniteGradient: A gradient holds NaN or infinity and ``check_finite`` is on; the step is discarded, as it is after
                any error in the combination.
        """
        if self._streaming and (forget_scale is not None or retain_scale is not None):
            raise RetainFirstError("combine(): with stream=True the update is made already; scale the losses instead")
        self._refuse_open("combine()")
        if not self._started:
            self._start()
        self._refuse_stale()
        forget, retain = self._averages()
        streaming = self._streaming
        self.reset()
        done = streaming.names if streaming else []
        for name, gradients in (("forget", forget), ("retain", retain)):
            if not gradients and not done:
                raise RetainFirstError(
                    f"combine(): no {name} gradient was collected in this step; run loss.backward() inside `with step.{name}():`"
                )
        _scale(forget, forget_scale)
        _scale(retain, retain_scale)
        self._set_weights()
        guard = self._watching
        if guard is not None and not streaming:
            guard.begin(self._engine, self._moved(), self.steps + 1)
        left = (forget.keys() | retain.keys()).difference(done)
        trained, others = self._split(name for name in self._engine.parameters if name in left)
        geometry = self._combine_(self.combiner, trained, forget, retain, measure=measure or self.check_finite)
        if others:
            self._combine_(self._plain(), others, forget, retain, measure=False)
        if streaming:
            geometry = Geometry.join([*streaming.geometries, geometry])
            trained = self._split(done)[0] + trained
        if self.check_finite:
            _check_finite(geometry.all_reduce(), trained)
        self._engine.write(retain)
        if guard is not None:
            guard.finish()
        self.steps += 1
        return geometry if measure else None

    def guard(self, optimizer: Optimizer, *, enforce: bool = False, every: int = 1) -> Guard:
        """Watch the optimiser's steps: where the parameters move, and with ``enforce`` that they do not move against retention.

        The combiner's promises hold for the update; the optimiser turns it into another direction (:class:`Guard`).

        Args:
            optimizer: Any ``torch.optim.Optimizer`` that takes its gradients from ``.grad`` and moves all of the step's
                parameters; what else it holds is left alone. It works with parameter groups, fused, foreach and compiled
                optimisers, gradient clipping, and ``GradScaler`` (a step that it skips is none).
            enforce: Put back every coordinate that works against the retain gradient (theorems T11 and T12).
            every: Measure each step of which the number (from 1) is a multiple; 0: none. Other steps cost nothing, unless
                ``enforce`` puts coordinates back.

        Returns:
            The guard: read ``guard.geometry`` after ``optimizer.step()``; take it off with ``guard.remove()``.

        Raises:
            RetainFirstError: The optimiser has a guard or does not hold all the step's parameters; LBFGS, whose step needs a
                closure; a DeepSpeed engine, whose optimiser moves copies of the parameters; or a bad value of ``enforce`` or
                ``every``. Later, from ``optimizer.step()``: there was no ``combine()`` since the last step.

        Example:
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = torch.optim.AdamW(model.parameters())
            >>> step = TwoTaskStep(model, "pcgrad")
            >>> guard = step.guard(optimizer, enforce=True)
            >>> with step.forget():
            ...     (-model(torch.ones(4, 2)).square().mean()).backward()
            >>> with step.retain():
            ...     model(-torch.ones(4, 2)).square().mean().backward()
            >>> _ = step.combine()
            >>> optimizer.step()
            >>> guard.geometry.opposes
            False
        """
        if self._watching is not None:
            raise RetainFirstError("step.guard(): this step has a guard already; call remove() on that one first")
        self._refuse_open("guard()")
        check_guard_options(enforce, every)
        guard = Guard(optimizer, enforce=enforce, every=every, to_host=self._offload is not None)
        try:
            guard.check_parameters(self._engine, self._moved())
        except BaseException:
            guard.remove()
            raise
        self._guard = guard
        return guard

    def reset(self) -> None:
        """Discard the gradients of the current step."""
        self._forget.reset()
        self._retain.reset()
        self._started, self._streaming = False, None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; on a process with shards, its own.

        Returns:
            ``{"steps": number}``, and ``"retain_average"``, parameter names to tensors, for a combiner with a moving average.
        """
        average = {"retain_average": self._retain_average.state_dict()} if self._retain_average else {}
        return {"steps": self.steps, **average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: From :meth:`state_dict`.

        Raises:
            RetainFirstError: The state holds a moving average, but the combiner keeps none, or the reverse.
        """
        if ("retain_average" in state) != (self._retain_average is not None):
            kept = "has" if self._retain_average else "has no"
            raise RetainFirstError(
                f"TwoTaskStep: {self.combiner.name} {kept} moving average, unlike the state to load; use the same combiner"
            )
        if self._retain_average is not None:
            self._retain_average.load_state_dict(state["retain_average"])
        self.steps = int(state["steps"])

    def _start(self) -> None:
        """Look up what is trained now: a model may be unfrozen or given adapters between two steps."""
        trainable = self._trainable()
        # At the first step once more: the model may have been wrapped since the construction.
        if self._first or not _same(trainable, self._engine.parameters):
            self._engine, self._first = self._find_engine(), False
        self._started = True

    def _set_weights(self) -> None:
        """Evaluate the functions ``alpha`` and ``gamma``."""
        if self._schedule:
            weights = {name: weight_at(weight, self.steps) for name, weight in self._schedule.items()}
            self._combiner = self._combiner.with_weights(**weights)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("alpha", "gamma", "scope", "offload", "stream", "trained", "where"):
            advice = (
                f"set step.combiner = step.combiner.with_weights({name}=...), or give a function as {name}"
                if name in ("alpha", "gamma")
                else "make a new TwoTaskStep"
            )
            raise AttributeError(f"TwoTaskStep: setting {name} would change nothing; {advice}")
        super().__setattr__(name, value)

    @contextmanager
    def _block(self, task: Task, idle: Task, last: bool) -> Iterator[None]:
        self._refuse_open(f"{task.name}()")
        if not self._started:
            self._start()
        self._refuse_stale()
        self._refuse_other_parameters()
        if task.closed:
            raise RetainFirstError(
                f"{task.name}(): an earlier block of this step had last=True; no block may follow it"
            )
        streaming = self._start_streaming(task) if self._stream else None
        self._open = task
        try:
            if self._offload:
                self._offload.make_room(task, idle, self._engine)
            with self._engine.block(task.name, task.gradients), streaming.running() if streaming else nullcontext():
                yield
            if last:
                task.close(self._engine)
        except BaseException:
            self._engine.clear()
            self.reset()
            raise
        finally:
            self._open = None

    def _averages(self) -> tuple[Gradients, Gradients]:
        """Average both tasks over processes; with offloading, leave the forget gradients on the host."""
        tasks = self._forget, self._retain
        try:
            for task, idle in (tasks, tasks[::-1]):
                if self._offload:
                    self._offload.average(task, idle, self._engine)
                task.close(self._engine)
            for task in tasks:
                task.averages(self._engine)
            if self._offload:
                self._offload.make_room(self._retain, self._forget, self._engine)
            return self._forget.gradients, self._retain.gradients
        except BaseException:
            self.reset()
            raise

    def _start_streaming(self, task: Task) -> Streaming | None:
        if task is self._forget:
            if self._streaming is not None:
                raise RetainFirstError(
                    "forget(): with stream=True the forget passes of a step come before its retain pass"
                )
            return None
        if self._streaming is not None or not self._forget.gradients:
            problem = "once a step" if self._streaming else "after the forget passes"
            raise RetainFirstError(f"retain(): with stream=True this block comes {problem}")
        trained, others = self._split(self._engine.parameters)
        groups = [[trained[i] for i in members] for members in self.combiner.group(trained).members]

        def combine(names: list[str], forget: Gradients, retain: Gradients) -> Geometry | None:
            if self._split(names)[0]:
                return self._combine_(self.combiner, names, forget, retain)
            self._combine_(self._plain(), names, forget, retain)
            return None

        groups += [[name] for name in others]
        if self._watching is not None:
            self._watching.begin(self._engine, self._moved(), self.steps + 1)
        self._streaming = Streaming(self._engine.parameters, groups, self._forget.gradients, combine)
        return self._streaming

    def _combine_(
        self, combiner: Combiner, names: list[str], forget: Gradients, retain: Gradients, *, measure: bool = True
    ) -> Geometry:
        """Combine parameters, each reached by one task at least; the update goes into ``retain``."""
        for name in names:
            if name not in retain:
                retain[name] = torch.zeros_like(forget[name], device=self._engine.parameters[name].device)
            elif name not in forget:
                forget[name] = torch.zeros_like(retain[name])
        mine: tuple[list[Tensor], list[Tensor]] = [forget[name] for name in names], [retain[name] for name in names]
        pairs = check_pairs(combiner.name, names, *mine, same_device=self._offload is None)
        if self._watching is not None:
            self._watching.keep(combiner, names, forget, retain)
        if combiner.average and self._retain_average:
            self._retain_average.replace(names, retain)
        return combiner.combine_named_(*pairs, combiner.group(names), self._engine.reduce, measure=measure)

    def _plain(self) -> Combiner:
        return Sum(self.combiner.alpha, self.combiner.gamma)

    def _split(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Split names into those to combine by the combiner and the others."""
        trained: list[str] = []
        others: list[str] = []
        for name in names:
            parameter = self._engine.parameters[name]
            mine = (self._trained is None or parameter in self._trained) and self._where(name, parameter)
            (trained if mine else others).append(name)
        return trained, others

    @property
    def _watching(self) -> Guard | None:
        """The guard, unless it was removed."""
        return None if self._guard is None or self._guard.removed else self._guard

    def _moved(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimiser changes."""
        parameters = self._engine.parameters
        return {n: p for n, p in parameters.items() if self._trained is None or p in self._trained}

    def _refuse_open(self, call: str) -> None:
        if self._open is not None:
            raise RetainFirstError(f"{call} inside `with step.{self._open.name}():`; leave that block first")

    def _refuse_stale(self) -> None:
        name = self._engine.stale()
        if name is not None:
            self.reset()
            raise StaleGradient(
                f"{name}: .grad is set outside the blocks of TwoTaskStep, so it would be lost or counted for the wrong task."
                " Call optimizer.zero_grad(set_to_none=True) after optimizer.step(), and backward() only inside a block."
                " With accelerate's accumulate(), call combine() only `if accelerator.sync_gradients`: its optimizer skips step()"
                " and zero_grad() at the other microbatches. The current step was discarded."
            )

    def _refuse_other_parameters(self) -> None:
        """Refuse a step in which a parameter was unfrozen: it would miss one task's gradient."""
        before = self._engine.parameters
        name = next((name for name, parameter in self._trainable().items() if before.get(name) is not parameter), None)
        if name is not None:
            self.reset()
            raise RetainFirstError(
                f"{name}: it was unfrozen or replaced between two blocks of a step, so that one task would miss its gradient;"
                " change requires_grad only after combine(). The current step was discarded."
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
        if not any(self._where(name, parameter) for name, parameter in trainable.items()):
            raise RetainFirstError(
                f"TwoTaskStep: where selects none of the {len(trainable)} trained parameters, such as {next(iter(trainable))}"
            )
        return trainable


def _scale(gradients: Gradients, factor: float | Tensor | None) -> None:
    if factor is not None:
        for gradient in gradients.values():
            gradient.mul_(factor.to(gradient.device) if isinstance(factor, Tensor) else factor)


def _same(left: dict[str, nn.Parameter], right: dict[str, nn.Parameter]) -> bool:
    return left.keys() == right.keys() and all(right[name] is parameter for name, parameter in left.items())


def _check_finite(geometry: Geometry, names: list[str]) -> None:
    for i, tasks in geometry.not_finite().items():
        raise NonFiniteGradient(
            f"{names[i]}: the {' and the '.join(tasks)} gradient holds NaN or infinity; lower the learning rate, clip, or look"
            " at the loss. The step was discarded."
        )
