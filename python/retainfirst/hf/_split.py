"""Two gradients from a trainer that was not written for them, whoever wrote it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from retainfirst.combiners import Combiner
from retainfirst.errors import RetainFirstError
from retainfirst.hf._cut import CutLoss
from retainfirst.hf._parts import TASKS, Parts, check_parts
from retainfirst.hf._stepping import Batch, StepInTrainer, transformers
from retainfirst.objectives import nll
from retainfirst.step import GuardMode

__all__ = ["SplitTraining", "check_trainer", "split_trainer"]

_logger = logging.getLogger(__name__)

TrainerT = TypeVar("TrainerT")


def split_trainer(
    trainer: TrainerT,
    combiner: str | Combiner = "sago",
    parts: Parts | None = None,
    *,
    retain: Iterable[Batch] | None = None,
    where: str | Callable[[str, nn.Parameter], bool] | None = None,
    offload: Literal["cpu"] | None = None,
    stream: bool = False,
    guard: GuardMode = "off",
    **options: Any,
) -> TrainerT:
    """Make a constructed trainer take its forget and its retain gradient apart and combine them.

    The trainer's own ``training_step`` and ``compute_loss`` run once on each microbatch, as they are. Only the model's outputs
    are replaced, by leaves. Which part of the batch a forward call holds says whose outputs they are. The gradient of the loss is
    sent back through the forget outputs first and through the retain outputs then, each into its own gradients
    (:class:`~retainfirst.TwoTaskStep`). Scaling, accumulation, ``num_items_in_batch``, clipping, autocast, checkpointing,
    dropout and all that the trainer does around its loss stay its own. With ``combiner="sum"`` and without accumulation it takes
    the same steps as before, bit for bit.

    The loss must be a sum of a forget and a retain loss with any weights, each a function of the model's outputs. The first
    batches show whether it is (see Raises). The two losses cannot be logged apart; a training log has the trainer's own
    ``loss``, and the geometry of the two gradients as in :class:`TwoTaskTraining`.

    Args:
        trainer: A constructed ``transformers.Trainer`` of any class with a ``compute_loss`` of its own. Its class is replaced by
            a subclass. Call this before ``trainer.train()``.
        combiner: A combiner, or a name with its ``options`` (:func:`retainfirst.make_combiner`). The weights ``alpha`` and
            ``gamma`` multiply those that the trainer's loss has.
        parts: How to tell the tasks of a batch's parts. None: by the keys ``"forget"`` and ``"retain"``, or of two parts the
            first is forget. A name for each part in order, such as ``("forget", "forget", "retain")``; names by key, such as
            ``{"bad_ids": "forget", "good_ids": "retain"}``; or a function from a batch to ``{"forget": tensors, "retain":
            tensors}``, whose tensors may be views. A name is ``"forget"``, ``"retain"`` or ``"ignore"``. All of these may be
            texts, as for ``retainfirst run``: ``"forget,forget,retain"``, ``"bad_ids=forget,good_ids=retain"`` and
            ``"path/to/file.py:function"``.
        retain: Batches to retain on, for a trainer that only forgets: dictionaries of a model's inputs with ``labels``, such as
            those of a DataLoader. They are gone through again and again. Their loss is the likelihood loss
            (:func:`retainfirst.objectives.nll`), and all of the trainer's own loss counts as forget. With several processes each
            takes its share.
        where: See :class:`~retainfirst.TwoTaskStep`, as ``offload`` and ``stream``.
        offload: ``"cpu"`` keeps the idle task's gradients in host memory.
        stream: Combine during the retain pass; without gradient accumulation.
        guard: As in :class:`TwoTaskTraining`.
        **options: The combiner's own options, ``alpha`` and ``gamma`` among them; only with a name.

    Returns:
        The trainer.

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: At once: no trainer, or one without a loss of its own; a ``training_step`` of its own; FSDP 1, or
            DeepSpeed without ZeRO; bad ``parts``; a set-up that :class:`TwoTaskTraining` refuses too. In the first training
            step, and for the batch also later: the loss never runs the model with one of the parts; a forward call holds neither
            part, or both; parts that must be named; parameters that the loss reaches otherwise than through the model's outputs;
            a term that holds both parts; derivatives taken inside the loss; no backward pass, or several. Each text names the
            trainer, the reason and what to do.

    Example:
        .. code-block:: python

            trainer = TheirTrainer(model=model, args=args, train_dataset=pairs, beta=0.1)
            retainfirst.hf.split_trainer(trainer, "sago")
            trainer.train()
    """
    check_trainer(trainer)
    kind: Any = type(trainer)
    if retain is not None and parts is not None:
        raise RetainFirstError("split_trainer: parts is for a loss of both tasks, and retain for one that only forgets")
    body = SplitTraining if retain is None else BorrowingTraining
    made = type(f"Split{kind.__name__}", (body, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    read = check_parts(parts)
    me: Any = trainer
    me.__class__ = made
    try:
        me._choose_step(combiner, options, where=where, offload=offload, stream=stream, guard=guard)
        me._source = read if retain is None else retain
        me._join_trainer()
    except BaseException:
        me.__class__ = kind
        raise
    return trainer


def check_trainer(trainer: Any) -> None:
    """Refuse what cannot be split, as far as its class shows.

    Raises:
        RetainFirstError: It is no constructed trainer; it has no loss of its own, or a ``training_step`` of its own; or its two
            gradients are combined already.
    """
    base = transformers.Trainer
    if not isinstance(trainer, base):
        what = f"the class {trainer.__name__}" if isinstance(trainer, type) else f"a {type(trainer).__name__}"
        raise RetainFirstError(f"split_trainer needs a constructed transformers.Trainer, not {what}")
    name = type(trainer).__name__
    if isinstance(trainer, StepInTrainer):
        raise RetainFirstError(f"{name}: its two gradients are combined already")
    owner = _owner(trainer, "training_step")
    if owner is not base or "training_step" in vars(trainer):
        raise RetainFirstError(
            f"{name} has a training_step of its own{f' ({owner.__name__}.training_step)' if owner is not base else ''}, which"
            " handles gradients itself; move what it does into compute_loss or a callback"
        )
    if "compute_loss" in vars(trainer):
        raise RetainFirstError(
            f"{name}: compute_loss was set on the object; define it in the trainer's class, where it can be replaced"
        )
    if _owner(trainer, "compute_loss") is base:
        raise RetainFirstError(
            f"{name} has transformers' own compute_loss, which knows one task; give split_trainer a trainer whose"
            " compute_loss adds a forget and a retain loss, or use retainfirst.hf.TwoTaskTrainer"
        )


def _owner(trainer: Any, method: str) -> type:
    return next(kind for kind in type(trainer).__mro__ if method in vars(kind))


class SplitTraining(StepInTrainer):
    """Sends the loss of a trainer's own step back in two parts; made by :func:`split_trainer`."""

    _source: Parts | None
    _cut: CutLoss | None = None
    _terms_checked = False

    def _refuse_set_up(self) -> None:
        super()._refuse_set_up()
        if self._fsdp_version() == 1:
            raise RetainFirstError(
                f"{_own_name(self)}: FSDP 1 cannot send a loss back in two parts; use version 2 (fsdp_version: 2), DDP or ZeRO"
            )

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the trainer's own step on one microbatch, and combine when the trainer is about to step."""
        me: Any = self
        own: Any = super()
        step = self._two_task_step or self._make_step(model)
        self._guard.note_step()
        last = self._about_to_step()
        wrapped: bool = getattr(model, "module", None) is me.model
        self._cut = cut = CutLoss(_own_name(self), [model, me.model] if wrapped else [model], self._source)
        try:
            with step.forget(last=last), self._backward_of("forget", cut) as sent:
                loss: Tensor = own.training_step(model, inputs, *args, **kwargs)
                if not sent:
                    raise self._refusal("ran no backward pass through accelerate")
            ((whole, options),) = sent
            with step.retain(last=last):
                me.accelerator.backward(cut.part(whole, "retain"), **options)
        finally:
            self._cut = None
        if last:
            self._combine(model, step)
        return loss

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Do what the trainer does, in training with the model's outputs cut."""
        own: Any = super()
        if self._cut is None or self._cut.computing:
            return own.compute_loss(model, inputs, *args, **kwargs)
        if self._source is None and not isinstance(inputs, Mapping) and not self._terms_checked:
            _logger.warning(
                "%s: the first part of a batch is taken for forget and the second for retain; name them by parts= (--parts) if"
                " that is wrong",
                _own_name(self),
            )
        with self._cut.compute(inputs):
            return own.compute_loss(model, inputs, *args, **kwargs)

    @contextmanager
    def _backward_of(self, task: str, cut: CutLoss) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
        """Make the trainer's backward pass send back one task's part, and yield a list that gets the whole loss."""
        accelerator: Any = getattr(self, "accelerator")  # noqa: B009
        own, sent = accelerator.backward, list[tuple[Tensor, dict[str, Any]]]()

        def backward(loss: Tensor, **options: Any) -> None:
            if sent or cut.computing:
                raise self._refusal("runs several backward passes")
            sent.append((loss, options))
            self._terms_checked |= cut.check(loss, terms=not self._terms_checked)
            own(cut.part(loss, task), **options)

        accelerator.backward = backward
        try:
            yield sent
        finally:
            del accelerator.backward

    def _refusal(self, reason: str) -> RetainFirstError:
        return RetainFirstError(
            f"{_own_name(self)}: its training step {reason}; it must send its loss back once, by accelerator.backward, as"
            " transformers' own training step does"
        )


