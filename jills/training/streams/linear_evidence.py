"""A linear model that chooses its own regularisation, of any number of rows in one pass.

    S(θ) = ½ β ‖B − A θ‖² + ½ α ‖θ‖²,   H = β AᵀA + αI,   γ = Σ_i β s_i² / (β s_i² + α)
    α ← γ / ‖θ‖²,   β ← (N − γ) / ‖B − A θ‖²,   log evidence = −S − ½ log det H + ½ p log α + ½ N log (β / 2π)

(MacKay, Neural Computation 4, 1992; scikit-learn's BayesianRidge without hyperpriors.) A and B are standardised, as in
`jills.evidence`, of which this is the case without hidden layers: a column of ones has the same prior as all others, N
counts rows, by weight, times outputs, and α and β keep within the same limits. What an update costs does not depend on
the number of rows: `s` are the singular values of their triangle.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jills.predictions import Prediction
from jills.training.streams.triangle import Features, Triangle, as_triangle, layer_of, rest
from jills.types import Batch, Layer

ALPHA, BETA = (1e-4, 1e6), (1e-3, 1e8)  # limits, as those of `jills.evidence`
LEAST_FREEDOM, LEAST_EFFECTIVE = 0.02, 1e-3
CONSTANT = 1e-10  # deviation of a constant column, at most, as a share of its mean
TOLERANCE, MOST_UPDATES = 1e-13, 10_000


class Posterior(NamedTuple):
    """A linear model with its uncertainty, in the units of the rows; α and β mean standardised ones."""

    layer: Layer  # weight (p, k), bias (k,), NumPy, in the dtype of the rows
    alpha: float  # precision of the parameters
    beta: float  # of the noise
    effective_parameters: float  # γ, of (p + 1) k
    log_evidence: float  # in nats, of the targets in their units
    noise: np.ndarray  # (k,) variance of the targets about the function
    covariance: np.ndarray  # (p + 1, p + 1) of the parameters of one output over its squared scale, the bias last
    scale: np.ndarray  # (k,) of the targets
    num_updates: int  # of α and β
    num_rows: int  # of positive weight

    def predict(self, features: Any) -> Prediction:
        """Mean and variance of the function at rows of features, `(n, p)`."""
        rows = np.asarray(features, np.float64)
        mean = rows @ np.asarray(self.layer.weight, np.float64) + np.asarray(self.layer.bias, np.float64)[None, :]
        design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        spread = np.sum((design @ self.covariance) * design, axis=1)
        as_prediction: Any = Prediction
        return as_prediction(mean, spread[:, None] * np.square(self.scale)[None, :], self.noise, mean)


def evidence(batches: Iterable[Batch] | Triangle, *, features: Features | None = None) -> Posterior:
    """The linear model, or output layer, that is likeliest by its evidence, in one pass.

    Args:
        batches: rows, see `triangle`; or the `Triangle` of an earlier pass.
        features: what the outputs are linear in, see `triangle`; None: the inputs.

    Raises:
        ValueError: what `triangle` raises.
    """
    known = as_triangle(batches, features)
    mean, scale, centred = _standardised(known)
    p, k = known.num_features, known.upper.shape[1] - 1 - known.num_features
    left, s, right = np.linalg.svd(centred[:p, :p])
    # The ones are orthogonal to what is centred: one more singular value, to which no target has anything to say.
    squares = np.append(np.square(s), known.total)
    turned = np.append(left.T @ centred[:p, p:], np.zeros((1, k)), axis=0)
    alone = float(np.sum(np.square(rest(known) / scale[None, p:])))
    alpha, beta, num_updates = _fixed_point(squares, np.sum(np.square(turned), axis=1), alone, known.total, k)
    curve = beta * squares + alpha
    theta = right.T @ (beta * s[:, None] * turned[:p] / curve[:p, None])
    weight = theta / scale[:p, None] * scale[None, p:]
    covariance = _in_units((right.T / curve[:p]) @ right, 1.0 / curve[p], mean[:p], scale[:p])
    residual, length = _sums(squares, np.sum(np.square(turned), axis=1), alone, alpha, beta)
    effective, count = k * float(np.sum(beta * squares / curve)), known.total * k
    log_evidence = -0.5 * (beta * residual + alpha * length) - 0.5 * k * np.sum(np.log(curve) - np.log(alpha))
    log_evidence += 0.5 * count * np.log(beta / (2 * np.pi)) - known.total * np.sum(np.log(scale[p:]))
    return Posterior(
        layer=layer_of(weight, mean[p:] - mean[:p] @ weight, known.dtype),
        alpha=alpha,
        beta=beta,
        effective_parameters=effective,
        log_evidence=float(log_evidence),
        noise=np.square(scale[p:]) / beta,
        covariance=covariance,
        scale=scale[p:],
        num_updates=num_updates,
        num_rows=known.num_rows,
    )


def _standardised(known):
    """Mean and deviation of all columns but the ones, and their triangle, standardised and without its first row."""
    upper = known.upper
    mean, centred = upper[0, 1:] / upper[0, 0], upper[1:, 1:]
    deviation = np.linalg.norm(centred, axis=0) / np.sqrt(known.total)
    size = np.where(mean != 0, np.abs(mean), 1.0)  # of a constant column, as `jills.evidence` has it
    scale = np.where(deviation > CONSTANT * np.abs(mean), deviation, size)
    return mean, np.where(scale > 0, scale, 1.0), centred / np.where(scale > 0, scale, 1.0)[None, :]


def _sums(squares, turned, alone, alpha, beta):
    """`‖B − A θ‖²` and `‖θ‖²` at the θ of lowest S; `turned` are squares of the targets along singular vectors."""
    share = alpha / (beta * squares + alpha)
    residual = float(np.sum(turned * np.square(share))) + alone
    length = float(np.sum(squares * turned * np.square(beta / (beta * squares + alpha))))
    return residual, length


def _fixed_point(squares, turned, alone, total, k):
    """α, β and the number of updates that led to them."""
    alpha, beta, count = 1.0, 1.0, total * k
    for number in range(MOST_UPDATES):
        residual, length = _sums(squares, turned, alone, alpha, beta)
        effective = max(k * float(np.sum(beta * squares / (beta * squares + alpha))), LEAST_EFFECTIVE)
        freedom = max(count - effective, LEAST_FREEDOM * count)
        before = alpha, beta
        alpha = float(np.clip(effective / max(length, 1e-300), *ALPHA))
        beta = float(np.clip(freedom / max(residual, 1e-300), *BETA))
        if abs(alpha / before[0] - 1) + abs(beta / before[1] - 1) < TOLERANCE:
            return alpha, beta, number + 1
    return alpha, beta, MOST_UPDATES


def _in_units(covariance, of_bias, mean, scale):
    """From standardised inputs to those given, the bias last: `θ = w / scale`, `bias = b − mean · θ`."""
    inner = covariance / scale[:, None] / scale[None, :]
    cross = -inner @ mean
    corner = of_bias - mean @ cross
    return np.block([[inner, cross[:, None]], [cross[None, :], np.array([[corner]])]])
