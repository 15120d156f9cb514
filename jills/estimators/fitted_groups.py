"""Fitted networks of many groups that predict: what `GroupedRegressor` holds, what its file holds."""

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import numpy as np

from jills.estimators import graph
from jills.estimators.files import as_text, of_text, write
from jills.estimators.fitted import Fitted, as_method, checked_inputs
from jills.estimators.forward import Forward, Scaling
from jills.estimators.methods import Method
from jills.estimators.rows import padded_size
from jills.evidence import predict as predict_by_evidence
from jills.predictions import ensemble
from jills.programs import Program
from jills.types import Batch, State


@dataclass(frozen=True, kw_only=True)
class FittedGroups:
    """M trained networks for each of G groups. In the units of the table that was fitted; inputs `(n, d)`.

    `predict` and `predict_interval` are those of the estimator.
    """

    described: dict[str, Any]  # as of `Fitted`
    groups: np.ndarray  # (G,) labels, sorted
    state: State  # leaves [G, M, …]
    batch: Batch  # (G, n, …) padded, standardised
    inputs: Scaling  # (G, d)
    targets: Scaling  # (G, 1)
    columns: tuple[str, ...] | None = None  # names, of a data frame

    @property
    def method(self) -> Method:
        """How they were trained."""
        return as_method(self.described)

    def told(self, inputs: np.ndarray) -> Any:
        """Ensembles of all groups for stacked inputs `(G, m, d)`, in standardised units."""
        algorithm, inputs = self.method.algorithm, np.asarray(inputs, self.state.loss.dtype)
        return _ensembles("auto", algorithm.compiler_options, (algorithm,), self.state, self.batch, inputs)

    def predict(self, inputs: Any, groups: Any = None, return_std: bool = False) -> Any:
        """The mean of each row's group, `(n,)`; with `return_std` also the standard deviation of a new target.

        Raises:
            ValueError: a group that was not fitted.
        """
        inputs = checked_inputs(inputs, self.described["sizes"][0], self.columns)
        which = self._which(labels_of(groups, len(inputs)), groups is None)
        places, units = places_of(which, len(self.groups)), self.targets.at((which, 0))
        told = self.told(stacked(self.inputs.at(which).applied(inputs), places))
        mean = units.undone(_gathered(told.mean, places, len(inputs)))
        if not return_std:
            return mean
        parts = (np.asarray(each, np.float64) for each in (told.within, told.between, told.noise[:, None, :]))
        return mean, units.scale * np.sqrt(_gathered(sum(parts), places, len(inputs)))

    def predict_interval(self, inputs: Any, groups: Any = None, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends between which a new target lies with probability `coverage`: of the normal law of `predict`'s std.

        Raises:
            ValueError: a coverage outside (0, 1), or a group that was not fitted.
        """
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"predict_interval: coverage is {coverage}, but must lie between 0 and 1")
        mean, std = self.predict(inputs, groups, return_std=True)
        reach = NormalDist().inv_cdf(0.5 + 0.5 * coverage) * std
        return mean - reach, mean + reach

    def of_group(self, label: Any) -> Fitted:
        """The networks of one group by themselves."""
        place = int(self._which(np.asarray([label]), False)[0])
        state, batch = jax.tree.map(lambda leaf: np.asarray(leaf)[place], (self.state, self.batch))
        return Fitted(
            described=self.described,
            state=state,
            params=state.params,
            batch=batch,
            inputs=self.inputs.at(place),
            targets=self.targets.at(place),
            factor=np.ones(1),
            residual=np.zeros(1),
            columns=self.columns,
        )

    def to_numpy(self) -> dict[Any, Forward]:
        """Of each group its networks as NumPy arrays, with a `predict` of NumPy alone."""
        return {label: self.of_group(label).to_numpy() for label in self.groups.tolist()}

    def to_onnx(self, path: str | Path, dtype: str = "float32") -> None:
        """Writes the networks of all groups as one graph of ONNX; see `Fitted.to_onnx`.

        Of the inputs `inputs`, `(n, d)`, and `groups`, `(n,)` int64, the place of each row's group in `self.groups`, it
        makes `mean`, `(n,)`.
        """
        forward = Forward.of(self.state.params, self.described["activation"], self.inputs, self.targets)
        graph.write(path, forward, dtype, columns=self.columns, groups=True)

    def save(self, path: str | Path) -> None:
        """Writes it whole to one `.npz` file without pickle; `jills.estimators.load` reads it."""
        tree = {name: getattr(self, name) for name in ("state", "batch", "inputs", "targets")}
        write(path, "groups", {"columns": self.columns, **self.described}, {"groups": as_text(self.groups), **tree})

    def _which(self, labels, none_given):
        """The places of the groups of rows, `(n,)`."""
        which = np.searchsorted(self.groups, labels).clip(0, len(self.groups) - 1)
        if not np.array_equal(self.groups[which], labels):
            unknown = np.unique(labels[self.groups[which] != labels])
            raise ValueError(
                f"groups {unknown[:5].tolist()} were not among the {len(self.groups)} of fit"
                f"{'; give groups=' if none_given else ''}"
            )
        return which


def read(described: dict[str, Any], tree: dict[str, Any]) -> FittedGroups:
    """From what a file holds."""
    columns, groups = described.pop("columns"), of_text(tree.pop("groups"))
    names = None if columns is None else tuple(columns)
    return FittedGroups(described=described, groups=groups, columns=names, **tree)


def labels_of(groups: Any, count: int) -> np.ndarray:
    """A label for each row, `(n,)`; without groups all zero."""
    labels = np.zeros(count, int) if groups is None else np.asarray(groups)
    if labels.shape != (count,):
        raise ValueError(f"groups have shape {labels.shape}, but X has {count} rows: give one label for each")
    return labels


def places_of(which: np.ndarray, count: int) -> np.ndarray:
    """The rows of each group, `(G, m)`, filled up with -1; m a padded size."""
    order = np.argsort(which, kind="stable")
    lengths = np.bincount(which, minlength=count)
    columns = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.full((count, padded_size(int(lengths.max(initial=1)))), -1)
    places[which[order], columns] = order
    return places


def stacked(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`(G, m, …)`, zeros where there is no row."""
    found = values[np.maximum(places, 0)]
    return np.where((places >= 0).reshape(*places.shape, *[1] * (found.ndim - 2)), found, 0.0)


def _gathered(values, places, count):
    """The inverse of `stacked`, of `(G, m, 1)`: `(n,)` float64."""
    rows, columns = np.nonzero(places >= 0)
    found = np.empty(count)
    found[places[rows, columns]] = np.asarray(values, np.float64)[rows, columns, 0]
    return found


def _all_groups(algorithm, state, rows, inputs):
    def one(group):
        state, rows, inputs = group
        return ensemble(jax.vmap(lambda member: predict_by_evidence(algorithm, member, rows, inputs))(state))

    return jax.lax.map(one, (state, rows, inputs))


_ensembles = Program(_all_groups, (0,))