class BorrowingTraining(StepInTrainer):
    """Takes a trainer's own loss as the forget loss, and the likelihood loss of other batches as the retain loss."""

    _source: Iterable[Batch]
    _retain: Iterator[Batch] | None = None

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the trainer's own step and a retain pass, and combine when the trainer is about to step."""
        own: Any = super()
        _refuse_two_parts(_own_name(self), inputs)
        step = self._two_task_step or self._make_step(model)
        self._guard.note_step()
        last = self._about_to_step()
        batch = self._next_batch()
        with step.forget(last=last):
            loss: Tensor = own.training_step(model, inputs, *args, **kwargs)
        with step.retain(last=last):
            self._backward(model, batch, nll, None)
        if last:
            self._combine(model, step)
        return loss

    def _next_batch(self) -> Batch:
        me: Any = self
        if self._retain is None:
            done = me.state.global_step * me.args.gradient_accumulation_steps  # not 0 after a resume
            processes = me.accelerator.num_processes
            first = done * processes + me.accelerator.process_index
            self._retain = islice(self._endless(), first, None, processes)
        batch: Batch = me._prepare_inputs(next(self._retain))
        return batch

    def _endless(self) -> Iterator[Batch]:
        for round_ in count():
            number = -1
            for number, batch in enumerate(self._source):  # noqa: B007
                if not isinstance(batch, Mapping) or "labels" not in batch:
                    raise RetainFirstError(
                        f"{_own_name(self)}: retain must yield dictionaries of the model's inputs with labels"
                    )
                yield batch
            if number < 0:
                again = "; an iterator can be gone through once only, give a DataLoader or a list" if round_ else ""
                raise RetainFirstError(f"{_own_name(self)}: retain has no batch{again}")

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._retain = None


def _own_name(trainer: StepInTrainer) -> str:
    return type(trainer).__name__.removeprefix("Split")


def _refuse_two_parts(name: str, inputs: Any) -> None:
    keyed = isinstance(inputs, Mapping) and set(TASKS) <= inputs.keys()
    paired = isinstance(inputs, Sequence) and len(inputs) == 2 and all(isinstance(one, Mapping) for one in inputs)
    if keyed or paired:
        raise RetainFirstError(
            f"{name}: its batches have a retain part already; leave retain out, so that the loss is split"
        )
