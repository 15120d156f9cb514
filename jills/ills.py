"""ILLS: iterative linear least squares (Khadilkar, arXiv 2307.05189).

The total input of a neuron is linear in its parameters and in the activations below it [P]:

    forward pass → h^1 … h^(L-1)                                                          [P]
    t^L ← f_L⁻¹(y)                         the ideal total input of the output layer      [P]
    for l = L … 1:
        θ^l ← argmin_θ ‖A^l θ − t^l‖²                                                     [P]
        if l > 1:
            Δθ ← argmin ‖(f'(H^(l-1)) ⊙ A^(l-1) Δθ) W^l − (t^l − A^l θ^l)‖²
                                           the deviation in the parameters below          [P]
            h^(l-1) ← h^(l-1) + ρ f'(H^(l-1)) ⊙ A^(l-1) Δθ     a small, linearised step   [P]
            project h^(l-1) into the open range of f, with a margin                       [C]
            t^(l-1) ← f⁻¹(h^(l-1))                                                        [P]
    forward pass → new activations                                                        [C]

[P] is what the paper says, as far as it is quoted in what we had at hand; [C] is what we had to
choose. Chosen too: `W^l` is that of the `θ^l` just solved; with k outputs the deviation problem has
`n · n_l` rows; targets outside the range of `f_L` are projected; `A^l` holds the activations of the
forward pass, unshifted, and the shifted ones enter only through `t^(l-1)`; both solves take the
same relative ridge; a row weight multiplies the square of its residual in every solve.

Where `f` has no inverse, or `linearized=True`, the step stays in total-input space:
`t^(l-1) ← H^(l-1) + ρ A^(l-1) Δθ`, the same to first order in ρ [C].

The paper has squared error. Other losses get their `t^L` in another way [C], see `jills.targets`.

In float64 a step agrees with a reference in NumPy loops to 1e-9 of the parameters' norm. A step in
float32 stays within 1e-3 of it at ridge 1e-4; at ridge 0 rank-deficient problems amplify rounding.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jills import checks, losses, solvers
from jills.algorithm import Algorithm
from jills.arrays import cast
from jills.batches import prepare
from jills.hparams import Limit
from jills.linalg import matmul
from jills.network import Network, total_input, with_bias
from jills.targets import Target, default_target, ideal, scaled, softened, working_response
from jills.transformations import exported
from jills.types import Activations, Batch, Layer, Params, State


@exported
class Hparams(NamedTuple):
    """The hyperparameters of ILLS; scalars, or `(H,)` in a sweep."""

    learning_rate: float | jax.Array = 0.5  # ρ, of the activations, in (0, 1]; parameters have none
    ridge: float | jax.Array = 0.0  # relative, see jills.solvers

    limits = {"learning_rate": Limit(0.0, 1.0, open_low=True), "ridge": Limit(0.0, math.inf)}


@exported
class Detail(NamedTuple):
    """The signs of ill health of an ILLS step; its defaults stand for a member that has stopped."""

    residual: float | jax.Array = math.nan  # () root mean square of A^L θ^L − t^L after the top solve
    rcond: float | jax.Array = math.nan  # () reciprocal condition of the worst layer solve
    rank_deficit: int | jax.Array = 0  # () int32, ranks missing in all layer solves together


@dataclass(frozen=True, kw_only=True)
class Ills(Algorithm):
    """The algorithm; make it with `build`."""

    solver: solvers.Solver = solvers.lstsq
    target: Target = ideal
    margin: float | None = None
    linearized: bool = False

    defaults: ClassVar = Hparams()
    blank_detail: ClassVar = Detail()
    keeps_activations: ClassVar = True

    def check_problem(self, params: Params, batch: Batch) -> None:
        """See `Algorithm`; warns where targets are known to lie outside the range of the output."""
        super().check_problem(params, batch)
        checks.warn_outside_range(self.network.output, batch)

    def update(self, hparams: Hparams, state: State, batch: Batch) -> tuple[State, Detail]:
        """Solves the layers from the top down, each for the ideal total inputs handed to it."""
        params, solutions, residual = state.params, [], jnp.zeros_like(state.loss)
        target = self.ideal_input(state.activations, batch)
        for layer in reversed(range(len(params))):
            solution = self.solve_layer(hparams, state.activations, batch, layer, target)
            solutions.append(solution)
            params = _with_layer(params, layer, solution.x)
            if layer == len(params) - 1:
                residual = self.residual(params, state.activations, batch, layer, target)
            if layer > 0:
                _, target = self.shift(hparams, params, state.activations, batch, layer, target)
        rcond = jnp.min(jnp.stack([solution.rcond for solution in solutions]))
        missing = [below + 1 - s.rank for below, s in zip(reversed(self.network.sizes[:-1]), solutions, strict=True)]
        detail = Detail(residual, rcond, jnp.sum(jnp.stack(missing), dtype=jnp.int32))
        return state._replace(params=params), detail

    def in_blocks(self, blocks: int) -> "Ills":
        """See `Algorithm`: every solve keeps the rows where they are."""
        return replace(self, solver=self.solver.in_blocks(blocks)) if blocks > 1 else self

    def ideal_input(self, activations: Activations, batch: Batch) -> jax.Array:
        """`t^L`, `(n, k)`, given the activations of the forward pass."""
        return self.target(self.loss, self.network.output, self.margin, batch.targets, activations[-1])

    def residual(self, params, activations, batch, layer, target) -> jax.Array:
        """Root mean square of `t − A θ` over rows (by weight) and outputs, `()`."""
        fitted = total_input(params[layer], _below(activations, batch, layer))
        return jnp.sqrt(losses.squared_error(fitted, target, batch.weights))

    def solve_layer(self, hparams, activations, batch, layer, target) -> solvers.Solution:
        """`θ^l = argmin ‖A^l θ − t^l‖²`."""
        rows = with_bias(_below(activations, batch, layer))
        return self.solver.solve(rows, target, hparams.ridge, batch.weights)

    def shift(self, hparams, params, activations, batch, layer, target) -> tuple[jax.Array, jax.Array]:
        """The shifted activations below a layer, and the total input that they ask for there."""
        below = self.network.activations[layer - 1]
        rows = with_bias(_below(activations, batch, layer - 1))
        total = total_input(params[layer - 1], rows[:, :-1])
        slope = below.derivative(total)
        change = self.deviation(hparams, params, activations, batch, layer, target, rows, slope)
        if self.linearized or below.inverse is None:
            wanted = total + hparams.learning_rate * change
            return below.forward(wanted), wanted
        shifted = activations[layer - 1] + hparams.learning_rate * slope * change
        shifted = below.project(shifted, self.margin)
        return shifted, below.inverse(shifted)

    def deviation(self, hparams, params, activations, batch, layer, target, rows, slope) -> jax.Array:
        """`A^(l-1) Δθ`, `(n, n_(l-1))`, the change of the total input below that best removes the residual."""
        residual = target - total_input(params[layer], activations[layer - 1])
        (n, k), width = residual.shape, slope.shape[1]
        # Row (n, k), unknown (j, i): f'(H_nj) A_ni W_jk.
        matrix = (params[layer].weight.T[None, :, :, None] * slope[:, None, :, None] * rows[:, None, None, :]).reshape(
            n * k, -1
        )
        weights = None if batch.weights is None else jnp.repeat(batch.weights, k)
        solution = self.solver.solve(matrix, residual.reshape(n * k), hparams.ridge, weights)
        return matmul(rows, solution.x.reshape(width, -1).T)


def _below(activations, batch, layer):
    return batch.inputs if layer == 0 else activations[layer - 1]


def _with_layer(params, layer, solved):
    return (*params[:layer], Layer(solved[:-1], solved[-1]), *params[layer + 1 :])


def build(
    network: Network,
    loss: losses.Loss = losses.squared_error,
    solver: solvers.Solver = solvers.lstsq,
    *,
    target: Target | None = None,
    margin: float | None = None,
    linearized: bool = False,
    full_batch: bool = True,
) -> Ills:
    """ILLS for a network.

    Args:
        network: its output activation needs an inverse; for all targets but `ideal` it is the identity.
        loss: the paper's is squared error.
        solver: for every solve; `solvers.lstsq` is the paper's, `solvers.qr` gives the same answer
            in about a third of the time.
        target: the total input `t^L` that the output layer is solved for: `ideal` (the paper's), `working_response`,
            `softened(epsilon)` or `scaled(logit)`. None: the working response where the loss has a bound and
            is not quadratic, as the cross-entropies and Huber's, else the ideal one.
        margin: kept between activations and the ends of their range, in units of the activation;
            None: `activations.default_margin`.
        linearized: shift total inputs instead of activations, also where `f` has an inverse.
        full_batch: False where steps receive different batches.

    Raises:
        ValueError: a loss or an output activation that does not fit the target, or a margin that
            leaves nothing of a range.

    Classes, for example, with integer labels `(n,)`::

        network = jills.Network((8, 10, k), jills.activations.tanh)
        algorithm = jills.ills.build(network, jills.losses.softmax_cross_entropy)
        batch = jills.Batch(inputs, jax.nn.one_hot(labels, k))
    """
    checks.check_parts(network, loss)
    target = default_target(loss) if target is None else target
    if not isinstance(target, Target):
        raise ValueError(
            f"ills: target is {target!r}, but must be jills.ills.ideal, working_response, softened(epsilon) "
            "or scaled(logit), or another jills.ills.Target"
        )
    target.check(loss, network.output)
    widths = [activation.range[1] - activation.range[0] for activation in network.activations]
    if margin is not None and not 0.0 < margin < min(widths) / 2:
        raise ValueError(
            f"ills: margin is {margin}, but must lie in (0, {min(widths) / 2:g}), half the narrowest range"
        )
    return Ills(
        network=network,
        loss=loss,
        solver=solver,
        target=target,
        margin=margin,
        linearized=bool(linearized),
        full_batch=bool(full_batch),
    )


def solve_params(
    params: Params,
    activations: Activations,
    batch: Batch,
    layer: int,
    target: jax.Array,
    *,
    ridge: float | jax.Array = 0.0,
    solver: solvers.Solver = solvers.lstsq,
) -> Params:
    """The first half-step of the paper: `θ^l ← argmin_θ Σ_n w_n ‖A^l_n θ − t^l_n‖²`.

    Args:
        params: of the network; only those of `layer` are replaced.
        activations: `h^1 … h^L`, each `(n, n_l)`.
        batch: inputs `(n, d)`; its targets are not looked at.
        layer: Python index into params, 0 for the first layer.
        target: `t^l`, `(n, n_l)`, the total input the layer should have.
        ridge: relative, see `jills.solvers`.
        solver: how to solve.

    Raises:
        ValueError: `layer` is not the index of a layer.
    """
    if not 0 <= layer < len(params):
        raise ValueError(f"solve_params: layer is {layer}, but must lie in 0 … {len(params) - 1}")
    dtype = params[0].weight.dtype
    batch = prepare(batch, dtype)
    rows = with_bias(_below(activations, batch, layer))
    target, ridge = cast((target, ridge), dtype)
    solved = solver(rows, target, ridge, batch.weights)
    return _with_layer(params, layer, solved)


def shift_activations(
    params: Params,
    activations: Activations,
    batch: Batch,
    layer: int,
    target: jax.Array,
    network: Network,
    *,
    learning_rate: float | jax.Array = 0.5,
    ridge: float | jax.Array = 0.0,
    solver: solvers.Solver = solvers.lstsq,
    margin: float | None = None,
    linearized: bool = False,
) -> Activations:
    """The second half-step: `h^(l-1) ← h^(l-1) + ρ f'(H^(l-1)) ⊙ A^(l-1) Δθ`, then projected.

    `Δθ = argmin Σ_n w_n ‖(f'(H^(l-1)_n) ⊙ A^(l-1)_n Δθ) W^l − (t^l_n − A^l_n θ^l)‖²`: the deviation
    in the parameters below that would best remove what is left after `solve_params`.

    Args:
        params: with `θ^l` already solved and `θ^(l-1)` as in the forward pass.
        activations: `h^1 … h^L` of that forward pass.
        batch: inputs `(n, d)`; its targets are not looked at.
        layer: Python index of the layer whose input is shifted, 1 or above; `activations[layer - 1]`
            is replaced.
        target: `t^l`, `(n, n_l)`.
        network: tells `f`.
        learning_rate: ρ in (0, 1].
        ridge: relative, see `jills.solvers`.
        solver: how to solve.
        margin: see `build`.
        linearized: see `build`.

    Raises:
        ValueError: `layer` is not the index of a layer with activations below it.
    """
    if not 1 <= layer < len(params):
        raise ValueError(f"shift_activations: layer is {layer}, but must lie in 1 … {len(params) - 1}")
    algorithm = Ills(network=network, loss=losses.squared_error, solver=solver, margin=margin, linearized=linearized)
    dtype = params[0].weight.dtype
    batch, (hparams, target) = prepare(batch, dtype), cast((Hparams(learning_rate, ridge), target), dtype)
    shifted, _ = algorithm.shift(hparams, params, activations, batch, layer, target)
    return (*activations[: layer - 1], shifted, *activations[layer:])


__all__ = [
    "Detail",
    "Hparams",
    "Ills",
    "Target",
    "build",
    "ideal",
    "scaled",
    "shift_activations",
    "softened",
    "solve_params",
    "working_response",
]
