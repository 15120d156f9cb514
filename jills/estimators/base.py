"""What the estimators share: their parameters, and the way from a table to fitted networks."""

from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jills.compilation import check_tier
from jills.estimators.fitted import LOSSES, Fitted, as_method
from jills.estimators.forward import Forward, Scaling
from jills.estimators.methods import candidates_of, checked_sizes, numbers_of
from jills.estimators.minibatches import advance, begin
from jills.estimators.rows import as_batch, merged
from jills.estimators.training import Outcome, Table, train

FOLDS = 5  # to choose among candidates by


class NetworkEstimator(BaseEstimator):
    """Parameters and training; see `NetworkRegressor` and `NetworkClassifier`."""

    fitted_: Any  # `Fitted`, or of groups `FittedGroups`

    def __init__(
        self,
        hidden: Any = (50,),
        activation: str = "tanh",
        members: int = 10,
        regularization: Any = "evidence",
        algorithm: str = "auto",
        max_steps: int | None = None,
        folds: int | None = None,
        random_state: Any = None,
        dtype: str = "float32",
        verbose: bool = False,
        warm_start: bool = False,
        compile: str = "auto",
    ):
        self.hidden = hidden
        self.activation = activation
        self.members = members
        self.regularization = regularization
        self.algorithm = algorithm
        self.max_steps = max_steps
        self.folds = folds
        self.random_state = random_state
        self.dtype = dtype
        self.verbose = verbose
        self.warm_start = warm_start
        self.compile = compile

    def _check_params(self):
        """The dtype; raises ValueError for what `method_of` does not look at."""
        if not isinstance(self.members, int | np.integer) or isinstance(self.members, bool) or self.members < 1:
            raise ValueError(f"members is {self.members!r}, but must be an integer of at least 1")
        integer = isinstance(self.folds, int | np.integer) and not isinstance(self.folds, bool)
        if self.folds is not None and not (integer and self.folds >= 2):
            raise ValueError(f"folds is {self.folds!r}, but must be an integer of at least 2, or None")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}, but must be 'float32' or 'float64'")
        if self.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError("dtype is 'float64', which JAX has off; set jax_enable_x64 before anything else")
        check_tier(self.compile)
        return np.dtype(self.dtype)

    def _rows(self, X, sample_weight):
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not np.any(weights > 0):
            raise ValueError("sample_weight is zero for all rows; at least one must be positive")
        return weights

    def _fit(self, X, targets, weights, scaled, loss, **told):
        """Trains on targets `(n, k)`."""
        dtype = self._check_params()
        self._stream = None
        told["columns"] = column_names(self)
        rows = merged(X, targets, weights)
        inputs = Scaling.of(rows.inputs, rows.weights)
        outputs = Scaling.of(rows.targets, rows.weights) if scaled else Scaling.none(targets.shape[1])
        table = Table(inputs.applied(rows.inputs), outputs.applied(rows.targets), rows.weights)
        choices, numbers = candidates_of(self.hidden), numbers_of(self.regularization) or ()
        folds = FOLDS if self.folds is None and max(len(choices), len(numbers)) > 1 else self.folds
        if folds is not None and folds > len(rows.weights):
            raise ValueError(
                f"{'' if self.folds else 'to choose among candidates, '}folds is {folds}, but there are only "
                f"{len(rows.weights)} different rows (n_samples = {len(X)})"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.warm_start and getattr(self, "hidden_", None) in choices:
            choices = (self.hidden_,)
        each = (self._trained(hidden, table, (inputs, outputs), loss, folds, seed, dtype, told) for hidden in choices)
        self.fitted_, self._trained_ = min(each, key=lambda pair: pair[1].error)
        self._tell(self._trained_)
        unseen = self._trained_.unseen
        if unseen is None:
            return None
        known = rows.places >= 0
        mean, std = (np.empty((len(X), unseen[0].shape[1])) for _ in range(2))
        mean[known] = outputs.undone(unseen[0])[rows.places[known]]
        std[known] = (unseen[1] * outputs.scale)[rows.places[known]]
        if not np.all(known):  # no member saw them
            mean[~known], std[~known] = self._of_all(X[~known])
        return mean, std

    def _partial(self, X, targets, weights, scaled, loss, **told):
        """One step on a minibatch; the first one tells the units, unless `fit` has."""
        dtype = self._check_params()
        told["columns"] = column_names(self)
        known: Fitted | None = getattr(self, "fitted_", None)
        inputs = known.inputs if known else Scaling.of(X, weights)
        none = Scaling.none(targets.shape[1])
        outputs = known.targets if known else Scaling.of(targets, weights) if scaled else none
        batch = as_batch(inputs.applied(X), outputs.applied(targets), weights, dtype)
        numbers = numbers_of(self.regularization) or (0.0,)
        if known is None and len(numbers) > 1:
            raise ValueError(f"regularization is {self.regularization!r}, but partial_fit chooses none; fit does")
        sizes = (X.shape[1], *(self.hidden_ if known else checked_sizes(self.hidden)), targets.shape[1])
        words = {"sizes": sizes, "activation": self.activation, "algorithm": "gauss_newton", "max_steps": None}
        words["regularization"] = numbers[0] if len(numbers) == 1 else self.regularization_
        words["loss"] = loss
        method = as_method(words)
        stream = getattr(self, "_stream", None)
        if stream is None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            start = known.params if known else int(self.members)
            stream = begin(method.algorithm.network, LOSSES[loss], words["regularization"], start, seed, batch)
        self._stream = stream = advance(stream, batch)
        self.fitted_ = Fitted(
            described=words,
            state=stream.state,
            params=stream.state.params,
            batch=batch,
            inputs=inputs,
            targets=outputs,
            factor=np.ones(targets.shape[1]),
            residual=stream.residual,
            **told,
        )
        self.hidden_, self.regularization_ = sizes[1:-1], words["regularization"]
        self.n_iter_ = int(np.max(np.asarray(stream.state.step)))

    def _trained(self, hidden, table, units, loss, folds, seed, dtype, told):
        """A fitted, and how it trained."""
        sizes = (table.inputs.shape[1], *hidden, table.targets.shape[1])
        words = {
            "sizes": sizes,
            "activation": self.activation,
            "algorithm": self.algorithm,
            "regularization": numbers_of(self.regularization) or self.regularization,
            "max_steps": None if self.max_steps is None else int(self.max_steps),
            "loss": loss,
        }
        before = self._before(sizes)
        options = {"verbose": bool(self.verbose), "compile": self.compile, "before": before, **told}
        return train(as_method(words), words, table, units, self.members, folds, seed, dtype, **options)

    def _before(self, sizes):
        """What to go on from, with `warm_start`."""
        if not self.warm_start or not hasattr(self, "fitted_") or tuple(self.fitted_.described["sizes"]) != sizes:
            return None
        return self._trained_.result

    def _tell(self, trained: Outcome):
        """Attributes that end with an underscore."""
        fitted = self.fitted_
        state = fitted.state
        self.hidden_, self.regularization_ = fitted.described["sizes"][1:-1], fitted.described["regularization"]
        self.n_iter_ = int(np.max(np.asarray(state.step)))
        self.loss_curve_ = trained.curve
        self.diagnosis_ = trained.diagnosis
        if not fitted.method.by_evidence:
            return
        course = state.inner.course
        self.log_evidence_ = np.asarray(course.log_evidence, np.float64)
        self.log_evidence_curve_ = np.asarray(trained.result.info.detail.log_evidence[0], np.float64)
        self.effective_parameters_ = np.sum(np.asarray(course.effective, np.float64), axis=1)
        alpha = np.asarray(course.alpha, np.float64)
        d = fitted.described["sizes"][0]
        if alpha.shape[1] == d + 1:
            strength = np.mean(1.0 / alpha[:, :d], axis=0)
            self.relevance_ = strength / np.max(strength)

    def _of_all(self, X):
        """What all members predict, and how sure they are, `(n, k)`; of classes probabilities, and zeros."""
        if self.fitted_.classes is not None:
            told = self.fitted_.predict_proba(X)
            return told, np.zeros_like(told)
        return (each.reshape(len(X), -1) for each in self.fitted_.predict(X, return_std=True))

    def _ready(self, X):
        """What predicts, and checked inputs."""
        check_is_fitted(self)
        return self.fitted_, validate_data(self, X, reset=False, dtype=np.float64)

    def save(self, path: Any) -> None:
        """Writes what was fitted to one `.npz` file without pickle; `jills.estimators.load(path)` predicts with it."""
        check_is_fitted(self)
        self.fitted_.save(path)

    def to_numpy(self) -> Forward:
        """The networks as NumPy arrays, with a `predict` of NumPy alone."""
        check_is_fitted(self)
        return self.fitted_.to_numpy()

    def to_onnx(self, path: Any, dtype: str = "float32") -> None:
        """Writes a graph of ONNX that predicts the mean only, or labels and probabilities; see `fitted_.to_onnx`."""
        check_is_fitted(self)
        self.fitted_.to_onnx(path, dtype)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


def column_names(estimator: Any) -> tuple[str, ...] | None:
    """Of the columns of a data frame; None of an array."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else tuple(names)
