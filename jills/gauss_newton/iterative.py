"""Blocks of any size: conjugate gradients on the model's products, with a Kronecker preconditioner."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills.batches import mix
from jills.conjugate_gradients import ConjugateGradients
from jills.gauss_newton import kronecker
from jills.gauss_newton.block import LinearBlock
from jills.gauss_newton.kronecker import Diagonal, DiagonalInverse, Factor, FullInverse, Layer, Preconditioner
from jills.gauss_newton.model import Model, Objective, one_sensitivity, roots_of
from jills.linalg import Vector, add, dot, positive
from jills.linearization import Block, Pass
from jills.network import Network

Preconditioners = dict[int, Preconditioner]
"""Of some layers, by their number; blocks and steps may share them."""


def preconditioners(
    objective: Objective, block: Block, matrices: Sequence[jax.Array], current: Pass, dampings: Sequence[jax.Array]
) -> Preconditioners:
    """That of each layer of a block, for its damping `λ`."""
    linear = objective.linearize(block, matrices, current)
    sensitivity = one_sensitivity(linear)
    roots = None if sensitivity is None else roots_of(objective, linear, sensitivity)
    return _preconditioners(objective, linear, roots, dampings)


def blank_preconditioners(network: Network, num_rows: int, dtype) -> Preconditioners:
    """Those of every layer before anything is known of it; none where one is not a matrix for so many rows."""
    *others, k = network.sizes
    if kronecker.is_wide(max(others) + 1, num_rows):
        return {}

    def full(width):
        return FullInverse(jnp.zeros((width, width), dtype))

    outputs = [*map(full, others[1:]), DiagonalInverse(jnp.zeros(k, dtype)) if k > MOST_OUTPUTS else full(k)]
    zero = jnp.zeros((), dtype)
    return {
        layer: Preconditioner(full(fan_in + 1), g, zero)
        for layer, (fan_in, g) in enumerate(zip(others, outputs, strict=True))
    }


def _preconditioners(objective, linear, roots, dampings):
    layers = _layers(objective, linear, roots)
    decays = objective.decays[linear.block[0] : linear.block[1] + 1]
    scale = mean_diagonal(layers, decays, [matrix.size for matrix in linear.params])
    shifts = [damping * scale + decay for damping, decay in zip(dampings, decays, strict=True)]
    return dict(enumerate(kronecker.preconditioners(layers, shifts), linear.block[0]))


def mean_diagonal(layers: Sequence[Any], decays: Sequence[jax.Array], sizes: Sequence[int]) -> jax.Array:
    """`D = tr(G) / p + δ`, with the mean of δ over the parameters where layers differ in it."""
    traces = add([layer.trace for layer in layers])
    return (traces + add([decay * size for decay, size in zip(decays, sizes, strict=True)])) / sum(sizes)


def _layers(objective: Objective, linear: LinearBlock, roots: Vector | None) -> list[Layer]:
    """The Kronecker factors of every layer of the block, from some of the rows where there are many."""
    k, n = linear.current.prediction.shape
    probed = k > 1 and _is_probed(objective, linear)
    wide = max(part.shape[1] for part in linear.params) > 2 * kronecker.MOST_COLUMNS
    few = kronecker.subsample(n, kronecker.MOST_COLUMNS if wide else kronecker.ROWS_FOR_G)
    if k > 1 and not probed:
        few = kronecker.subsample(n, max(256, kronecker.ROWS_FOR_G // k))
    part, current = _at(objective, linear.current, few)
    if roots is not None:
        sensitivity = curved = [kronecker.taken(root, few)[None] for root in roots]
    elif probed:
        sensitivity = curved = [root[None] for root in _probe(part, linear._replace(current=current))]
    else:
        sensitivity = linear._replace(current=current).sensitivities()
        curved = [part.curve_all(current.prediction, one) for one in sensitivity]
    total = jnp.sum(part.rows.omega)
    inputs = [objective.input_factor(linear, layer) for layer in range(linear.block[0], linear.block[1] + 1)]
    outputs: list[Factor] = [
        kronecker.output_factor(one, other, total) for one, other in zip(sensitivity, curved, strict=True)
    ]
    if probed and linear.block[1] == objective.network.num_layers - 1:
        outputs[-1] = Diagonal(jnp.sum(jnp.square(sensitivity[-1][0]), axis=1) / positive(total))
    return [
        Layer(a, g, kronecker.trace(kronecker.taken(below, few), jnp.sum(one * other, axis=(0, 1)), total))
        for a, g, below, one, other in zip(inputs, outputs, linear.below, sensitivity, curved, strict=True)
    ]


MOST_OUTPUTS = 32  # with more, each row is asked for one random combination of its outputs


def _is_probed(objective, linear):
    """Whether G is taken from one random combination of the outputs of each row, with Λ as a diagonal.

    Of an exactly quadratic block Λ is a multiple of the identity, and so is G: one combination tells it.
    """
    widest = max(part.shape[1] for part in linear.params)
    many = linear.current.prediction.shape[0] > MOST_OUTPUTS or widest > 2 * kronecker.MOST_COLUMNS
    return many or objective.is_quadratic(linear.block)


def _probe(objective, linear):
    """`Sᵀ (ω Λ)^½ ε` with signs ε: a vector for each row, `(n_l, n)` per layer, whose mean square is `Sᵀ ω Λ S`.

    After Hutchinson 1990. The signs are a hash of their place: the same in every step.
    """
    prediction = linear.current.prediction
    bits = mix(lax.iota(jnp.uint32, prediction.size) + np.uint32(0x9E3779B9)).reshape(prediction.shape)
    signs = jnp.where(bits >> 31 == 0, jnp.ones_like(prediction), -jnp.ones_like(prediction))
    diagonal = jnp.maximum(signs * objective.curve(prediction, signs), 0.0)
    return linear.backward(jnp.sqrt(diagonal) * signs)


def _at(objective, current, few):
    """The objective and the forward pass of some of the rows."""
    if few is None:
        return objective, current
    rows = objective.rows
    some = rows._replace(targets_in_units=rows.targets_in_units[few], omega=rows.omega[few])
    return objective._replace(rows=some), jax.tree.map(lambda leaf: leaf[:, few], current)


def solve(
    method: ConjugateGradients,
    model: Model,
    damping: jax.Array,
    known: Preconditioners | None,
    guess: Vector | None,
) -> tuple[Vector, jax.Array, jax.Array]:
    """Δ', the decrease of the undamped model, `()`, and the products taken, `()` int32.

    Args:
        method: when to end.
        model: of a block.
        damping: λ, `()`.
        known: preconditioners of the block's layers, perhaps of slightly older parameters; None: taken here.
        guess: a change Δ to start from.
    """
    linear, roots = model.linear, model.roots()
    if model.is_quadratic:
        # Its factors are exact up to rounding, and a few products reach it. Where units are collinear or dead
        # the Gram matrix holds only rounding: without a floor parameters of 1e14 come of it.
        eps = float(jnp.finfo(damping.dtype).eps)
        method, damping, known = ConjugateGradients(12, 1e3 * eps), jnp.full_like(damping, eps), None
    if known is None:
        known = _preconditioners(model.objective, linear, roots, [damping] * len(model.gradient))
    own = [known[layer] for layer in range(linear.block[0], linear.block[1] + 1)]
    shift = damping * mean_diagonal(own, model.decays, [part.size for part in model.gradient])

    def precondition(residual):
        return [one(part) for one, part in zip(own, residual, strict=True)]

    found = method.solve(
        lambda change: model.product(change, shift, roots),
        [-part for part in model.gradient],
        precondition,
        None if guess is None else linear.from_params(guess),
    )
    # Of the undamped model, −gᵀx − ½ xᵀGx, where (G + shift) x = −g − r.
    squares = shift * dot(found.x, found.x)
    decrease = 0.5 * (dot(found.residual, found.x) - dot(model.gradient, found.x) + squares)
    return found.x, decrease, found.steps
