"""How a fitted estimator did, in pictures: the displays of scikit-learn, for the estimators of `jills.estimators`.

    jills.plots.PredictionDisplay.from_estimator(model, X_test, y_test)
    jills.plots.CalibrationDisplay.from_estimator(model, X_test, y_test)

Each is made with `from_estimator`, which draws at once, and can be drawn again elsewhere with `plot(ax)`; `ax_` and
`figure_` are what it was drawn on. Estimators may stand at the end of a `Pipeline`. They ask for the extra `plots`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LEVELS = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())  # of a calibration
BY_CHANCE = 1.645  # deviations that hold 90 %
UNSETTLED = 3  # values of log evidence before α and β are chosen


class Display:
    """What the displays share."""

    ax_: Any
    figure_: Any

    def _on(self, ax):
        """Axes to draw on, those given or new ones."""
        try:
            import matplotlib.pyplot as plt
        except ModuleNotFoundError as error:
            raise ImportError("jills.plots wants matplotlib; install it with: pip install 'jills[plots]'") from error
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        return self.ax_


class TrainingDisplay(Display):
    """The loss along training, from the start on; and log evidence, where networks chose their own regularisation.

    Attributes:
        loss: `(T,)`, mean of the members.
        log_evidence: `(M, T)` of each member, or None.
        evidence_ax_: axes of the log evidence, on the right of `ax_`, or None.
    """

    def __init__(self, loss: np.ndarray, log_evidence: np.ndarray | None = None):
        self.loss = loss
        self.log_evidence = log_evidence
        self.evidence_ax_ = None

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> "TrainingDisplay":
        """Of a fitted estimator.

        Args:
            estimator: a `NetworkRegressor` or `NetworkClassifier`, or a pipeline that ends with one.
            ax: axes to draw on; None: new ones.
            **kwargs: of the line of the loss, see `matplotlib.axes.Axes.plot`.
        """
        model = _last(estimator)
        loss = _told(model, "loss_curve_", "fit a NetworkRegressor or NetworkClassifier first")
        return cls(np.asarray(loss, float), _log_evidence(model)).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "TrainingDisplay":
        """Draws it; see `from_estimator`."""
        ax = self._on(ax)
        steps = np.arange(len(self.loss))  # the first value is that of the start
        ax.plot(steps, self.loss, **{"color": "C0", "label": "training loss", **kwargs})
        ax.set(xlabel="step", ylabel="training loss, mean of the members")
        if np.all(self.loss > 0):
            ax.set_yscale("log")
        if self.log_evidence is None:
            return self
        self.evidence_ax_ = right = ax.twinx()
        right.plot(steps, self.log_evidence.T, color="C1", linewidth=0.7, alpha=0.4)
        right.plot(steps, np.median(self.log_evidence, axis=0), color="C1", label="log evidence")
        right.set_ylabel("log evidence, nats: members and their median")
        # Before α and β are chosen it may lie so low that the rest would be a straight line.
        settled = self.log_evidence[:, UNSETTLED:]
        settled = settled[np.isfinite(settled)]
        if settled.size and np.ptp(settled) > 0:
            margin = 0.05 * np.ptp(settled)
            right.set_ylim(settled.min() - margin, settled.max() + margin)
        handles = [*ax.get_lines(), *right.get_lines()[-1:]]
        ax.legend(handles=handles, loc="upper right")
        return self


class PredictionDisplay(Display):
    """Predictions against what was measured, with their intervals: for rows held out, or for those of `fit` by folds.

    Attributes:
        y_true: `(n,)`, measured.
        y_pred: `(n,)`, predicted.
        interval: lower and upper ends, `(n,)` each, or None.
        coverage: what the intervals should hold.
    """

    def __init__(
        self,
        y_true: np.ndarray,
        y_pred: np.ndarray,
        interval: tuple[np.ndarray, np.ndarray] | None = None,
        coverage: float = 0.9,
    ):
        self.y_true = y_true
        self.y_pred = y_pred
        self.interval = interval
        self.coverage = coverage

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        coverage: float = 0.9,
        output: int = 0,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PredictionDisplay":
        """Of a fitted regressor.

        Args:
            estimator: a `NetworkRegressor`, what `load` returns, or a pipeline that ends with one.
            X: rows that `fit` has not seen. None: out-of-fold predictions, of an estimator with `folds`; they have no
                intervals unless it tells `oof_std_`.
            y: what was measured; without X that of `fit`.
            coverage: of the intervals.
            output: which column of several targets.
            ax: axes to draw on; None: new ones.
            **kwargs: of the points and their bars, see `matplotlib.axes.Axes.errorbar`.
        """
        if y is None:
            raise ValueError("PredictionDisplay: give y, what was measured; without X that of fit")
        model = _regressor(estimator, "PredictionDisplay")
        if X is None:
            mean = _told(model, "oof_prediction_", "fit it with folds=5, or give X and y of rows held out")
            interval = _normal_interval(mean, getattr(model, "oof_std_", None), coverage)
        else:
            X = _transformed(estimator, X)
            mean = model.predict(X)
            interval = model.predict_interval(X, coverage) if hasattr(model, "predict_interval") else None
        ends = None if interval is None else tuple(_column(each, output) for each in interval)
        return cls.from_predictions(
            _column(y, output), _column(mean, output), interval=ends, coverage=coverage, ax=ax, **kwargs
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        interval: Any = None,
        coverage: float = 0.9,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PredictionDisplay":
        """Of predictions that are known already; see the class and `from_estimator`."""
        y_true, y_pred = np.asarray(y_true, float), np.asarray(y_pred, float)
        if y_true.shape != y_pred.shape or y_true.ndim != 1:
            raise ValueError(
                f"PredictionDisplay: measured {y_true.shape} and predicted {y_pred.shape} must be (n,) both"
            )
        ends = None if interval is None else (np.asarray(interval[0], float), np.asarray(interval[1], float))
        return cls(y_true, y_pred, ends, coverage).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "PredictionDisplay":
        """Draws it; see `from_estimator`."""
        ax = self._on(ax)
        bars = None
        if self.interval is not None:
            low, high = self.interval
            # The mean of a skewed mixture may lie outside a narrow interval; a bar of negative length would raise.
            bars = np.maximum([self.y_pred - low, high - self.y_pred], 0.0)
        look = {"fmt": "o", "markersize": 3, "elinewidth": 0.6, "ecolor": "0.7", **kwargs}
        ax.errorbar(self.y_true, self.y_pred, yerr=bars, **look)
        ends = [min(self.y_true.min(), self.y_pred.min()), max(self.y_true.max(), self.y_pred.max())]
        ax.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
        ax.set(xlabel="measured", ylabel="predicted")
        if self.interval is not None:
            inside = np.mean((self.interval[0] <= self.y_true) & (self.y_true <= self.interval[1]))
            ax.set_title(f"intervals of {self.coverage:.0%} hold {inside:.0%} of {len(self.y_true)} rows", fontsize=10)
        return self


class CalibrationDisplay(Display):
    """How many measured values lie inside the intervals, against how many should.

    Below the diagonal: the estimator is too sure of itself; above: not sure enough. The grey band holds 90 % of what
    chance makes of so many independent rows.

    Attributes:
        levels: `(q,)`, the coverages asked for.
        coverage: `(q,)`, the shares found inside.
        count: how many rows.
    """

    def __init__(self, levels: np.ndarray, coverage: np.ndarray, count: int):
        self.levels = levels
        self.coverage = coverage
        self.count = count

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        levels: Sequence[float] = LEVELS,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CalibrationDisplay":
        """Of a fitted regressor.

        Args:
            estimator: a `NetworkRegressor`, what `load` returns, or a pipeline that ends with one.
            X: rows that `fit` has not seen.
            y: what was measured; several outputs are counted together.
            levels: coverages to ask for.
            ax: axes to draw on; None: new ones.
            **kwargs: of the line, see `matplotlib.axes.Axes.plot`.
        """
        model, X = _regressor(estimator, "CalibrationDisplay"), _transformed(estimator, X)
        y = np.asarray(y, float)
        inside = []
        for level in levels:
            low, high = model.predict_interval(X, float(level))
            inside.append(np.mean((low <= y) & (y <= high)))
        return cls(np.asarray(levels, float), np.asarray(inside), len(y)).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "CalibrationDisplay":
        """Draws it; see `from_estimator`."""
        ax = self._on(ax)
        across = np.linspace(0.0, 1.0, 101)
        chance = BY_CHANCE * np.sqrt(across * (1.0 - across) / self.count)
        ax.fill_between(across, across - chance, across + chance, color="0.9", label=f"chance, {self.count} rows")
        ax.plot(across, across, color="black", linewidth=0.8, linestyle="--")
        ax.plot(self.levels, self.coverage, **{"marker": "o", "markersize": 3, "label": "found", **kwargs})
        ax.set(xlabel="coverage of the intervals, asked for", ylabel="share of rows inside", xlim=(0, 1), ylim=(0, 1))
        ax.legend(loc="upper left")
        return self


class RelevanceDisplay(Display):
    """How much each input column is used, the most used one on top.

    It is the variance that the weights of a column were left, as a share of the largest: a column near zero was
    switched off. Columns that tell the same share it among them.

    Attributes:
        relevance: `(d,)`.
        names: `(d,)`, of the columns.
    """

    def __init__(self, relevance: np.ndarray, names: np.ndarray):
        self.relevance = relevance
        self.names = names

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, names: Any = None, most: int = 20, ax: Any = None, **kwargs: Any
    ) -> "RelevanceDisplay":
        """Of a fitted estimator.

        Args:
            estimator: a `NetworkRegressor` by evidence, or a pipeline that ends with one.
            names: of the columns; None: those of the data frame that it was fitted to, or x0, x1, …
            most: how many columns to draw, those that are used most.
            ax: axes to draw on; None: new ones.
            **kwargs: of the bars, see `matplotlib.axes.Axes.barh`.
        """
        model = _last(estimator)
        hint = "it is told by a fitted NetworkRegressor with regularization='evidence' and 2 to 64 input columns"
        relevance = np.asarray(_told(model, "relevance_", hint), float)
        if names is None:
            names = _names(estimator, model, len(relevance))
        names = np.asarray(names, object)
        if names.shape != relevance.shape:
            raise ValueError(f"RelevanceDisplay: {len(names)} names, but {len(relevance)} input columns")
        return cls(relevance, names).plot(ax, most=most, **kwargs)

    def plot(self, ax: Any = None, *, most: int = 20, **kwargs: Any) -> "RelevanceDisplay":
        """Draws it; see `from_estimator`."""
        ax = self._on(ax)
        order = np.argsort(-self.relevance, kind="stable")[:most][::-1]
        places = np.arange(len(order))  # not the names themselves: equal ones would fall on one bar
        ax.barh(places, self.relevance[order], **kwargs)
        ax.set_yticks(places, [str(name) for name in self.names[order]])
        ax.set(xlabel="relevance, of the most used column 1")
        return self


def _last(estimator):
    """The estimator itself, or the last step of a pipeline."""
    return estimator[-1] if hasattr(estimator, "steps") else estimator


def _regressor(estimator, display):
    model = _last(estimator)
    if hasattr(model, "classes_") or getattr(model, "classes", None) is not None:
        raise ValueError(
            f"{display} is of regressors; for classes take those of sklearn.metrics and sklearn.calibration"
        )
    return model


def _transformed(estimator, X):
    """What the last step of a pipeline receives: it alone knows intervals."""
    return estimator[:-1].transform(X) if hasattr(estimator, "steps") else X


def _told(model, name, hint):
    if not hasattr(model, name):
        raise AttributeError(f"this {type(model).__name__} has no {name}: {hint}")
    return getattr(model, name)


def _log_evidence(model):
    """`(M, T)`, of a member that has ended its last value; None where the algorithm tells none."""
    told = getattr(model, "log_evidence_curve_", None)
    if told is None:
        return None
    curves = np.array(told, float)
    for t in range(1, curves.shape[1]):
        curves[:, t] = np.where(np.isfinite(curves[:, t]), curves[:, t], curves[:, t - 1])
    return curves


def _normal_interval(mean, std, coverage):
    if std is None:
        return None
    from statistics import NormalDist

    apart = NormalDist().inv_cdf(0.5 + 0.5 * coverage) * np.asarray(std, float)
    return mean - apart, mean + apart


def _column(values, output):
    values = np.asarray(values, float)
    return values if values.ndim == 1 else values[:, output]


def _names(estimator, model, count):
    if hasattr(estimator, "steps"):
        try:
            return estimator[:-1].get_feature_names_out()
        except (AttributeError, ValueError):  # a step that cannot tell
            return [f"x{column}" for column in range(count)]
    return getattr(model, "feature_names_in_", [f"x{column}" for column in range(count)])


__all__ = ["CalibrationDisplay", "PredictionDisplay", "RelevanceDisplay", "TrainingDisplay"]
