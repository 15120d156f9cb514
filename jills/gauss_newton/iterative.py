"""Blocks of any size: conjugate gradients on the model's products, with a Kronecker preconditioner."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from jills.conjugate_gradients import ConjugateGradients
from jills.gauss_newton import kronecker
from jills.gauss_newton.block import LinearBlock
from jills.gauss_newton.kronecker import Preconditioner
from jills.gauss_newton.linearization import Block, Pass
from jills.gauss_newton.model import Model, Objective, one_sensitivity, roots_of
from jills.linalg import Vector, add, dot
from jills.network import Network

Preconditioners = dict[int, Preconditioner]
"""Of some layers, by their number; blocks and steps may share them."""


def blank_preconditioners(network: Network, dtype) -> Preconditioners:
    """Those of every layer, before anything is known of it."""

    def blank(fan_in, fan_out):
        return Preconditioner(*(jnp.zeros(shape, dtype) for shape in ((fan_in + 1,) * 2, (fan_out,) * 2, ())))

    return {layer: blank(*widths) for layer, widths in enumerate(pairwise(network.sizes))}


def preconditioners(
    objective: Objective, block: Block, matrices: Sequence[jax.Array], current: Pass, dampings: Sequence[jax.Array]
) -> Preconditioners:
    """That of each layer of a block, for its damping `λ`."""
    linear = objective.linearize(block, matrices, current)
    sensitivity = one_sensitivity(linear)
    roots = None if sensitivity is None else roots_of(objective, linear, sensitivity)
    return _preconditioners(objective, linear, roots, dampings)


def _preconditioners(objective, linear, roots, dampings):
    layers = _factors(objective, linear, roots)
    tiny = float(jnp.finfo(objective.decay.dtype).tiny) ** 0.5
    decays = objective.decays[linear.block[0] : linear.block[1] + 1]
    scale = mean_diagonal(layers, decays, [matrix.size for matrix in linear.params])
    shifts = [damping * scale + decay + tiny for damping, decay in zip(dampings, decays, strict=True)]
    return dict(enumerate(kronecker.preconditioners(layers, shifts), linear.block[0]))


def mean_diagonal(layers: Sequence[Any], decays: Sequence[jax.Array], sizes: Sequence[int]) -> jax.Array:
    """`D = tr(G) / p + δ`, with the mean of δ over the parameters where layers differ in it."""
    traces = add([layer.trace for layer in layers])
    return (traces + add([decay * size for decay, size in zip(decays, sizes, strict=True)])) / sum(sizes)


def _factors(objective: Objective, linear: LinearBlock, roots):
    """The Kronecker factors of every layer of the block, from some of the rows where there are many."""
    k, n = linear.current.prediction.shape
    few = kronecker.rows_for_g(n, k)
    part, current = objective, linear.current
    if few is not None:
        rows = objective.rows
        some = rows._replace(targets_in_units=rows.targets_in_units[few], omega=rows.omega[few])
        part = objective._replace(rows=some)
        current = jax.tree.map(lambda leaf: leaf[:, few], current)
    if roots is not None:
        sensitivity = [_columns(root, few)[None] for root in roots]
        curved = sensitivity
    else:
        sensitivity = linear._replace(current=current).sensitivities()
        curved = [part.curve_all(current.prediction, one) for one in sensitivity]
    found = []
    for below, one, other in zip(linear.below, sensitivity, curved, strict=True):
        many = kronecker.rows_for_a(n, below.shape[0])
        omega = objective.rows.omega if many is None else objective.rows.omega[many]
        found.append(kronecker.factors(_columns(below, many), omega, _columns(below, few), one, other, part.rows.omega))
    return found


def _columns(array, which):
    return array if which is None else array[:, which]


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
    penalty = model.penalty()

    def precondition(residual):
        return [one(part) for one, part in zip(own, residual, strict=True)]

    found = method.solve(
        lambda change: model.product(change, shift, roots, penalty),
        [-part for part in model.gradient],
        precondition,
        None if guess is None else linear.from_params(guess),
    )
    # Of the undamped model, −gᵀx − ½ xᵀGx, where (G + shift) x = −g − r.
    squares = shift * dot(found.x, found.x)
    decrease = 0.5 * (dot(found.residual, found.x) - dot(model.gradient, found.x) + squares)
    return found.x, decrease, found.steps
