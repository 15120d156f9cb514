"""A network of its own for each of many groups or series, all trained in one compiled call."""

from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jills.estimators.base import NetworkEstimator
from jills.estimators.fitted import LOSSES
from jills.estimators.methods import checked_sizes, method_of
from jills.estimators.rows import merged, padded_size
from jills.estimators.training import swept
from jills.evidence import predict as predict_by_evidence
from jills.predictions import ensemble
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
        max_steps: None: 40.
        random_state: an integer, for the same result again.
        dtype: "float32" or "float64".
        verbose: whether to show a progress bar.

    Attributes:
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
    ):
        super().__init__(
            hidden=hidden,
            activation=activation,
            members=members,
            max_steps=max_steps,
            random_state=random_state,
            dtype=dtype,
            verbose=verbose,
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
        self.groups_, which = np.unique(_labels(groups, len(X)), return_inverse=True)
        count, members, lengths = len(self.groups_), self.members, np.bincount(which)
        rows = merged(np.column_stack([which, X]), np.asarray(y)[:, None], weights)
        which, X, y, weights = rows.inputs[:, 0].astype(int), rows.inputs[:, 1:], rows.targets[:, 0], rows.weights
        if not np.all(np.bincount(which, minlength=count) > 0):
            raise ValueError("sample_weight is zero for all rows of a group; at least one must be positive")
        places = _places(which, count)
        sizes = (X.shape[1], *checked_sizes(self.hidden), 1)
        method = method_of(sizes, self.activation, LOSSES["squared_error"], "evidence", "evidence", self.max_steps)
        stacked = (_stacked(X, places), _stacked(y[:, None], places), _stacked(weights, places))
        batch = Batch(*(np.asarray(each, dtype) for each in stacked))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        keys = jax.random.split(jax.random.key(seed), count * members)
        batches = jax.tree.map(lambda leaf: np.repeat(leaf, members, axis=0), batch)
        result = swept(method, keys, dtype, self.verbose, batches)
        state = jax.tree.map(lambda leaf: leaf[0].reshape(count, members, *leaf.shape[2:]), result.state)
        self._method, self._state, self._rows_of_groups = method, state, batch
        self.n_iter_ = int(np.max(np.asarray(state.step)))
        told = self._told(np.zeros((count, 1, X.shape[1])))
        self.noise_std_ = np.sqrt(np.asarray(told.noise, np.float64)[:, 0])
        self.diagnosis_ = self._diagnosis(result, lengths)
        return self

    def predict(self, X: Any, groups: Any = None, return_std: bool = False) -> Any:
        """The mean of each row's group; with `return_std` also the standard deviation of a new target.

        Raises:
            ValueError: a group that `fit` has not seen.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        labels = _labels(groups, len(X))
        which = np.searchsorted(self.groups_, labels).clip(0, len(self.groups_) - 1)
        if not np.array_equal(self.groups_[which], labels):
            unknown = np.unique(labels[self.groups_[which] != labels])
            raise ValueError(
                f"groups {unknown[:5].tolist()} were not among the {len(self.groups_)} of fit"
                f"{'; give groups=' if groups is None else ''}"
            )
        places = _places(which, len(self.groups_))
        told = self._told(_stacked(X, places))
        mean = _gathered(told.mean, places, len(X))
        if not return_std:
            return mean
        variance = told.within + told.between + told.noise[:, None, :]
        return mean, np.sqrt(_gathered(variance, places, len(X)))

    def predict_interval(self, X: Any, groups: Any = None, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends between which a new target lies with probability `coverage`: of the normal law of `predict`'s std.

        Raises:
            ValueError: a coverage outside (0, 1), or a group that `fit` has not seen.
        """
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"predict_interval: coverage is {coverage}, but must lie between 0 and 1")
        mean, std = self.predict(X, groups, return_std=True)
        reach = NormalDist().inv_cdf(0.5 + 0.5 * coverage) * std
        return mean - reach, mean + reach

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """The coefficient of determination of all rows together."""
        return float(r2_score(y, self.predict(X, groups), sample_weight=sample_weight))

    def _told(self, inputs):
        """Ensembles of all groups for stacked inputs `(G, m, d)`."""
        dtype = self._state.loss.dtype
        return _ensembles(self._method.algorithm, self._state, self._rows_of_groups, np.asarray(inputs, dtype))

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

    def save(self, path: Any) -> None:
        """Not of groups yet: keep `jills.save(path, …)` of the engine's own sweep."""
        raise NotImplementedError("GroupedRegressor cannot be saved to a file yet; pickle it, or sweep by jills.sweep")

    def to_numpy(self) -> Any:
        """Not of groups yet."""
        raise NotImplementedError("GroupedRegressor has no NumPy form yet")


def _labels(groups, count):
    labels = np.zeros(count, int) if groups is None else np.asarray(groups)
    if labels.shape != (count,):
        raise ValueError(f"groups have shape {labels.shape}, but X has {count} rows: give one label for each")
    return labels


def _places(which, count):
    """The rows of each group, `(G, m)`, filled up with -1; m a padded size."""
    order = np.argsort(which, kind="stable")
    lengths = np.bincount(which, minlength=count)
    columns = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.full((count, padded_size(int(lengths.max(initial=1)))), -1)
    places[which[order], columns] = order
    return places


def _stacked(values, places):
    """`(G, m, …)`, zeros where there is no row."""
    stacked = values[np.maximum(places, 0)]
    return np.where((places >= 0).reshape(*places.shape, *[1] * (stacked.ndim - 2)), stacked, 0.0)


def _gathered(stacked, places, count):
    """The inverse of `_stacked`, of `(G, m, 1)`: `(n,)` float64."""
    rows, columns = np.nonzero(places >= 0)
    values = np.empty(count)
    values[places[rows, columns]] = np.asarray(stacked, np.float64)[rows, columns, 0]
    return values


def _one_group(algorithm, state, rows, inputs):
    told = jax.vmap(lambda member: predict_by_evidence(algorithm, member, rows, inputs))(state)
    return ensemble(told)


def _all_groups(algorithm, state, rows, inputs):
    return jax.lax.map(lambda group: _one_group(algorithm, *group), (state, rows, jnp.asarray(inputs)))


_ensembles = jax.jit(_all_groups, static_argnums=0)
