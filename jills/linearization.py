"""A network, linearised in the parameters of a block of layers.

Notation of `jills.types`, and `θ^l = [W^l; b^l]` as one matrix `(n_(l-1) + 1, n_l)`. Layers are
counted from zero here. A block is a pair `(first, last)` of layers whose parameters move together;
those above it are part of the linear map, those below it do not matter.

    dH^l = A^l Δ^l + (dh^(l-1)) W^l,   dh^l = f_l'(H^l) ⊙ dH^l,   u = dh^L        (`jvp`)
    s^L = v ⊙ f_L'(H^L),   s^(l-1) = (s^l W^lᵀ) ⊙ f'(H^(l-1))                     (`backward`)

`A^lᵀ s^l` is the vector–Jacobian product (`gathered`). With one output the sensitivities `S^l = ∂ h^L / ∂ H^l` are
worth keeping: then `u = Σ_l rowsum(S^l ⊙ A^l Δ^l)`, about half the arithmetic.

Here, and in all that uses it, every array of a batch is stored features × rows, transposed against the
rest of jills: the long axis is then the contiguous one, and the products of narrow layers take half
the time on CPUs (1000 rows, 20 × 20: 25 against 53 µs).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills import activations
from jills.linalg import matmul, only_cpu, picked
from jills.network import Network
from jills.types import Layer, Params

Block = tuple[int, int]
"""`(first, last)`: a run of layers, both ends included, counted from zero."""


class Pass(NamedTuple):
    """A forward pass, with what its linearisation needs."""

    below: tuple[jax.Array, ...]  # A^l transposed, [h^(l-1); 1], each (n_(l-1) + 1, n)
    slopes: tuple[jax.Array | None, ...]  # f_l'(H^l), each (n_l, n); None: ones, of the identity
    prediction: jax.Array  # h^L, (k, n)


def stack(params: Params) -> tuple[jax.Array, ...]:
    """`θ^l = [W^l; b^l]` of every layer."""
    return tuple(jnp.concatenate([layer.weight, layer.bias[None]]) for layer in params)


def split(matrices: Sequence[jax.Array]) -> Params:
    """The layers of `θ^l`."""
    return tuple(Layer(matrix[:-1], matrix[-1]) for matrix in matrices)


def moved(matrices: Sequence[jax.Array], block: Block, change: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """`θ + Δ`, all layers, for a change of a block."""
    first, last = block
    new = tuple(old + part for old, part in zip(matrices[first : last + 1], change, strict=True))
    return (*matrices[:first], *new, *matrices[last + 1 :])


def with_ones(values: jax.Array) -> jax.Array:
    """`[h; 1]`, `(n_l + 1, n)`."""
    return jnp.concatenate([values, jnp.ones((1, values.shape[1]), values.dtype)])


def forward(network: Network, matrices: Sequence[jax.Array], start: Pass | jax.Array, first: int = 0) -> Pass:
    """The forward pass of parameters `θ^l`; that of the layers below `first` is taken from `start`.

    Args:
        network: of L layers.
        matrices: `θ^l`, L of them.
        start: an earlier pass, or the inputs with ones, `(d + 1, n)`.
        first: the lowest layer whose parameters have changed.
    """
    if isinstance(start, Pass):
        below, slopes, current = list(start.below[:first]), list(start.slopes[:first]), start.below[first]
    else:
        below, slopes, current = [], [], start
    values = current
    for layer in range(first, network.num_layers):
        activation = network.activations[layer]
        total = matmul(matrices[layer].T, current)
        values = activation.forward(total)
        below.append(current)
        if layer + 1 < network.num_layers:
            # XLA's kernels for CPUs are scalar, and a tenth as fast, where a result takes the place of its argument.
            # This one cannot: it has a row more, and the barrier keeps XLA from making the values apart from it.
            current = lax.optimization_barrier(with_ones(values))
            values = current[:-1]
        slopes.append(_slope(activation, total, values))
    return Pass(tuple(below), tuple(slopes), values)


def _slope(activation, total, values):
    if activation == activations.identity:
        return None
    known = activation.derivative_of_value
    return activation.derivative(total) if known is None else known(values)


def jvp(matrices, below, slopes, block: Block, changes: Sequence[jax.Array]) -> jax.Array:
    """The Jacobian–vector product: the change of the prediction, `(k, n)`, for changes `Δ^l` of the parameters.

    Args:
        matrices: `θ^l` of all layers.
        below: `A^l` of the block's layers.
        slopes: `f_l'(H^l)` of all layers, None for the identity's.
        block: which layers change.
        changes: `Δ^l` of the block's layers.
    """
    first, last = block
    change = matmul(changes[0].T, below[0])
    for layer in range(first, len(matrices)):
        if layer > first:
            change = matmul(matrices[layer][:-1].T, change)
            if layer <= last:
                change = change + matmul(changes[layer - first].T, below[layer - first])
        change = _times(slopes[layer], change)
    return change


def backward(matrices, slopes, block: Block, cotangents: jax.Array) -> list[jax.Array]:
    """`s^l` of the block's layers, each `(n_l, n)`, from cotangents of the predictions, `(k, n)`."""
    first, last = block
    found = []
    for layer in reversed(range(first, len(matrices))):
        cotangents = _times(slopes[layer], cotangents)
        if layer <= last:
            found.append(cotangents)
        if layer > first:
            cotangents = matmul(matrices[layer][:-1], cotangents)
    return found[::-1]


def gathered(below: jax.Array, cotangents: jax.Array) -> jax.Array:
    """`A^lᵀ s^l`, `(m, q)`, of `(m, n)` and `(q, n)`."""
    # The wider one first: XLA's products for CPUs take up to twice as long the other way round.
    if below.shape[0] < cotangents.shape[0] and only_cpu():
        return lax.optimization_barrier(matmul(cotangents, below.T)).T
    return matmul(below, cotangents.T)


def _times(slope, values):
    """`f'(H) ⊙ v`; arrays of ones, of the size of the targets, are spared."""
    return values if slope is None else slope * values


def sensitivities(matrices, current: Pass, block: Block) -> list[jax.Array]:
    """`S^l = ∂ h^L / ∂ H^l` of the block's layers, each `(k, n_l, n)`: one `backward` for each output."""
    k, n = current.prediction.shape
    each = jnp.broadcast_to(jnp.eye(k, dtype=current.prediction.dtype)[:, :, None], (k, k, n))
    return jax.vmap(lambda cotangents: backward(matrices, current.slopes, block, cotangents))(each)


def jacobian(below: Sequence[jax.Array], sensitivity: Sequence[jax.Array]) -> jax.Array:
    """`∂ h^L / ∂ Δ` as a dense array `(k, p, n)`: the Khatri–Rao products of `A^l` and `S^l`, one above the other."""
    inputs = [np.repeat(np.arange(a.shape[0]), s.shape[1]) for a, s in zip(below, sensitivity, strict=True)]
    outputs = [np.tile(np.arange(s.shape[1]), a.shape[0]) for a, s in zip(below, sensitivity, strict=True)]
    # All layers in one kernel, which asks of no entry where it comes from.
    first = picked(jnp.concatenate(below), _one_after_other(inputs))
    second = jax.vmap(lambda rows: picked(rows, _one_after_other(outputs)))(jnp.concatenate(sensitivity, axis=1))
    return first[None] * second


def _one_after_other(places):
    """Places in several arrays, as those in one that holds all of them."""
    begins = np.cumsum([0, *(place[-1] + 1 for place in places[:-1])])
    return np.concatenate([begin + place for begin, place in zip(begins, places, strict=True)])
