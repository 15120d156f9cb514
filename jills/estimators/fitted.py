"""A fitted ensemble that predicts: what an estimator holds, what its file holds. It needs no scikit-learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jills import losses
from jills.estimators import graph
from jills.estimators.files import as_text, of_text, write
from jills.estimators.forward import Forward, Scaling, probabilities
from jills.estimators.methods import Method, method_of
from jills.estimators.rows import padded
from jills.evidence import Evidence
from jills.evidence import predict as predict_by_evidence
from jills.predictions import Ensemble, Prediction, ensemble
from jills.programs import Program
from jills.types import Batch, Params, State

LOSSES = {
    "squared_error": losses.squared_error,
    "sigmoid_cross_entropy": losses.sigmoid_cross_entropy,
    "softmax_cross_entropy": losses.softmax_cross_entropy,
}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """M trained networks with their units, and what tells how sure they are.

    `predict`, `predict_interval`, `predict_proba` and `sample_y` are those of the estimators. In the units of the
    table that was fitted; inputs `(n, d)`.
    """

    described: dict[str, Any]  # sizes, activation, loss, algorithm, regularization, max_steps: of `method_of`
    state: State  # leaves [M, …]
    params: Params  # leaves [M, …], those to predict with
    batch: Batch  # standardised, padded; weights (M, n) where members have their own
    inputs: Scaling
    targets: Scaling
    factor: np.ndarray  # (k,) of the variance, told by folds; else ones
    residual: np.ndarray  # (k,) noise of standardised targets, where the algorithm does not tell it
    classes: np.ndarray | None = None
    columns: tuple[str, ...] | None = None  # names, of a data frame
    flat: bool = True  # whether predictions of one output are (n,)

    @property
    def method(self) -> Method:
        """How it was trained."""
        return as_method(self.described)

    @property
    def forward(self) -> Forward:
        """The networks in NumPy."""
        return Forward.of(self.params, self.described["activation"], self.inputs, self.targets)

    def distribution(self, inputs: Any) -> Ensemble:
        """All that is known of new targets, in their units; NumPy inputs `(n, d)`, compiled once for a size of rows."""
        told, n = self._padded(inputs), len(inputs)
        members = jax.tree.map(lambda leaf: leaf[:, :n] if leaf.ndim == 3 else leaf, told.members)
        return Ensemble(told.mean[:n], told.within[:n], told.between[:n], told.noise, members)

    def _padded(self, inputs):
        """With rows up to the next size of a compiled program, the last of which mean nothing."""
        columns = padded(np.asarray(self.inputs.applied(inputs), self.state.loss.dtype))
        units = (np.asarray(each, columns.dtype) for each in (self.targets.mean, self.targets.scale, self.factor))
        return _together("fast", {}, (), self.each(columns), *units)

    @property
    def noise(self) -> np.ndarray:
        """The variance of targets about the function, `(k,)`, in their units, mean of the members."""
        one = padded(np.zeros((1, len(self.inputs.mean)), self.state.loss.dtype))
        told = np.mean(np.asarray(self.each(one).noise, np.float64), axis=0)
        return told * self.factor * self.targets.scale**2

    def each(self, columns: np.ndarray) -> Prediction:
        """What every member tells of standardised rows, leaves `[M, …]`, in standardised units."""
        algorithm = self.method.algorithm
        if isinstance(algorithm, Evidence):
            options = algorithm.compiler_options
            return _by_evidence("auto", options, (algorithm,), self.state, self.batch, columns)
        mean = np.asarray(_outputs("fast", {}, (algorithm.network,), self.params, columns))
        noise = np.broadcast_to(self.residual.astype(mean.dtype), (len(mean), mean.shape[2]))
        return Prediction(*jax.device_put((mean, np.zeros_like(mean), noise, mean)))

    def predict(self, inputs: Any, return_std: bool = False) -> Any:
        """The mean of the networks; with `return_std` also the standard deviation of a new target. Classes: labels."""
        inputs = self._checked(inputs)
        if self.classes is not None:
            return self.classes[np.argmax(self.predict_proba(inputs), axis=1)]
        mean = self._shaped(self.forward.predict(inputs))
        if not return_std:
            return mean
        told = self._padded(inputs)
        variance = _variance("fast", {}, (), told)
        return mean, self._shaped(np.sqrt(np.asarray(variance, np.float64)[: len(inputs)]))

    def predict_interval(self, inputs: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends between which a new target lies with this probability, as many above as below.

        Raises:
            ValueError: a coverage outside (0, 1), or classes.
        """
        if self.classes is not None:
            raise ValueError("predict_interval: classes have no intervals; take predict_proba")
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"predict_interval: coverage is {coverage}, but must lie between 0 and 1")
        levels = [0.5 - 0.5 * coverage, 0.5 + 0.5 * coverage]
        inputs = self._checked(inputs)
        told = _quantiles("fast", {}, (), self._padded(inputs), np.asarray(levels, self.state.loss.dtype))
        low, high = np.asarray(told, np.float64)[:, : len(inputs)]
        return self._shaped(low), self._shaped(high)

    def predict_proba(self, inputs: Any) -> np.ndarray:
        """The mean probabilities of the classes, `(n, number of classes)`.

        Raises:
            ValueError: a regression.
        """
        if self.classes is None:
            raise ValueError("predict_proba: this is a regression; take predict, or predict_interval")
        told = np.mean(probabilities(self.forward.each(self._checked(inputs))), axis=0)
        return told / np.sum(told, axis=1, keepdims=True)

    def sample_y(self, inputs: Any, n_samples: int = 1, random_state: int = 0) -> np.ndarray:
        """Draws of new targets, each row by itself, `(n, n_samples)` or `(n, k, n_samples)`; not of classes."""
        inputs, rng = self._checked(inputs), np.random.default_rng(random_state)
        told = _components("fast", {}, (), self._padded(inputs))
        mean, deviation = (np.asarray(each, np.float64)[:, : len(inputs)] for each in told)
        members, n, k = mean.shape
        chosen = rng.integers(members, size=(n_samples, n))
        pick = lambda values: values[chosen, np.arange(n)]  # noqa: E731 used at once, (n_samples, n, k)
        drawn = np.moveaxis(pick(mean) + pick(deviation) * rng.normal(size=(n_samples, n, k)), 0, -1)
        return drawn[:, 0] if self.flat and k == 1 else drawn

    def to_numpy(self) -> Forward:
        """Weights, biases and units as NumPy arrays, with a `predict` of NumPy alone."""
        return self.forward

    def to_onnx(self, path: str | Path, dtype: str = "float32") -> None:
        """Writes the networks as a graph of ONNX, which a program without JAX or Python predicts with.

        Of the input `inputs`, `(n, d)` in the order of the columns of `fit`, any n, it makes `mean`, what `predict`
        tells; of classes `labels` and `probabilities`, `(n, number of classes)`. Only the mean is exported: the
        deviation would want the curvature, a matrix of all parameters for each member.

        Args:
            path: the file.
            dtype: of inputs and outputs, in which they are scaled: "float32", or "float64", where their mean is far
                from zero by their spread, as that of a year is. The networks between them are of float32.

        Raises:
            ImportError: there is no `onnx`; it comes with the extra `onnx`.
            ValueError: another dtype.
        """
        graph.write(path, self.forward, dtype, self.classes, self.columns, self.flat)

    def _checked(self, inputs):
        return checked_inputs(inputs, len(self.inputs.mean), self.columns)

    def _shaped(self, values):
        return values[:, 0] if self.flat and values.shape[1] == 1 else values

    def save(self, path: str | Path) -> None:
        """Writes it whole to one `.npz` file without pickle; `jills.estimators.load` reads it."""
        names = ("state", "params", "batch", "inputs", "targets", "factor", "residual")
        tree = {name: getattr(self, name) for name in names}
        if self.classes is not None:
            tree["classes"] = as_text(self.classes)
        write(path, "networks", {"flat": self.flat, "columns": self.columns, **self.described}, tree)


