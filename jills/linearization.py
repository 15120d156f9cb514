"""A network, linearised in the parameters of a block of layers.

Notation of `jills.types`, and `θ^l = [W^l; b^l]` as one matrix `(n_(l-1) + 1, n_l)`. Layers are
counted from zero here. A block is a pair `(first, last)` of layers whose parameters move together;
those above it are part of the linear map, those below it do not matter.

    dH^l = A^l Δ^l + (dh^(l-1)) W^l,   dh^l = f_l'(H^l) ⊙ dH^l,   u = dh^L        (`push`)
    s^L = w ⊙ f_L'(H^L),   s^(l-1) = (s^l W^lᵀ) ⊙ f'(H^(l-1))                     (`carry_down`)

`A^lᵀ s^l` is the transpose of `push`. With one output the sensitivities `S^l = ∂ h^L / ∂ H^l`,
`(n, n_l)`, are worth keeping: then `u = Σ_l rowsum(S^l ⊙ A^l Δ^l)`, about half the arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jills.network import HIGHEST, Network, with_bias

Block = tuple[int, int]
"""`(first, last)`: a run of layers, both ends included, counted from zero."""


class Pass(NamedTuple):
    """A forward pass, with what its linearisation needs."""

    rows: tuple[jax.Array, ...]  # A^l = [h^(l-1), 1], each (n, n_(l-1) + 1)
    slopes: tuple[jax.Array, ...]  # f_l'(H^l), each (n, n_l)
    prediction: jax.Array  # h^L, (n, k)


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product, in full precision on every device."""
    return jnp.matmul(a, b, precision=HIGHEST)


def forward(network: Network, matrices: Sequence[jax.Array], below: Pass | jax.Array, first: int = 0) -> Pass:
    """The forward pass of parameters `θ^l`; that of the layers below `first` is taken from `below`.

    Args:
        network: of L layers.
        matrices: `θ^l`, L of them.
        below: an earlier pass, or the inputs `(n, d)`.
        first: the lowest layer whose parameters have changed.
    """
    rows, slopes = ([], []) if not isinstance(below, Pass) else (list(below.rows[:first]), list(below.slopes[:first]))
    current = below.rows[first] if isinstance(below, Pass) else with_bias(below)
    values = current
    for layer in range(first, network.num_layers):
        activation = network.activations[layer]
        total = times(current, matrices[layer])
        values = activation.forward(total)
        rows.append(current)
        slopes.append(activation.derivative(total))
        if layer + 1 < network.num_layers:
            current = with_bias(values)
    return Pass(tuple(rows), tuple(slopes), values)


def push(matrices, rows, slopes, block: Block, changes: Sequence[jax.Array]) -> jax.Array:
    """The change of the prediction, `(n, k)`, for changes `Δ^l` of the block's parameters.

    Args:
        matrices: `θ^l` of all layers.
        rows: `A^l` of the block's layers.
        slopes: `f_l'(H^l)` of all layers.
        block: which layers change.
        changes: `Δ^l` of the block's layers.
    """
    first, last = block
    change = None
    for layer in range(first, len(matrices)):
        total = None if change is None else times(change, matrices[layer][:-1])
        if layer <= last:
            own = times(rows[layer - first], changes[layer - first])
            total = own if total is None else total + own
        change = slopes[layer] * total
    assert change is not None
    return change


def carry_down(matrices, slopes, block: Block, weights: jax.Array) -> list[jax.Array]:
    """`s^l` of the block's layers, each `(n, n_l)`, from weights of the predictions, `(n, k)`."""
    first, last = block
    found = []
    for layer in reversed(range(first, len(matrices))):
        weights = weights * slopes[layer]
        if layer <= last:
            found.append(weights)
        if layer > first:
            weights = times(weights, matrices[layer][:-1].T)
    return found[::-1]


def sensitivities(matrices, slopes, block: Block) -> list[jax.Array]:
    """`S^l = ∂ h^L / ∂ H^l` of the block's layers, each `(n, k, n_l)`: k transposed passes."""
    first, last = block
    n, k = slopes[-1].shape
    current = slopes[-1][:, None, :] * jnp.eye(k, dtype=slopes[-1].dtype)[None]
    found = []
    for layer in reversed(range(first, len(matrices))):
        if layer <= last:
            found.append(current)
        if layer > first:
            below = times(current.reshape(n * k, -1), matrices[layer][:-1].T).reshape(n, k, -1)
            current = below * slopes[layer - 1][:, None, :]
    return found[::-1]


def jacobian(rows: Sequence[jax.Array], sensitivity: Sequence[jax.Array]) -> jax.Array:
    """`∂ h^L / ∂ Δ` as a dense matrix `(n, k, p)`: the Khatri–Rao rows `A^l_n ⊗ S^l_n`, side by side."""
    n, k = sensitivity[0].shape[:2]
    parts = [(a[:, None, :, None] * s[:, :, None, :]).reshape(n, k, -1) for a, s in zip(rows, sensitivity, strict=True)]
    return jnp.concatenate(parts, axis=2)
