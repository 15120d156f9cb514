"""What state and `Info` tell of one member's training, made ready to be judged."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jills import results
from jills.types import Info, State

FLAT = 0.01  # a loss that changes by less than this share of its scale does not change
VALIDATION = ("validation_loss", "val_loss")  # names among the metrics
LEAST_GAIN = 1e-3  # of a loss that may be negative: gains below this share of it may be rounding
FALLEN = 0.1  # a gradient of which only the norm is told is small below this share of its largest
AT_REST = 1e-3  # the last update is below this share of the parameters' norm
ROUNDING = 10.0  # units in the last place
EXACT = 1e-6  # of the highest loss


class Evidence(NamedTuple):
    """What `jills.evidence` tells of a member."""

    log_evidence: np.ndarray  # (T,)
    effective: np.ndarray  # (T, g) γ of each group
    most_beta: float  # the largest β of all outputs, at the end
    parameters: int  # p


class History(NamedTuple):
    """One member's; arrays are NumPy's."""

    code: int  # a `results.Code`
    steps: int  # T
    losses: np.ndarray  # (T + 1,), or (T,) where the final one is not known yet
    best_loss: float
    moved: float  # the last update over the norm of all parameters
    rounding: (
        float  # of the loss at zero, for squared errors: that of the predictions, by the output layer's parameters
    )
    gradient: float  # the last one over its scale; NaN: none is told
    small: float  # what counts as a small one; NaN: none is told
    ill_conditioned: np.ndarray | None  # (T,) bool; None: not told
    validation: np.ndarray | None  # (T,); None: not recorded
    saturated: float  # share of the first layer's units at the start
    finds_its_length: bool  # whether the algorithm chooses how far to go, as Gauss–Newton does
    in_float32: bool
    evidence: Evidence | None = None  # None: of another algorithm

    @classmethod
    def of(cls, state: State, info: Info) -> "History":
        """From a state and `Info` of one member: leaves `[]` and `[T]` of NumPy."""
        losses = _without_repeat(np.append(info.loss, state.loss))
        size = _norm(state.params)
        return cls(
            code=int(state.result),
            steps=len(info.loss),
            losses=losses,
            best_loss=float(state.best_loss),
            moved=float(info.update_norm[-1]) / (size if size > 0 else 1.0),
            rounding=(ROUNDING * float(np.finfo(info.loss.dtype).eps) * _norm(state.params[-1])) ** 2,
            **_gradient(info.detail, losses, size),
            ill_conditioned=_ill_conditioned(info.detail),
            validation=_validation(info),
            saturated=float(state.saturated),
            finds_its_length=hasattr(info.detail, "relative_gradient"),
            in_float32=info.loss.dtype == np.float32,
            evidence=_evidence(state, info.detail),
        )

    @property
    def window(self) -> int:
        """The last fifth of the steps."""
        return max(1, self.steps // 5)

    @property
    def is_still(self) -> bool:
        """Whether the last update was small."""
        return self.moved <= AT_REST

    @property
    def floor(self) -> float:
        """Losses that differ by less are the same. Of a member at rest: in motion parameters may be senseless."""
        return self.rounding if self.is_still else 0.0

    @property
    def is_small(self) -> bool | None:
        """Whether the last gradient is small; None: none is told."""
        return None if np.isnan(self.gradient) else bool(self.gradient <= self.small)

    @property
    def is_exact(self) -> bool:
        """Whether the loss ends at zero but for rounding."""
        return np.min(self.losses) >= 0 and self.losses[-1] <= min(self.rounding, EXACT * np.max(self.losses))

    @property
    def is_above_best(self) -> bool:
        """Whether the loss ends well above the lowest that it had."""
        best = np.min(self.losses)
        return self.losses[-1] - best > FLAT * scale(self.losses) + self.floor


def scale(values: np.ndarray) -> float:
    """What a change of a loss is measured by: its lowest value; or of one that may be negative, all that was gained."""
    best = np.min(values)
    return best if best >= 0 else max(values[0] - best, LEAST_GAIN * abs(best))


def fall(values: np.ndarray, window: int, floor: float) -> float:
    """By which share the lowest value fell within the last `window` steps; less than `floor` is nothing."""
    before = np.min(values[: max(1, len(values) - window)])
    gained = before - np.min(values)
    whole = before if np.min(values) >= 0 else scale(values)
    return gained / whole if gained > floor else 0.0


def _without_repeat(losses):
    """Without the final loss where it is that of the step before: with minibatches it lags one behind."""
    return losses[:-1] if losses[-1] == losses[-2] else losses


def _gradient(detail, losses, size):
    if hasattr(detail, "relative_gradient"):
        return {"gradient": _last(detail.relative_gradient), "small": results.SMALL_GRADIENT}
    if not hasattr(detail, "gradient_norm"):
        return {"gradient": np.nan, "small": np.nan}
    last = _last(detail.gradient_norm)
    if np.isnan(last) or last == 0:
        return {"gradient": last, "small": FALLEN}
    # It is small beside the largest, or (where all are, as near a minimum) by what a step along it could gain.
    whole = scale(losses)
    gain = last * size / whole if whole > 0 else np.inf
    return {"gradient": min(last / np.nanmax(detail.gradient_norm), gain), "small": FALLEN}


def _last(values):
    """The last number that is one: members that have stopped record NaN."""
    known = values[~np.isnan(values)]
    return float(known[-1]) if known.size else np.nan


def _ill_conditioned(detail):
    if not hasattr(detail, "rcond"):
        return None
    rcond = np.where(np.isnan(detail.rcond), 1.0, detail.rcond)  # NaN: of members that stood still
    missing = np.asarray(getattr(detail, "rank_deficit", 0)) > 0
    return (rcond < np.finfo(detail.rcond.dtype).eps ** 0.5) | missing


def _evidence(state, detail):
    if not hasattr(detail, "log_evidence"):
        return None
    known = ~np.isnan(detail.log_evidence)
    if not known.any():
        return None
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    most = float(np.max(detail.beta[known][-1]))
    return Evidence(detail.log_evidence[known], detail.effective_parameters[known], most, size)


def _validation(info):
    """The validation loss, or what is known as one among the metrics; infinite where it is not finite."""
    metrics: Any = info.metrics if isinstance(info.validation, tuple) else info.validation
    if not isinstance(metrics, np.ndarray):
        named = metrics if isinstance(metrics, Mapping) else getattr(metrics, "_asdict", dict)()
        metrics = next((named[name] for name in VALIDATION if name in named), None)
    if np.shape(metrics) != info.loss.shape or not np.issubdtype(metrics.dtype, np.floating):
        return None
    finite = np.isfinite(metrics)
    return np.where(finite, metrics, np.inf) if finite.any() else None


def _norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(leaf.astype(np.float64))) for leaf in jax.tree.leaves(tree))))
