"""Optimistix: Levenberg–Marquardt and Dogleg, for the squared error."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import jills
from experiments.peers import stepped
from experiments.peers.base import Budget, Peer, Problem, Trace, has_small_jacobian, jacobian, residuals
from experiments.peers.stepped import in_dtype, standard_jax


class Inner(NamedTuple):
    """What is carried between steps."""

    flat: jax.Array  # (P,) the accepted parameters
    solver: Any  # the arrays of the solver's state


@dataclass(frozen=True)
class Optimistix:
    """A least-squares solver of Optimistix, step by step through its own interface.

    A step evaluates residuals and Jacobian at the point tried, accepts it or not, and solves for the next point, so its
    loss is known one solve late; the first step accepts the start.

    Attributes:
        network: to be trained.
        solver: makes the solver from a tolerance; a module-level function.
    """

    network: jills.Network
    solver: Callable[[float], Any]

    def start(self, hparams, params, batch):
        """No step tried."""
        flat = ravel_pytree(params)[0]
        arrays, _, _ = self._parts(flat, params, batch)
        residual = residuals(self.network, params, batch)
        return stepped.first_state(params, Inner(flat, arrays), jnp.mean(jnp.square(residual)))

    def step(self, hparams, state, batch):
        """One step of the solver; the loss is that of the last accepted point."""
        import equinox  # pyright: ignore[reportMissingImports] optional
        import optimistix  # pyright: ignore[reportMissingImports] optional

        flat, arrays = state.inner
        # The state also holds functions, which a loop cannot carry; those of a fresh state are the same.
        _, functions, step = self._parts(flat, state.params, batch)
        with standard_jax():
            flat, solver_state = step(flat, equinox.combine(arrays, functions))
        stuck = solver_state.terminate | (solver_state.result != optimistix.RESULTS.successful)
        loss = jnp.mean(jnp.square(solver_state.f_info.residual))
        params = ravel_pytree(state.params)[1](flat)
        arrays = in_dtype(equinox.filter(solver_state, equinox.is_array), params)
        return stepped.next_state(state, params, Inner(flat, arrays), loss, stuck)

    def _parts(self, flat, template, batch):
        """Arrays and functions of the solver's first state, and its step."""
        import equinox  # pyright: ignore[reportMissingImports] optional

        function = with_fast_jacobian(self.network, template, batch)
        solver, tags = self.solver(float(jnp.finfo(flat.dtype).eps)), frozenset()
        shape = jax.eval_shape(lambda: function(flat, None)[0])
        with standard_jax():
            state = solver.init(function, flat, None, {}, shape, None, tags)

        def step(flat, state):
            return solver.step(function, flat, None, {}, state, tags)[:2]

        arrays, functions = equinox.partition(state, equinox.is_array)
        return in_dtype(arrays, template), functions, step


def with_fast_jacobian(network: jills.Network, template: jills.Params, batch: jills.Batch) -> Callable:
    """Residuals `(flat, args) → (z − y, None)` whose derivative is a product with a Jacobian made row by row.

    Optimistix would push all columns of the identity through the network instead.
    """
    unravel = ravel_pytree(template)[1]

    @jax.custom_jvp
    def function(flat):
        return residuals(network, unravel(flat), batch)

    @function.defjvp
    def _(primals, tangents):
        matrix = jacobian(network, primals[0], template, batch)
        return function(primals[0]), jnp.matmul(matrix, tangents[0], precision=jax.lax.Precision.HIGHEST)

    return lambda flat, _: (function(flat), None)


def levenberg_marquardt(tolerance: float) -> Any:
    """As it comes: QR of the Jacobian with the damping below it."""
    import optimistix  # pyright: ignore[reportMissingImports] optional

    return optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance)


def levenberg_marquardt_normal(tolerance: float) -> Any:
    """With the normal equations, solved by Cholesky."""
    import lineax  # pyright: ignore[reportMissingImports] optional
    import optimistix  # pyright: ignore[reportMissingImports] optional

    solver = lineax.Normal(lineax.Cholesky())
    return optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance, linear_solver=solver)


def dogleg(tolerance: float) -> Any:
    """With the SVD: the Jacobian of a network is rank-deficient, which QR does not bear."""
    import lineax  # pyright: ignore[reportMissingImports] optional
    import optimistix  # pyright: ignore[reportMissingImports] optional

    return optimistix.Dogleg(rtol=tolerance, atol=tolerance, linear_solver=lineax.SVD())


def run(problem: Problem, budget: Budget, solver: Callable[[float], Any]) -> Trace:
    """The trace of a solver."""
    return stepped.run(Optimistix(problem.network, solver), (), problem, budget)


PEERS = tuple(
    Peer(name, partial(run, solver=solver), has_small_jacobian, "optimistix", "optimistix")
    for name, solver in (
        ("Optimistix LM", levenberg_marquardt),
        ("Optimistix LM, normal equations", levenberg_marquardt_normal),
        ("Optimistix Dogleg", dogleg),
    )
)
