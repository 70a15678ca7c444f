"""``RetainFirst<X>``: the framework's trainer ``<X>``, whose two gradients are combined by a combiner."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sized
from numbers import Real
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor

from retainfirst.combiners import Combiner, check_schedule, combiner_options, make_combiner
from retainfirst.errors import RetainFirstError, UnknownCombiner, did_you_mean
from retainfirst.hf import SplitTraining, TwoTaskTraining, tokenizer_of, transformers
from retainfirst.schedule import Linear, Weight, parse_weight, weight_at
from retainfirst.scope import check_scope
from retainfirst.step import GuardMode
from retainfirst_open_unlearning.adapters import AdapterTraining
from retainfirst_open_unlearning.evaluator import measure_everywhere
from retainfirst_open_unlearning.metrics import with_prefix
from retainfirst_open_unlearning.output import check_output
from retainfirst_open_unlearning.register import PREFIX
from retainfirst_open_unlearning.split import OwnRetainLoss, SplitLoss, split_class
from retainfirst_open_unlearning.stopping import make_stop

__all__ = ["RetainFirstTraining", "make_trainer"]

_logger = logging.getLogger(__name__)

SMALLEST_WEIGHT = 1e-30
"""Used for ``alpha = 0``, which is the default of some methods and which no combiner takes. The combiner still sees the retain
gradient, but adds so little of it that rounding removes it."""


def make_trainer(name: str, registry: Mapping[str, Any]) -> type:
    """Make the class ``RetainFirst<X>`` from the framework's ``<X>``.

    Args:
        name: ``"RetainFirst<X>"``.
        registry: The framework's trainers by name.

    Raises:
        RetainFirstError: The framework has no ``<X>``, or ``<X>`` cannot work with two gradients; the text says why.
    """
    wanted = name.removeprefix(PREFIX)
    base = registry.get(wanted)  # a fork's registry may load a trainer when it is looked up
    if not isinstance(base, type):
        own = [key for key in registry if not key.startswith(PREFIX)]
        raise RetainFirstError(f"{name}: open-unlearning has no trainer {wanted!r}. {did_you_mean(wanted, own)}")
    try:
        split = split_class(base)
    except RetainFirstError as error:
        raise RetainFirstError(f"{name}: {error}") from None
    bases = [RetainFirstTraining, base] if split is SplitLoss else [split, RetainFirstTraining, base]
    if not hasattr(base, "compute_retain_loss"):
        bases.append(registry["GradDiff"])  # its retain loss, with alpha, gamma and retain_loss_type
    bases.append(_LastConstructor)
    about = {"__module__": __name__, "__doc__": f"{wanted} with two gradients.", "_framework_trainer": base}
    return type(name, tuple(bases), about)


class _FrameworkTraining(AdapterTraining):
    """What all our trainers do around a step of the framework's."""

    _framework_trainer: type
    _schedules: dict[str, Weight]
    _weights: tuple[float, float]

    def _read_weights(self) -> None:
        """Read ``alpha`` and ``gamma`` anew, as the framework does: a schedule or a callback may have changed them."""
        me: Any = self
        for name, schedule in self._schedules.items():
            setattr(self, name, weight_at(schedule, me.state.global_step))
        if (weights := self._current_weights()) != self._weights:
            self._weights = weights
            me.combiner = me.combiner.with_weights(alpha=weights[0], gamma=weights[1])

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as the framework does; ``trainer.args.metric_for_best_model`` can name each result of its evaluators."""
        metrics = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        evaluators = getattr(self, "evaluators", None)
        if not evaluators or not isinstance(metrics, Mapping):
            return metrics
        if getattr(self, "accelerator").num_processes > 1:  # noqa: B009 - there the framework runs none
            metrics = {**metrics, **measure_everywhere(self, evaluators)}
        return with_prefix(metrics, kwargs.get("metric_key_prefix", "eval"))

    def _current_weights(self) -> tuple[float, float]:
        me: Any = self
        for name in ("alpha", "gamma"):
            value = getattr(me, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise RetainFirstError(
                    f"trainer.method_args.{name}: {value!r} is not a number; give one without quotes"
                )
        return (float(me.alpha) or SMALLEST_WEIGHT, float(me.gamma))


class RetainFirstTraining(_FrameworkTraining, SplitLoss, TwoTaskTraining):
    """The part that all ``RetainFirst<X>`` share; goes before the framework's ``<X>`` in the bases.

    Args:
        *args: For the framework's trainer.
        combiner: The name of a combiner, as in :func:`retainfirst.make_combiner`: ``sago``, ``torchjd:UPGrad``, a name that an
            installed package registers, ``path/to/rules.py:name``.
        combiner_options: The combiner's options, except for its weights.
        scope: Short for the option of that name; combiners without it ignore it.
        guard: ``"off"``, ``"measure"`` or ``"enforce"`` (:class:`retainfirst.hf.TwoTaskTraining`); YAML reads ``off`` as False.
        stop_at_forget: Options to stop at a forget target (:func:`retainfirst_open_unlearning.stopping.make_stop`).
        **kwargs: For the framework's trainer: its ``method_args`` (``alpha``, ``gamma``, ...) among them. A weight that is a text
            ``START:END:STEPS`` moves linearly (:class:`retainfirst.schedule.Linear`).

    Raises:
        UnknownCombiner: No combiner has that name.
        RetainFirstError: An unknown scope, option or kind of data, or a set-up that is not supported.
    """

    _computed = False  # whether a batch has shown that the trainer calls compute_retain_loss, or only forgets

    def __init__(
        self,
        *args: Any,
        combiner: str = "sago",
        combiner_options: Mapping[str, Any] | None = None,
        scope: str | None = None,
        guard: GuardMode | Literal[False] = "off",
        stop_at_forget: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        made = _make_combiner(combiner, combiner_options, scope)
        _check_data(kwargs.get("train_dataset"))
        if "tokenizer" in kwargs and "tokenizer" not in _parameters(transformers.Trainer.__init__):
            kwargs["processing_class"] = kwargs.pop("tokenizer")  # renamed in transformers 5
        self._schedules: dict[str, Weight] = {}
        for name in ("alpha", "gamma"):
            if isinstance(value := kwargs.get(name), str) and ":" in value:
                self._schedules[name] = _schedule(name, value)
                kwargs[name] = weight_at(self._schedules[name], 0)
        super().__init__(*args, combiner=made, guard="off" if guard is False else guard, **kwargs)
        if "training_step" in vars(self):
            raise RetainFirstError(
                f"{type(self).__name__}: the trainer's constructor sets a training_step of its own, which hides retainfirst's"
            )
        self._weights = self._current_weights()
        if self._weights[0] == SMALLEST_WEIGHT:
            _logger.warning("alpha is 0: the combiner sees the retain gradient, but does not add it")
        self.combiner = self.combiner.with_weights(alpha=self._weights[0], gamma=self._weights[1])
        for name, schedule in self._schedules.items():
            _check_schedule(self.combiner, name, schedule)
        arguments: Any = getattr(self, "args")  # noqa: B009
        if stop_at_forget is not None:
            me: Any = self
            batch_size = arguments.per_device_eval_batch_size
            me.add_callback(make_stop(stop_at_forget, me.train_dataset, tokenizer_of(me), batch_size))
        if not arguments.process_index:
            check_output(arguments.output_dir)
            _say_batch(arguments)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a microbatch."""
        self._read_weights()
        state = None if self._computed else _random_state()
        try:
            loss = super().training_step(*args, **kwargs)
        except OwnRetainLoss:
            if state is None:
                raise
            _set_random_state(state)
            whole: Tensor = self._split_at_outputs().training_step(*args, **kwargs)
            return whole
        self._computed = True
        self.check_last_batch()
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch."""
        try:
            return super().prediction_step(*args, **kwargs)
        except OwnRetainLoss:
            if self._computed:
                raise
            return self._split_at_outputs().prediction_step(*args, **kwargs)

    def _split_at_outputs(self) -> Any:
        """Become a trainer that splits its whole loss, because it computes its retain loss itself."""
        me: Any = self
        name, base = type(self).__name__, self._framework_trainer
        if not hasattr(base, "compute_retain_loss") and me.retain_loss_type != "NLL":
            raise RetainFirstError(
                f"trainer.method_args.retain_loss_type={me.retain_loss_type} has no effect: {base.__name__} computes its retain"
                " loss itself; leave the option out"
            )
        me.__class__ = type(name, (_SplitTraining, base), {"__module__": __name__, "_framework_trainer": base})
        me._refuse_set_up()
        me._read_weights()
        _logger.info(
            "%s computes its retain loss itself: its loss is split at the model's outputs, and logged as a whole", name
        )
        return me

    def task_losses(self) -> tuple[Any, Any]:
        """See :class:`retainfirst.hf.TwoTaskTraining`."""
        return self.forget_loss, self.retain_loss


class _SplitTraining(_FrameworkTraining, SplitTraining):
    """Splits the whole loss of the framework's trainer, for one that computes its retain loss itself."""

    _source = None  # the framework's batches have the keys forget and retain

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a microbatch."""
        self._read_weights()
        return super().training_step(*args, **kwargs)

    def _current_weights(self) -> tuple[float, float]:
        """A trainer with ``alpha`` and ``gamma`` of its own has weighed its losses by them already."""
        own = hasattr(self._framework_trainer, "compute_retain_loss")
        return (1.0, 1.0) if own else super()._current_weights()


class _LastConstructor(transformers.Trainer):  # type: ignore[misc]
    """The last class before transformers' Trainer: it refuses the options that no constructor before it has taken.

    transformers' own error names neither the trainer nor the option's place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        taken = _parameters(transformers.Trainer.__init__)
        for option in kwargs:
            if option not in taken:
                known = set().union(*(_parameters(one.__init__) for one in type(self).__mro__))  # type: ignore[misc]
                name, hint = type(self).__name__, did_you_mean(option, sorted(known - {"self"}))
                raise RetainFirstError(f"{name} has no option trainer.method_args.{option}. {hint}")
        super().__init__(*args, **kwargs)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    cuda: Any = torch.cuda
    return torch.get_rng_state(), cuda.get_rng_state_all() if cuda.is_initialized() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _make_combiner(name: str, options: Mapping[str, Any] | None, scope: str | None) -> Combiner:
    """Make the combiner that ``trainer.method_args`` asks for, with weights of 1."""
    here = "trainer.method_args"
    if OmegaConf.is_config(options):
        options = OmegaConf.to_container(options, resolve=True)  # type: ignore[assignment]
    if not isinstance(options, Mapping | None):
        raise RetainFirstError(f"{here}.combiner_options: {options!r} is not a mapping; write {{option: value}}")
    given = {str(option): value for option, value in (options or {}).items()}
    for weight in ("alpha", "gamma"):
        if weight in given:
            raise RetainFirstError(
                f"{here}.combiner_options: set {weight} by {here}.{weight}, where the framework has it"
            )
    try:
        known = combiner_options(name)
    except UnknownCombiner as error:
        raise UnknownCombiner(f"{here}.combiner: {error}") from None
    except RetainFirstError as error:
        raise RetainFirstError(f"{here}.combiner: {error}") from None
    if scope is not None:
        try:
            check_scope(scope)
        except RetainFirstError as error:
            raise RetainFirstError(f"{here}.scope: {error}") from None
        if given.get("scope", scope) != scope:
            raise RetainFirstError(
                f"{here}.scope is {scope!r}, but {here}.combiner_options.scope is {given['scope']!r}"
            )
        if "scope" in known:
            given["scope"] = scope
        else:
            _logger.info("%s is element-wise: scope=%s has no effect", name, scope)
    try:
        return make_combiner(name, **given)
    except RetainFirstError as error:
        raise type(error)(f"{here}.{'combiner_options' if given else 'combiner'}: {error}") from None


