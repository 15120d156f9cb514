"""Classification."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from jills.estimators.base import NetworkEstimator


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """Networks that choose when to stop, as a classifier of scikit-learn.

    The mean probabilities of several networks, trained together in one compiled call; inputs are standardised inside.
    A fifth of the rows is held out and chooses the step: on classes that was measured to be as good as evidence or
    better, and much quicker (experiments/README.md, 13).

    Args:
        hidden: as of `NetworkRegressor`, and so are the others.
        activation: …
        members: …
        regularization: "validation"; "evidence", a number or a list of them as of `NetworkRegressor`.
        algorithm: …
        max_steps: …
        folds: …
        random_state: …
        dtype: …
        verbose: …
        warm_start: …
        class_weight: None, "balanced", or label → weight.
        compile: …

    Attributes:
        classes_: the labels, sorted.
        oof_prediction_: with folds: probabilities of each row, by members that did not see it.
        oof_score_: the share of rows that they put into the right class.
    """

    def __init__(
        self,
        hidden: Any = (50,),
        activation: str = "tanh",
        members: int = 10,
        regularization: Any = "validation",
        algorithm: str = "auto",
        max_steps: int | None = None,
        folds: int | None = None,
        random_state: Any = None,
        dtype: str = "float32",
        verbose: bool = False,
        warm_start: bool = False,
        class_weight: Any = None,
        compile: str = "auto",
    ):
        super().__init__(
            hidden=hidden,
            activation=activation,
            members=members,
            regularization=regularization,
            algorithm=algorithm,
            max_steps=max_steps,
            folds=folds,
            random_state=random_state,
            dtype=dtype,
            verbose=verbose,
            warm_start=warm_start,
            compile=compile,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NetworkClassifier":
        """Trains on inputs `(n, d)` and labels `(n,)` of any kind.

        Raises:
            ValueError: data or parameters that cannot be used, or one class only.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = self._rows(X, sample_weight)
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y)
        present = np.unique(labels[weights > 0])
        if len(present) < 2:
            raise ValueError(
                f"NetworkClassifier wants rows of at least two classes, but all are of one class, "
                f"{self.classes_[present[0]]!r}"
            )
        targets, loss = self._targets(labels)
        unseen = self._fit(X, targets, weights, False, loss, classes=self.classes_)
        if unseen is not None:
            unseen = self.oof_prediction_ = unseen[0]
            right = np.argmax(unseen, axis=1) == labels
            self.oof_score_ = float(np.average(right, weights=weights))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "NetworkClassifier":
        """One step of Gauss–Newton on a minibatch, best of some hundred rows or more; goes on from `fit`.

        Args:
            X: rows; those of the first minibatch tell the units.
            y: labels.
            classes: all labels there are; in the first call, unless `fit` has seen them.
            sample_weight: `(n,)`.

        Raises:
            ValueError: no classes in the first call, others later, or labels that are none of them.
        """
        first = not hasattr(self, "fitted_")
        X, y = validate_data(self, X, y, reset=first, dtype=np.float64)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        if _check_partial_fit_first_call(self, classes) and len(self.classes_) < 2:
            raise ValueError(f"NetworkClassifier wants at least two classes, but classes holds one class, {classes!r}")
        if not np.all(np.isin(y, self.classes_)):
            raise ValueError(f"y holds labels that are not among the classes {self.classes_.tolist()}")
        targets, loss = self._targets(np.searchsorted(self.classes_, y))
        self._partial(X, targets, self._rows(X, sample_weight), False, loss, classes=self.classes_)
        return self

    def _targets(self, labels):
        """Of label numbers, and the loss that goes with them: one logit for two classes."""
        if len(self.classes_) > 2:
            return np.eye(len(self.classes_))[labels], "softmax_cross_entropy"
        return labels[:, None].astype(np.float64), "sigmoid_cross_entropy"

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest labels."""
        fitted, inputs = self._ready(X)
        return fitted.predict(inputs)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The mean probabilities of the classes, in the order of `classes_`."""
        fitted, inputs = self._ready(X)
        return fitted.predict_proba(inputs)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithm."""
        return np.log(self.predict_proba(X))
