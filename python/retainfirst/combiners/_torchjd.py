"""TorchJD's aggregators as two-task combiners, from dot products alone."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor

from retainfirst import moments as m
from retainfirst.combiners._projection import ProjectionCombiner
from retainfirst.combiners._registry import register
from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean, require

__all__ = ["TorchJD"]

# TorchJD gives these the rows, but their weights follow from the number of rows or the dot products alone.
_ROWS_BY_DOT_PRODUCTS = ("Mean", "Sum", "Constant", "Random", "NashMTL")
_WORKING = (
    "UPGrad, DualProj, MGDA, CAGrad, AlignedMTL, IMTLG, PCGrad, FairGrad, GradVac, or another that derives from"
    f" GramianWeightedAggregator, or {', '.join(_ROWS_BY_DOT_PRODUCTS[:-1])} or {_ROWS_BY_DOT_PRODUCTS[-1]}"
)


@register("torchjd", argument="aggregator")
@dataclass(frozen=True)
class TorchJD(ProjectionCombiner):
    """Combine by an aggregator of the library TorchJD (``pip install 'retainfirst[torchjd]'``).

    Per group of the scope: ``u = w_1 gamma f + w_2 alpha r``, with the two weights that the aggregator gives the matrix of
    rows ``gamma f`` (forget, the first) and ``alpha r`` (retain, the second). The aggregator sees only the 2x2 Gram matrix of
    these rows, so no matrix of gradients is ever made. The aggregator alone decides what the update promises to retention.

    Aggregators with a Gramian weighting work, so does a bare ``Weighting[PSDMatrix]``, and ``Mean``, ``Sum``, ``Constant``,
    ``Random`` and ``NashMTL``. Those that read single coordinates (``GradDrop``, ``TrimmedMean``, ``ConFIG``, ``ExcessMTL``)
    or need three rows (``Krum``) are refused. One that keeps a state from step to step (``GradVac``, ``PCD``, ``NashMTL``)
    takes the scope ``"global"`` only, as several groups would share the state; resetting and saving it is up to you. Random
    ones draw from torch's global generator.

    The aggregator does not see a group whose two gradients are zero, which gets a zero update, nor a group with NaN or
    infinity, which gets NaN. Each step waits for the device, since TorchJD's solvers run on the host.

    Source: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024; each aggregator has its own.

    Args:
        alpha: Weight of the retain gradient, finite and above 0.
        gamma: Weight of the forget gradient, finite and at least 0.
        scope: ``"tensor"``, ``"module"``, ``"block"`` or ``"global"``.
        aggregator: The aggregator, such as ``torchjd.aggregation.UPGrad()``, or its name with constants as arguments, such as
            ``"UPGrad"`` or ``"CAGrad(c=0.5)"``; required. By name: ``make_combiner("torchjd:UPGrad")``.

    Raises:
        MissingDependency: TorchJD is not installed.
        RetainFirstError: The aggregator is missing, or does not work from a Gram matrix of two rows or at this scope; or a weight
            or the scope is out of its range. In a step: the aggregator failed.
    """

    scope: str = "global"
    aggregator: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("torchjd", "torchjd")
        if isinstance(self.aggregator, str):
            object.__setattr__(self, "aggregator", _by_name(self.aggregator))
        _weights_of(self.aggregator)
        if not self._stateful:
            with torch.random.fork_rng(devices=[]):  # a trial: a wrong number of rows shows here, not in the first step
                self._ask(torch.eye(2, dtype=torch.float64))
        elif self.scope != "global":
            raise RetainFirstError(f"{self._state_text()}; take scope='global', not {self.scope!r}")

    def coefficients(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """``c_r = alpha w_retain``, ``c_f = gamma w_forget``."""
        if self._stateful and len(moments) > 1:
            raise RetainFirstError(f"{self._state_text()}; give one group, not {len(moments)}")
        weights = torch.full((len(moments), 2), math.nan, dtype=torch.float64)
        for g, gram in enumerate(_gram_matrices(moments, self.alpha, self.gamma, self._like.dtype)):
            if not gram.any():
                weights[g] = 0.0
            elif gram.isfinite().all():
                weights[g] = self._ask(gram)
        w_forget, w_retain = weights.to(moments.device, moments.dtype).unbind(1)
        return self.alpha * w_retain, self.gamma * w_forget

    def _ask(self, gram: Tensor) -> Tensor:
        """Return the weights of the two rows on the host, shape ``[2]``."""
        kind = type(self.aggregator).__name__
        try:
            with torch.no_grad():
                weights = _weights_of(self.aggregator)(gram.to(self._like))
        except Exception as error:
            raise RetainFirstError(
                f"torchjd: {kind} failed on two rows with the Gram matrix {gram.tolist()}: {error}"
            ) from error
        if not isinstance(weights, Tensor) or weights.shape != (2,):
            found = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
            raise RetainFirstError(f"torchjd: {kind} must give two weights for two rows, not {found}")
        return weights.detach().cpu().double()

    @property
    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device that the aggregator can compute with."""
        for module in self.aggregator.modules():
            preference = getattr(module, "pref_vector", None)
            # Some multiply by it, and torch refuses a product of two dtypes or devices.
            if isinstance(preference, Tensor) and preference.is_floating_point():
                return preference
        return torch.empty(0, dtype=torch.float64)

    @property
    def _stateful(self) -> bool:
        torchjd, library = require("torchjd", "torchjd"), _library()
        stateful = getattr(torchjd, "Stateful", None) or library.Stateful  # moved in TorchJD 0.14
        return any(isinstance(module, stateful) for module in self.aggregator.modules())

    def _state_text(self) -> str:
        kind = type(self.aggregator).__name__
        return f"torchjd: {kind} keeps a state from step to step, which the groups of one step would share"


