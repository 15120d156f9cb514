"""The Gauss–Newton matrix of all parameters, and the gradient of the data's part of the objective.

    G = Σ_n J_nᵀ Λ_n J_n,   J_n = ∂ z_n / ∂ θ,  Λ_n = β ∂² e / ∂ z_n²

With `a` the inputs of a layer and `S_n = ∂ z_n / ∂ H_n` the sensitivities, the block of two layers is

    G_(ij)(i'j') = Σ_n a_i a'_i' M_jj',   M_n = S_nᵀ Λ_n S'_n

so no Jacobian is formed, and the cost does not grow with the outputs. Within a layer both factors are symmetric, and
only half of each is multiplied: a quarter of the arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.evidence.likelihood import Likelihood
from jills.gauss_newton import linearization
from jills.linalg import HIGHEST, add, flatten, matmul
from jills.network import Network

BLOCK_ENTRIES = 2**19  # of the products of one block of rows: they stay in the cache of a core
FEWEST_ROWS = 64  # of a block


class Terms(NamedTuple):
    """The data's part of the objective at some parameters, to second order."""

    gram: jax.Array  # (p, p) G
    gradient: jax.Array  # (p,)
    energies: jax.Array  # (k,) or (1,), see `Likelihood.energies`


def block_rows(network: Network, n: int) -> int:
    """How many rows are taken at once, so that blocks are of nearly equal size."""
    widths = [(fan_in + 1, fan_out) for fan_in, fan_out in zip(network.sizes[:-1], network.sizes[1:], strict=True)]
    most = max(max(m * other, q * fan_out) for m, q in widths for other, fan_out in widths)
    blocks = -(-n // max(FEWEST_ROWS, BLOCK_ENTRIES // most))
    return -(-n // blocks)


def in_blocks(array: jax.Array, size: int) -> jax.Array:
    """`(m, n)` as `(blocks, m, size)`, filled up with zeros."""
    m, n = array.shape
    blocks = -(-n // size)
    padded = jnp.pad(array, ((0, 0), (0, blocks * size - n)))
    return jnp.moveaxis(padded.reshape(m, blocks, size), 1, 0)


def terms_of_block(
    network: Network, likelihood: Likelihood, beta: jax.Array, matrices: Sequence[jax.Array], inputs: jax.Array
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Of some rows: the tables of `gram_of`, the gradient `(p,)` and the energies; `inputs` `(d + 1, n)`."""
    block = (0, network.num_layers - 1)
    current = linearization.forward(network, matrices, inputs[:-1])
    prediction = current.prediction
    sensitivity = linearization.sensitivities(matrices, current, block)
    curve = jax.vmap(lambda vectors: likelihood.curve(prediction, beta, vectors), in_axes=1, out_axes=1)
    curved = [curve(each) for each in sensitivity]
    cotangents = linearization.backward(matrices, current.slopes, block, likelihood.slope(prediction, beta))
    gradient = [matmul(below, one.T) for below, one in zip(current.below, cotangents, strict=True)]
    tables = [_table(current.below, sensitivity, curved, *pair) for pair in _pairs(network.num_layers)]
    return tables, flatten(gradient), likelihood.energies(prediction)


def gram_of(tables: Sequence[jax.Array], network: Network) -> jax.Array:
    """G, `(p, p)`, from the products of every pair of layers."""
    count = network.num_layers
    grid: list[list] = [[None] * count for _ in range(count)]
    for (one, other), table in zip(_pairs(count), tables, strict=True):
        block = _laid_out(table, network, one, other)
        grid[one][other] = block
        grid[other][one] = block.T
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in grid], axis=0)


def _pairs(count):
    return [(one, other) for one in range(count) for other in range(one, count)]


def _table(below, sensitivity, curved, one, other):
    """`Σ_n (a_i a'_i') M_jj'`, pairs of i × pairs of j."""
    m, m_other = below[one].shape[0], below[other].shape[0]
    k, q, _ = sensitivity[one].shape
    q_other = sensitivity[other].shape[1]
    if one == other:
        (low, high), (left, right) = np.triu_indices(m), np.triu_indices(q)
    else:
        low, high = (index.ravel() for index in np.indices((m, m_other)))
        left, right = (index.ravel() for index in np.indices((q, q_other)))
    inputs = below[one][low] * below[other][high]
    outputs = add([sensitivity[one][c, left] * curved[other][c, right] for c in range(k)])
    return lax.dot_general(inputs, outputs, (((1,), (1,)), ((), ())), precision=HIGHEST)


def _laid_out(table, network, one, other):
    m, m_other = network.sizes[one] + 1, network.sizes[other] + 1
    q, q_other = network.sizes[one + 1], network.sizes[other + 1]
    if one == other:
        table = table[_symmetric(m).ravel()][:, _symmetric(q).ravel()]
    return table.reshape(m, m_other, q, q_other).transpose(0, 2, 1, 3).reshape(m * q, m_other * q_other)


def _symmetric(size):
    """The place of the pair (i, j), and of (j, i), among those of `np.triu_indices`; `(size, size)`."""
    places = np.zeros((size, size), np.int32)
    low, high = np.triu_indices(size)
    places[low, high] = places[high, low] = np.arange(len(low), dtype=np.int32)
    return places