def _schedule(name: str, text: str) -> Weight:
    try:
        return parse_weight(text)
    except RetainFirstError as error:
        raise RetainFirstError(f"trainer.method_args.{name}: {error}") from None


def _check_schedule(combiner: Combiner, name: str, schedule: Weight) -> None:
    if name == "alpha" and isinstance(schedule, Linear):  # the framework's alpha may be 0
        schedule = Linear(schedule.start or SMALLEST_WEIGHT, schedule.end or SMALLEST_WEIGHT, schedule.steps)
    try:
        check_schedule(combiner, name, schedule)
    except RetainFirstError as error:
        raise RetainFirstError(f"trainer.method_args.{name}: {error}") from None


def _check_data(dataset: Any) -> None:
    """Refuse training data without a forget or a retain part, where one can tell."""
    if hasattr(dataset, "forget") and hasattr(dataset, "retain"):
        parts = {part for part in ("forget", "retain") if getattr(dataset, part)}
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and len(dataset):
        with torch.random.fork_rng(devices=[]):  # the data set may draw a retain row
            row = dataset[0]
        parts = set(row) if isinstance(row, Mapping) else set()
    else:
        return
    for part in ("forget", "retain"):
        if part not in parts:
            raise RetainFirstError(
                f"the training data have no {part!r} part; set data.{part} to a data set of the framework, and data.anchor"
            )


def _say_batch(args: Any) -> None:
    """Log how many pairs a step takes. With several GPUs and one process that is easily more than was meant."""
    gpus, processes, accumulated = max(1, args.n_gpu), args.world_size, args.gradient_accumulation_steps
    factors = f"{args.per_device_train_batch_size} a device, {gpus * processes} devices, {accumulated} microbatches"
    text = f"a step takes {args.train_batch_size * processes * accumulated} pairs: {factors}"
    if gpus == 1:
        _logger.info(text)
    else:
        _logger.warning(
            "%s. One process with %d GPUs uses DataParallel: start one process for each GPU by accelerate launch or torchrun, or"
            " name one GPU with CUDA_VISIBLE_DEVICES",
            text, gpus,
        )  # fmt: skip


def _parameters(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
