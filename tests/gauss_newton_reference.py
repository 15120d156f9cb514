"""One damped Gauss–Newton step of a block of layers, from autodiff's Jacobian and NumPy's dense solvers."""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.linalg import block_diag

import jills


class Quadratic(NamedTuple):
    """The model `gᵀΔ' + ½ Δ'ᵀ (G + P) Δ'` of the objective in a block's scaled parameters, `Δ = T Δ'`."""

    gram: np.ndarray  # (p, p) of the loss, G
    penalty: np.ndarray  # (p, p) of the weight decay, P = δ TᵀT
    gradient: np.ndarray  # (p,) of the objective
    back: np.ndarray  # (p, p), T

    def decrease(self, change):
        """What the undamped model promises for a change of the parameters, `(p,)`."""
        scaled = np.linalg.solve(self.back, change)
        return -self.gradient @ scaled - 0.5 * scaled @ (self.gram + self.penalty) @ scaled

    @property
    def scale(self):
        """`D = tr(G) / p + δ`; the last bias is not scaled: δ."""
        return np.trace(self.gram) / len(self.gram) + self.penalty[-1, -1]

    def step(self, damping, iterative=False, scale=None):
        """The minimum of the model with `λ · D · ½ ‖Δ'‖²` added, `(p,)`; λ 0: the shortest minimum."""
        curved, p = self.gram + self.penalty, len(self.gram)
        if damping == 0:
            return self.back @ np.linalg.lstsq(curved, -self.gradient, rcond=1e-13)[0]
        scale = self.scale if scale is None else scale
        if not iterative:
            damping = max(damping, p * np.finfo(np.float64).eps)
        return self.back @ np.linalg.solve(curved + damping * scale * np.eye(p), -self.gradient)


def flat(layers) -> np.ndarray:
    """`[W; b]` of each layer, row by row, one after the other; also for changes."""
    parts = [np.vstack([layer.weight, layer.bias]) if hasattr(layer, "weight") else layer for layer in layers]
    return np.concatenate([np.ravel(part) for part in parts])


def unflat(vector, network: jills.Network, block) -> tuple[jills.Layer, ...]:
    """The layers of a block from their flat vector."""
    layers, place = [], 0
    for fan_in, fan_out in zip(network.sizes[block[0] : block[1] + 1], network.sizes[block[0] + 1 :], strict=False):
        matrix = vector[place : place + (fan_in + 1) * fan_out].reshape(fan_in + 1, fan_out)
        layers.append(jills.Layer(matrix[:-1], matrix[-1]))
        place += matrix.size
    return tuple(layers)


def model(network: jills.Network, loss: jills.Loss, params: Any, batch: jills.Batch, decay, block) -> Quadratic:
    """The quadratic model of `loss + ½ decay ‖θ‖²` in a block; a batch with weights, float64."""
    first, last = block
    inputs, targets, weights = (np.asarray(leaf) for leaf in batch)
    omega = weights / weights.sum()

    def predict(vector):
        moved = (*params[:first], *unflat(vector, network, block), *params[last + 1 :])
        return network.predict(moved, batch.inputs)

    own = flat(params[first : last + 1])
    prediction, jacobian = np.asarray(predict(own)), np.asarray(jax.jit(jax.jacobian(predict))(own))
    slope, curvature = (np.asarray(part) for part in _derivatives(loss, prediction, targets))
    back = _scaling(network, inputs, omega, own.size, block)
    jacobian = jacobian @ back
    gram = np.einsum("n,nip,nij,njq->pq", omega, jacobian, curvature, jacobian, optimize=True)
    gradient = np.einsum("n,nip,ni->p", omega, jacobian, slope) + decay * back.T @ own
    return Quadratic(gram, decay * back.T @ back, gradient, back)


@jax.jit(static_argnums=0)
def _autodiff(loss, prediction, targets):
    def one(row, target):
        return loss.value(row[None], target[None])[0]

    return jax.vmap(jax.grad(one))(prediction, targets), jax.vmap(jax.hessian(one))(prediction, targets)


def _derivatives(loss, prediction, targets):
    slope, curvature = _autodiff(loss, prediction, targets)
    if not loss.quadratic and loss.allowed is None:  # Huber: the weights of reweighted least squares, not the Hessian
        ratio = np.asarray(slope) / (prediction - targets)
        curvature = ratio[:, :, None] * np.eye(prediction.shape[1])
    return slope, curvature


def _scaling(network, inputs, omega, size, block) -> np.ndarray:
    """`T` with `[(x − m) / s, 1] = [x, 1] T` for the first layer; the identity for all others."""
    if block[0] > 0:
        return np.eye(size)
    mean = omega @ inputs
    deviation = np.sqrt(omega @ (inputs - mean) ** 2)
    typical = np.prod(deviation) ** (1 / len(deviation))
    # Within a factor of 30 all share the typical scale; what is further away is brought to that factor.
    scale = np.array([typical * max(one / typical / 30, 1) * min(one / typical * 30, 1) for one in deviation])
    one = np.block([[np.diag(1 / scale), np.zeros((len(mean), 1))], [-(mean / scale)[None], np.ones((1, 1))]])
    first = np.kron(one, np.eye(network.sizes[1]))
    return np.asarray(block_diag(first, np.eye(size - len(first))))
