"""Regression."""

from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from jills.estimators.base import NetworkEstimator


class NetworkRegressor(MultiOutputMixin, RegressorMixin, NetworkEstimator):
    """Networks that choose their own regularisation, as a regressor of scikit-learn.

    The mean of several networks (`jills.evidence`), trained together in one compiled call. Inputs and targets are
    standardised inside. Every prediction can tell how sure it is: `predict(X, return_std=True)`,
    `predict_interval(X, coverage=0.9)`, `sample_y(X)`.

    Args:
        hidden: widths of the hidden layers; a list of several, such as `[(50,), (20, 20)]`: those with the lowest
            out-of-fold error, and `"auto"`: (10,), (50,) or (20, 20).
        activation: "tanh", "relu", "sigmoid", "softplus", "arcsinh" or "silu".
        members: how many networks; their mean is predicted, their spread is part of the uncertainty.
        regularization: "evidence": chosen by the data, with the noise (by validation, where the algorithm has no
            evidence); "validation": a fifth of the rows is held out, and chooses the step; a number: weight decay (of
            ILLS the ridge); a list of numbers: that with the lowest out-of-fold error, all trained in one call.
        algorithm: "evidence", "gauss_newton", "ills" or "adam"; "auto": evidence, or else Gauss–Newton. ILLS and Adam
            try three rates; the error out of fold chooses, else that of validation rows, else the training loss.
        max_steps: None: 30 with evidence, 100 of Gauss–Newton and ILLS, 2000 of Adam.
        folds: each member leaves out one of so many folds: `oof_prediction_`, `oof_score_`, and intervals calibrated
            by them. None: all see all rows, but to choose among candidates there are five.
        random_state: an integer, for the same result again.
        dtype: "float32", or "float64" (where JAX has it on).
        verbose: whether to show a progress bar.
        warm_start: whether `fit` goes on from where the last one ended; of several `hidden`, with those taken.
        compile: "fast", "full" or "auto", whichever is done sooner; see `jills.run`.

    Attributes:
        fitted_: `Fitted`, what predicts, without scikit-learn.
        hidden_: the widths taken.
        regularization_: the word or number taken.
        n_iter_: steps taken by the slowest member.
        loss_curve_: mean square of the residuals of standardised targets (of classes the cross-entropy), mean of the
            members, before each step.
        log_evidence_curve_: before each step, of each member, `(M, T)`.
        diagnosis_: how each member's training went, in words.
        noise_std_: standard deviation of the noise, `(k,)`, in the targets' units.
        log_evidence_: of each member. (No guide for choosing among them, see `jills.evidence`.)
        effective_parameters_: of each member, how many parameters the data determine.
        relevance_: of each input column, the variance of its weights, at most 1; with evidence, of up to 64 columns.
        oof_prediction_: with folds: of each row, by members that did not see it.
        oof_std_: standard deviations of a new target there.
        oof_score_: their coefficient of determination.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NetworkRegressor":
        """Trains on inputs `(n, d)` and targets `(n,)` or `(n, k)`.

        Args:
            X: array or data frame of numbers without missing values.
            y: numbers.
            sample_weight: `(n,)`; a weight of two is a row seen twice.

        Raises:
            ValueError: data or parameters that cannot be used.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        flat = np.ndim(y) == 1
        targets = np.asarray(y, np.float64).reshape(len(X), -1)
        weights = self._rows(X, sample_weight)
        unseen = self._fit(X, targets, weights, True, "squared_error", flat=flat)
        if unseen is not None:
            self.oof_prediction_, self.oof_std_ = (each[:, 0] if flat else each for each in unseen)
            unseen = unseen[0]
            self.oof_score_ = float(r2_score(targets, unseen, sample_weight=weights))
        return self

    @property
    def noise_std_(self) -> np.ndarray:
        """Standard deviation of the noise, `(k,)`, in the targets' units."""
        check_is_fitted(self)
        return np.sqrt(self.fitted_.noise)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NetworkRegressor":
        """One step of Gauss–Newton on a minibatch, best of some hundred rows or more; goes on from `fit`.

        The first minibatch tells the units, so let its rows be drawn at random. Regularised by a number, or not at all.
        """
        first = not hasattr(self, "fitted_")
        X, y = validate_data(self, X, y, reset=first, multi_output=True, y_numeric=True, dtype=np.float64)
        targets = np.asarray(y, np.float64).reshape(len(X), -1)
        self._partial(X, targets, self._rows(X, sample_weight), True, "squared_error", flat=np.ndim(y) == 1)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean; with `return_std` also the standard deviation of a new target: networks, noise and spread."""
        fitted, inputs = self._ready(X)
        return fitted.predict(inputs, return_std)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends between which a new target lies with probability `coverage`."""
        fitted, inputs = self._ready(X)
        return fitted.predict_interval(inputs, coverage)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: int = 0) -> np.ndarray:
        """Draws of new targets, `(n, n_samples)`, or `(n, k, n_samples)`; each row by itself."""
        fitted, inputs = self._ready(X)
        return fitted.sample_y(inputs, n_samples, random_state)
