"""A network of its own for each of many groups or series, all trained in one compiled call."""

from typing import Any

import jax
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jills.estimators.base import NetworkEstimator, column_names
from jills.estimators.fitted import as_method
from jills.estimators.fitted_groups import FittedGroups, labels_of, places_of, stacked
from jills.estimators.forward import Scaling
from jills.estimators.methods import checked_sizes
from jills.estimators.rows import merged
from jills.estimators.training import keys_of, swept
from jills.training import diagnose
from jills.types import Batch


class GroupedRegressor(RegressorMixin, NetworkEstimator):
    """A network, or an ensemble of them, for each group: thousands of series, each with its own noise and decay.

    Groups may be of unequal length. Each is standardised and regularised by itself (`jills.evidence`); all train in
    one compiled call.

    Args:
        hidden: widths of the hidden layers.
        activation: as of `NetworkRegressor`.
        members: networks for each group. (One by itself is too sure; five are not.)
        max_steps: None: 30.
        random_state: an integer, for the same result again.
        dtype: "float32" or "float64".
        verbose: whether to show a progress bar.
        compile: "fast", "full" or "auto", whichever is done sooner; see `jills.run`.

    Attributes:
        fitted_: `FittedGroups`, what predicts, without scikit-learn; `fitted_.of_group(label)` is one group's.
        groups_: the groups, sorted, `(G,)`.
        noise_std_: the noise of each group, `(G,)`, in the targets' units.
        diagnosis_: a data frame with a row for each group: how many rows, how training went, in words, and why.
    """

    def __init__(
        self,
        hidden: Any = (10,),
        activation: str = "tanh",
        members: int = 1,
        max_steps: int | None = None,
        random_state: Any = None,
        dtype: str = "float32",
        verbose: bool = False,
        compile: str = "auto",
    ):
        super().__init__(
            hidden=hidden,
            activation=activation,
            members=members,
            max_steps=max_steps,
            random_state=random_state,
            dtype=dtype,
            verbose=verbose,
            compile=compile,
        )

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> "GroupedRegressor":
        """Trains on all rows; those of a group need not stand together.

        Args:
            X: `(n, d)`.
            y: `(n,)`.
            groups: `(n,)` labels; None: one group.
            sample_weight: `(n,)`.

        Raises:
            ValueError: data or parameters that cannot be used.
        """
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        dtype, weights = self._check_params(), self._rows(X, sample_weight)
        self.groups_, which = np.unique(labels_of(groups, len(X)), return_inverse=True)
        count, members, lengths = len(self.groups_), self.members, np.bincount(which)
        rows = merged(np.column_stack([which, X]), np.asarray(y)[:, None], weights)
        which, X, y, weights = rows.inputs[:, 0].astype(int), rows.inputs[:, 1:], rows.targets[:, 0], rows.weights
        if not np.all(np.bincount(which, minlength=count) > 0):
            raise ValueError("sample_weight is zero for all rows of a group; at least one must be positive")
        places = places_of(which, count)
        sizes = (X.shape[1], *checked_sizes(self.hidden), 1)
        most = None if self.max_steps is None else int(self.max_steps)
        described = {"sizes": sizes, "activation": self.activation, "max_steps": most, "loss": "squared_error"}
        described |= {"algorithm": "evidence", "regularization": "evidence"}
        own = stacked(weights, places)
        inputs, outputs = (Scaling.of(stacked(each, places), own) for each in (X, y[:, None]))
        # In float64: of a date, say, float32 has no digits left.
        given = (inputs.at(which).applied(X), outputs.at(which).applied(y[:, None]), weights)
        batch = Batch(*(np.asarray(stacked(each, places), dtype) for each in given))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        _, keys = keys_of(seed, count * members)
        batches = jax.tree.map(lambda leaf: np.repeat(leaf, members, axis=0), batch)
        result = swept(as_method(described), keys, dtype, self.verbose, batches, compile=self.compile)
        # By NumPy: JAX would compile each of these.
        state = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(count, members, *leaf.shape[2:]), result.state)
        self.fitted_ = FittedGroups(
            described=described,
            groups=self.groups_,
            state=state,
            batch=batch,
            inputs=inputs,
            targets=outputs,
            columns=column_names(self),
        )
        self.n_iter_ = int(np.max(np.asarray(state.step)))
        told = self.fitted_.told(np.zeros((count, 1, X.shape[1])))
        self.noise_std_ = outputs.scale[:, 0] * np.sqrt(np.asarray(told.noise, np.float64)[:, 0])
        self.diagnosis_ = self._diagnosis(result, lengths)
        return self

    def predict(self, X: Any, groups: Any = None, return_std: bool = False) -> Any:
        """The mean of each row's group; with `return_std` also the standard deviation of a new target.

        Raises:
            ValueError: a group that `fit` has not seen.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.fitted_.predict(X, groups, return_std)

    def predict_interval(self, X: Any, groups: Any = None, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends between which a new target lies with probability `coverage`: of the normal law of `predict`'s std.

        Raises:
            ValueError: a coverage outside (0, 1), or a group that `fit` has not seen.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.fitted_.predict_interval(X, groups, coverage)

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """The coefficient of determination of all rows together."""
        return float(r2_score(y, self.predict(X, groups), sample_weight=sample_weight))

    def _diagnosis(self, result, rows):
        import pandas as pd

        words = diagnose(result.state, result.info)
        count, members = len(self.groups_), self.members
        frame = pd.DataFrame(
            {
                "group": np.repeat(self.groups_, members),
                "member": np.tile(np.arange(members), count),
                "rows": np.repeat(rows, members),
                "word": words.word[0],
                "noise_std": np.repeat(self.noise_std_, members),
                "effective_parameters": np.sum(np.asarray(result.state.inner.course.effective[0]), axis=1),
                "why": words.why[0],
            }
        )
        return frame if members > 1 else frame.drop(columns="member")