def _library() -> ModuleType:
    return require("torchjd.aggregation", "torchjd")


def _weights_of(aggregator: Any) -> Callable[[Tensor], Any]:
    """Return the function from a Gram matrix to weights of an aggregator or a weighting of TorchJD, or refuse it."""
    library = _library()
    kind = type(aggregator).__name__
    if not isinstance(aggregator, (library.Aggregator, library.Weighting)):
        what = "is missing" if aggregator is None else f"must be an aggregator of TorchJD, not {aggregator!r}"
        raise RetainFirstError(
            f"torchjd: aggregator {what}; for example make_combiner('torchjd', aggregator=torchjd.aggregation.UPGrad()), or"
            " its name, as in torchjd:UPGrad"
        )
    names = [*_ROWS_BY_DOT_PRODUCTS, *(f"{name}Weighting" for name in _ROWS_BY_DOT_PRODUCTS)]
    by_dot_products = tuple(getattr(library, name) for name in names if hasattr(library, name))
    if isinstance(aggregator, library.Weighting):
        if _takes_gram_matrix(aggregator, library):
            return aggregator  # type: ignore[no-any-return]
        if isinstance(aggregator, by_dot_products):
            return lambda gram: aggregator(_factor(gram))
        raise RetainFirstError(
            f"torchjd: the weighting {kind} is not declared to take a Gramian (Weighting[PSDMatrix]); if it does take one,"
            f" wrap it in torchjd.aggregation.GramianWeightedAggregator. Aggregators that work: {_WORKING}"
        )
    # An aggregator with a forward of its own does more than weigh the rows; its weighting alone would be another combiner.
    if getattr(type(aggregator), "forward", None) is library.WeightedAggregator.forward:
        if isinstance(aggregator, library.GramianWeightedAggregator):
            return aggregator.gramian_weighting  # type: ignore[no-any-return]
        if isinstance(aggregator, by_dot_products):
            return lambda gram: aggregator.weighting(_factor(gram))
    raise RetainFirstError(
        f"torchjd: {kind} needs the gradients themselves, and only their dot products are at hand; choose one of {_WORKING}"
    )


def _takes_gram_matrix(weighting: Any, library: ModuleType) -> bool:
    """Whether a weighting is declared for the type that ``GramianWeightedAggregator`` passes on."""
    wanted = get_type_hints(library.GramianWeightedAggregator.__init__)["gramian_weighting"]
    return any(wanted in kind.__dict__.get("__orig_bases__", ()) for kind in type(weighting).__mro__)


