"""Trained networks as plain NumPy: the means of predictions in float64, without compiling anything."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jills import activations
from jills.activations import Activation
from jills.types import Params


class Scaling(NamedTuple):
    """Mean and deviation of columns; of a constant one the deviation is one."""

    mean: np.ndarray  # (m,), of groups (G, m)
    scale: np.ndarray  # likewise

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None = None) -> "Scaling":
        """Of columns `(n, m)`, with row weights `(n,)`; of groups `(G, n, m)` and `(G, n)`."""
        values = np.asarray(values, np.float64)
        weights = (np.ones(values.shape[:-1]) if weights is None else weights)[..., None]
        size = np.max(np.abs(values), axis=-2, initial=0.0, keepdims=True)
        size = np.where(size > 0, size, 1.0)  # squares of large values would overflow
        average = lambda each: np.sum(each * weights, -2, keepdims=True) / np.sum(weights, -2, keepdims=True)  # noqa: E731
        mean = average(values / size)
        deviation = np.sqrt(average((values / size - mean) ** 2))
        constant = deviation <= 1e-12
        return cls((mean * size)[..., 0, :], np.where(constant, 1.0, deviation * size)[..., 0, :])

    @classmethod
    def none(cls, size: int) -> "Scaling":
        """That of columns which are taken as they are."""
        return cls(np.zeros(size), np.ones(size))

    def at(self, which: Any) -> "Scaling":
        """Of groups those of one, or of each row its group's, `(n, m)`."""
        return Scaling(self.mean[which], self.scale[which])

    def applied(self, values: np.ndarray) -> np.ndarray:
        """`(x − m) / s`."""
        return (np.asarray(values, np.float64) - self.mean) / self.scale

    def undone(self, values: np.ndarray) -> np.ndarray:
        """`s x + m`."""
        return values * self.scale + self.mean


class Forward(NamedTuple):
    """M networks with their units: all it takes to predict a mean, in NumPy."""

    weights: tuple[np.ndarray, ...]  # (M, fan_in, fan_out) of each layer
    biases: tuple[np.ndarray, ...]  # (M, fan_out)
    activation: str
    inputs: Scaling
    targets: Scaling

    @classmethod
    def of(cls, params: Params, activation: str, inputs: Scaling, targets: Scaling) -> "Forward":
        """Of params whose leaves lead with `[M]`."""
        weights, biases = zip(*((np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in params), strict=True)
        return cls(weights, biases, activation, inputs, targets)

    def each(self, inputs: Any) -> np.ndarray:
        """What every member's output layer tells, in the units of the targets, `(M, n, k)`; of classes logits."""
        values = np.broadcast_to(self.inputs.applied(inputs), (len(self.biases[0]), *np.shape(inputs)))
        function = FUNCTIONS[self.activation]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values @ weight + bias[:, None, :]
            if layer < len(self.weights) - 1:
                values = function(values)
        return self.targets.undone(values)

    def predict(self, inputs: Any) -> np.ndarray:
        """The mean over the members, `(n, k)`."""
        return np.mean(self.each(inputs), axis=0)


def _sigmoid(values):
    return 0.5 * (1.0 + np.tanh(0.5 * values))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda values: np.maximum(values, 0.0),
    "sigmoid": _sigmoid,
    "softplus": lambda values: np.logaddexp(values, 0.0),
    "arcsinh": np.arcsinh,
    "silu": lambda values: values * _sigmoid(values),
}
"""The activations that an estimator may have, by their names in `jills.activations`."""


def activation_of(name: Any) -> Activation:
    """That of the engine.

    Raises:
        ValueError: no such name.
    """
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise ValueError(f"activation is {name!r}, but must be one of {', '.join(FUNCTIONS)}")
    return getattr(activations, name)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """`(…, k)` of logits: a softmax; one logit is that of the second of two classes."""
    if logits.shape[-1] == 1:
        second = _sigmoid(logits)
        return np.concatenate([1.0 - second, second], axis=-1)
    apart = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return apart / np.sum(apart, axis=-1, keepdims=True)
