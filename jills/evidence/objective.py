"""The objective of a step: what data and prior say of standardised parameters, for the present α and β.

S(θ) = Σ β e + ½ Σ_i α_i θ_i²
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills import activations, linalg, linearization
from jills.batches import total_weight, uniform_weights
from jills.evidence import curvature, likelihood
from jills.evidence.curvature import Blocks, Statistics
from jills.evidence.factors import Posterior, rounding, scaled_to_unit
from jills.evidence.likelihood import Likelihood
from jills.evidence.standard import Standard
from jills.linalg import dot, flatten, matmul, positive, unflatten
from jills.losses import Loss
from jills.network import Network
from jills.transformations import alike
from jills.types import Batch

USEFUL = 0.9  # of a constant's loss
MOST_KEPT = 2**22  # entries of a forward pass that goes from one point to the next; a larger one is made anew


class Rows(NamedTuple):
    """A prepared batch, with what is known of it before any step."""

    inputs: jax.Array  # (n, d)
    targets: jax.Array  # (n, k)
    weights: jax.Array | None  # (n,) of sum one; None: all alike
    standard: Standard
    scaled_inputs: jax.Array  # (d + 1, n), with ones
    scaled_targets: jax.Array  # (k, n)
    omega: jax.Array  # (n,) the weights as they were given: their sum N counts the rows
    useful: jax.Array  # () a loss below this is that of params which fit the rows better than a constant

    @classmethod
    def of(cls, prepared: Batch, given: Batch, loss: Loss, has_units: bool) -> "Rows":
        """From a prepared batch, and as it was given; `has_units` as for `Standard`."""
        shares = uniform_weights(prepared)
        total = total_weight(given, prepared.inputs.dtype)
        standard = Standard.of(prepared, shares, has_units, not loss.quadratic)
        targets = standard.targets.applied(prepared.targets).T
        targets = jnp.where(shares[None, :] > 0, targets, jnp.zeros_like(targets))
        constant = jnp.broadcast_to(standard.targets.mean[None, :], prepared.targets.shape)
        useful = loss(constant, prepared.targets, prepared.weights)
        useful -= (1.0 - USEFUL) * jnp.abs(useful)
        return cls(*prepared, standard, standard.rows(prepared.inputs), targets, total * shares, useful)

    @property
    def total(self) -> jax.Array:
        """N, `()`."""
        return jnp.sum(self.omega)


def has_units(network: Network, loss: Loss) -> bool:
    """Whether targets are standardised, and their noise learnt."""
    return loss.noise is not None and network.output == activations.identity


class Objective(NamedTuple):
    """S on some rows."""

    network: Network
    blocks: Blocks  # of its curvature
    likelihood: Likelihood
    rows: Rows
    alpha: jax.Array  # (p,) of every parameter
    beta: jax.Array  # (1,), or (k,) of every output
    single: bool  # whether it is that of one network by itself

    @classmethod
    def of(
        cls, network: Network, blocks: Blocks, loss: Loss, rows: Rows, alpha, beta, split: bool, single: bool = False
    ) -> "Objective":
        """For α of every parameter, `(p,)`, and β, `(1,)` or with `split` `(k,)`."""
        if has_units(network, loss) and loss.in_units is not None:
            loss = loss.in_units(rows.standard.targets.scale[0])
        factor = likelihood.factor_of(loss, network.sizes[-1])
        told = Likelihood(loss, factor, rows.scaled_targets, rows.omega, split)
        return cls(network, blocks, told, rows, alpha, beta, single)

    @property
    def is_quadratic(self) -> bool:
        """Whether it is exactly quadratic in the output layer."""
        return self.likelihood.loss.quadratic and self.network.output == activations.identity

    def enter(self, params) -> list[jax.Array]:
        """`θ^l` of standardised data from params."""
        return self.rows.standard.enter(linearization.stack(params))

    def leave(self, matrices: Sequence[jax.Array]):
        """Params from `θ^l` of standardised data."""
        return linearization.split(self.rows.standard.leave(matrices))

    def at(self, energies: jax.Array, theta: jax.Array) -> jax.Array:
        """S, `()`, of the energies at θ, `(p,)`."""
        return dot([self.beta], [energies]) + 0.5 * dot([self.alpha * theta], [theta])

    def value(self, matrices: Sequence[jax.Array], current: linearization.Pass) -> jax.Array:
        """S, `()`, at θ and its forward pass."""
        return self.at(self.likelihood.energies(current.prediction), flatten(list(matrices)))

    def forward(self, matrices: Sequence[jax.Array]) -> linearization.Pass:
        """The forward pass of all rows; `below` without the inputs, which are known."""
        current = linearization.forward(self.network, matrices, self.rows.scaled_inputs)
        return current._replace(below=current.below[1:])

    def kept(self, current: linearization.Pass) -> linearization.Pass | None:
        """A forward pass, or None where it is too large to be kept beside others."""
        size = sum(array.size for array in jax.tree.leaves((current.below, current.slopes)))
        return current if size <= MOST_KEPT else None

    def _whole(self, current):
        return current._replace(below=(self.rows.scaled_inputs, *current.below))

    def gradient(self, matrices: Sequence[jax.Array], current: linearization.Pass) -> jax.Array:
        """`∂ S / ∂ θ`, `(p,)`."""
        slope = self.likelihood.slope(current.prediction, self.beta)
        return self._gathered(matrices, current, slope) + self.alpha * flatten(list(matrices))

    def _gathered(self, matrices, current, cotangents):
        """`Σ_n J_nᵀ v_n` for `(k, n)`."""
        layers = linearization.backward(matrices, current.slopes, (0, self.network.num_layers - 1), cotangents)
        pairs = zip(self._whole(current).below, layers, strict=True)
        return flatten([linearization.gathered(below, one) for below, one in pairs])

    def statistics(self, matrices: Sequence[jax.Array], current: linearization.Pass) -> Statistics:
        """What G at θ is made of, from its forward pass.

        Many rows are taken in blocks, so that memory does not grow with them.
        """
        n = self.rows.omega.shape[0]
        few = self.single and curvature.are_few(self.network, n)
        size = n if few else curvature.block_rows(self.network, self.blocks, n)
        shares = self.likelihood.weights / positive(self.rows.total)

        def of_rows(likelihood, current, shares):
            return curvature.statistics_of_rows(
                self.network, self.blocks, likelihood, self.beta, matrices, current, shares, few
            )

        if size == n:
            return of_rows(self.likelihood, self._whole(current), shares)
        arrays = (self.rows.scaled_inputs, self.likelihood.targets, self.likelihood.weights[None, :], shares[None, :])
        parts = tuple(curvature.in_blocks(array, size) for array in arrays)

        def one(part):
            inputs, targets, weights, shares = part
            likelihood = self.likelihood._replace(targets=targets, weights=weights[0])
            return of_rows(likelihood, linearization.forward(self.network, matrices, inputs), shares[0])

        first = jax.tree.map(lambda array: array[0], parts)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, first))
        summed = lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None)  # noqa: E731 used at once
        return lax.scan(summed, alike(zeros, parts, list(matrices), self.beta), parts)[0]

    def factor(self, statistics: Statistics, damping: jax.Array | float = 0.0) -> Posterior:
        """H, factored."""
        alphas = unflatten(self.alpha, [jnp.zeros((m + 1, q)) for m, q in itertools.pairwise(self.network.sizes)])
        pairs = zip(self.blocks, statistics, strict=True)
        return Posterior(tuple(block.factor(sums, self.network, alphas, damping) for block, sums in pairs))

    def product(self, matrices: Sequence[jax.Array], current: linearization.Pass, change: jax.Array) -> jax.Array:
        """`H v` for `(p,)`, without H."""
        block = (0, self.network.num_layers - 1)
        response = linearization.jvp(
            matrices, self._whole(current).below, current.slopes, block, unflatten(change, list(matrices))
        )
        curved = self.likelihood.curve(current.prediction, self.beta, response)
        return self._gathered(matrices, current, curved) + self.alpha * change

    def settled(self, matrices: Sequence[jax.Array]) -> tuple[list[jax.Array], jax.Array, linearization.Pass]:
        """θ with the output layer that minimises S for the others, where S is quadratic in it; S and the pass there.

        What rounding makes of that layer, where hidden units are almost collinear, may be no minimum: θ as it is, then.
        """
        current = self.forward(matrices)
        given = self.value(matrices, current)
        if not self.is_quadratic:
            return list(matrices), given, current
        below = self._whole(current).below[-1]
        weighed = below * self.rows.omega[None, :]
        gram, right = matmul(weighed, below.T), matmul(weighed, self.rows.scaled_targets.T)
        alpha = unflatten(self.alpha, list(matrices))[-1]

        def solve(alpha, beta, right):
            scaled, diagonal = scaled_to_unit(beta * gram, alpha)
            root = jnp.sqrt(diagonal)
            shift = jnp.asarray(rounding(scaled), scaled.dtype)
            return linalg.solve(linalg.shifted(scaled, shift), beta * right / root) / root

        beta = jnp.broadcast_to(self.beta, (right.shape[1],))
        last = jax.vmap(solve, in_axes=(1, 0, 1), out_axes=1)(alpha, beta, right)
        prediction = matmul(last.T, below)
        value = self.value([*matrices[:-1], last], current._replace(prediction=prediction))
        lower = (value < given) | (jnp.isfinite(value) & ~jnp.isfinite(given))
        last, value, prediction = (
            jnp.where(lower, new, old)
            for new, old in ((last, matrices[-1]), (value, given), (prediction, current.prediction))
        )
        return [*matrices[:-1], last], value, current._replace(prediction=prediction)