def checked_inputs(inputs: Any, count: int, columns: tuple[str, ...] | None) -> np.ndarray:
    """Rows as an array `(n, d)`.

    Raises:
        ValueError: another number of columns, or a frame with other names than those of `fit`.
    """
    names = getattr(inputs, "columns", None)
    if columns is not None and names is not None and list(names) != list(columns):
        raise ValueError(f"inputs have columns {list(names)}, but were fitted with {list(columns)}")
    inputs = np.asarray(inputs, np.float64)
    if inputs.ndim != 2 or inputs.shape[1] != count:
        raise ValueError(f"inputs have shape {inputs.shape}, but must be (n, {count})")
    return inputs


def read(described: dict[str, Any], tree: dict[str, Any]) -> Fitted:
    """From what a file holds."""
    if "classes" in tree:
        tree["classes"] = of_text(tree["classes"])
    columns = described.pop("columns", None)
    names = None if columns is None else tuple(columns)
    return Fitted(flat=described.pop("flat"), columns=names, described=described, **tree)


def as_method(described: dict[str, Any]) -> Method:
    """What `described` means, with the loss by its name."""
    given = dict(described)
    return method_of(tuple(given.pop("sizes")), loss=LOSSES[given.pop("loss")], **given)


def _told(algorithm: Evidence, states, batch, columns):
    rows = Batch(None, None, 0 if batch.weights.ndim == 2 else None)
    one = lambda state, batch: predict_by_evidence(algorithm, state, batch, columns)  # noqa: E731 used at once
    return jax.vmap(one, in_axes=(0, rows))(states, batch)


def _means(network, params, columns):
    return jax.vmap(network.predict, in_axes=(0, None))(params, columns)


def _mixed(told, mean, scale, factor):
    """The ensemble in the units of the targets, with its variance calibrated."""
    row, square = scale[None, None, :], jnp.square(scale)
    return ensemble(
        Prediction(
            mean=told.mean * row + mean[None, None, :],
            variance=told.variance * square[None, None, :],
            noise=told.noise * square[None, :],
            moderated=told.moderated * row + mean[None, None, :],
        )
    ).calibrated(factor)


_by_evidence, _outputs, _together = Program(_told, (0,)), Program(_means, (0,)), Program(_mixed, ())
_variance, _components = Program(lambda told: told.variance, ()), Program(Ensemble.components, ())
_quantiles = Program(Ensemble.quantiles, ())