def _by_name(text: str) -> Any:
    """Make an aggregator from ``"Name"`` or ``"Name(constant, option=constant)"``.

    Raises:
        RetainFirstError: It has another form, TorchJD has no such aggregator, or refuses the arguments.
    """
    library = _library()
    classes = {name: one for name, one in vars(library).items() if isinstance(one, type)}
    known = [name for name, one in classes.items() if issubclass(one, library.Aggregator)]
    try:
        call = ast.parse(text, mode="eval").body
        name, arguments, options = (
            (call.func, call.args, call.keywords) if isinstance(call, ast.Call) else (call, [], [])
        )
        if not isinstance(name, ast.Name):
            raise ValueError
        values = [ast.literal_eval(one) for one in arguments]
        named = {str(one.arg): ast.literal_eval(one.value) for one in options}
    except (SyntaxError, ValueError):
        raise RetainFirstError(
            f"torchjd: {text!r} is no aggregator; give a name, with constants as arguments, such as UPGrad or CAGrad(c=0.5)"
        ) from None
    if name.id not in known:
        raise RetainFirstError(f"torchjd: unknown aggregator {name.id!r}. {did_you_mean(name.id, known)}")
    try:
        return getattr(library, name.id)(*values, **named)
    except ImportError as error:
        raise MissingDependency(f"torchjd: {error}") from error
    except (TypeError, ValueError) as error:
        raise RetainFirstError(
            f"torchjd: {text!r}: {error}; give constants as arguments, such as CAGrad(c=0.5)"
        ) from error


def _gram_matrices(moments: Tensor, alpha: float, gamma: float, dtype: torch.dtype) -> Tensor:
    """Return the Gram matrices of the rows ``gamma f`` and ``alpha r`` on the host, float64 of shape ``[g, 2, 2]``.

    They are unscaled wherever ``dtype`` holds them, since some aggregators have absolute thresholds. Where the longer row's
    square would leave the range, a power of two scales both rows so that the square lies at the range's edge: an aggregator
    without thresholds gives the same weights there, and one with thresholds still sees a very long or a very short row.
    """
    table = moments.detach().cpu().double()
    edge = 15 / 32 * math.log2(torch.finfo(dtype).max)  # not 1/2, to leave some of the range to the shorter row
    log_gamma = math.log2(gamma) if gamma > 0 else -math.inf
    f = table[:, m.FF].log2() / 2 + table[:, m.EF] + log_gamma
    r = table[:, m.RR].log2() / 2 + table[:, m.ER] + math.log2(alpha)
    longer = torch.maximum(f, r)
    shift = torch.where(longer.isfinite(), longer - longer.clamp(-edge, edge), 0.0).round()
    scale_f, scale_r = _shifted(gamma, table[:, m.EF] - shift), _shifted(alpha, table[:, m.ER] - shift)
    ff, rr = table[:, m.FF] * scale_f * scale_f, table[:, m.RR] * scale_r * scale_r
    # A row that underflows is a zero row, and has no dot product with the other.
    fr = torch.where((ff.to(dtype) == 0) | (rr.to(dtype) == 0), 0.0, table[:, m.FR] * scale_f * scale_r)
    return torch.stack([ff, fr, fr, rr], 1).view(-1, 2, 2)


def _shifted(weight: float, exponent: Tensor) -> Tensor:
    """Return ``weight * 2**exponent``, in two halves, as the power alone may be out of range."""
    half = torch.floor(exponent / 2)
    return weight * torch.exp2(half) * torch.exp2(exponent - half)


def _factor(gram: Tensor) -> Tensor:
    """Return two rows in the plane that have this Gram matrix."""
    (aa, ab), (_, bb) = gram
    along = torch.where(aa > 0, ab / aa.sqrt(), 0.0)
    across = (bb - along * along).clamp(min=0).sqrt()
    return torch.stack([torch.stack([aa.sqrt(), torch.zeros_like(aa)]), torch.stack([along, across])])
