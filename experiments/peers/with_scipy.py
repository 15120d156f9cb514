"""SciPy: `least_squares` and L-BFGS-B on functions and derivatives compiled by JAX. SciPy itself works in float64."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from threadpoolctl import threadpool_limits

from experiments.peers.base import (
    Budget,
    Peer,
    Problem,
    Recorder,
    Trace,
    fastest_threads,
    first_call_extra,
    flatten,
    has_small_jacobian,
    jacobian,
    residuals,
    to_params,
    true_loss,
)

EPSILON = float(np.finfo(float).eps)


def residual_solver(problem: Problem, budget: Budget, method: str) -> Trace:
    """Levenberg–Marquardt of MINPACK (`lm`) or the trust region (`trf`, dense), tolerances at rounding.

    A step of the trace is an evaluation of the residuals.
    """
    start = flatten(problem.params)
    fixed = (problem.params, problem.batch)
    compile_seconds = first_call_extra(partial(_residuals, problem.network, start, *fixed))
    compile_seconds += first_call_extra(partial(_jacobian, problem.network, start, *fixed))

    def function(flat):
        return np.asarray(_residuals(problem.network, flat.astype(problem.dtype), *fixed), float)

    def recorded(flat):
        values = function(flat)
        recorder.note(lambda: float(np.mean(np.square(values))), lambda: to_params(flat, problem))
        return values

    def derivative(flat):
        return np.asarray(_jacobian(problem.network, flat.astype(problem.dtype), *fixed), float)

    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 2 * EPSILON)
    least_squares: Any = scipy.optimize.least_squares  # its stubs do not know of a function for the Jacobian

    def solve(function, evaluations, threads):
        with threadpool_limits(threads, user_api="blas"):
            x0 = start.astype(float)
            return least_squares(function, x0, derivative, method=method, max_nfev=evaluations, **tolerances).message

    threads = fastest_threads(partial(solve, function, 2))
    recorder = Recorder(problem, budget)
    note = recorder.until_enough(partial(solve, recorded, budget.max_steps + 1, threads))
    return recorder.trace(f"{note}; threads: {threads}", compile_seconds)


def lbfgs(problem: Problem, budget: Budget) -> Trace:
    """L-BFGS-B with ten pairs, tolerances at zero. A step of the trace is an evaluation of loss and gradient."""
    start = flatten(problem.params)
    evaluate = partial(_value_and_gradient, problem.network, problem.loss)
    compile_seconds = first_call_extra(partial(evaluate, start, problem.params, problem.batch))
    recorder = Recorder(problem, budget)

    def function(flat):
        value, gradient = evaluate(flat.astype(problem.dtype), problem.params, problem.batch)
        value, gradient = float(value), np.asarray(gradient, float)
        recorder.note(value, lambda: to_params(flat, problem))
        return value, gradient

    limits = {"maxiter": budget.max_steps + 1, "maxfun": budget.max_steps + 1, "ftol": 0.0, "gtol": 0.0}
    minimize = partial(scipy.optimize.minimize, function, start.astype(float), jac=True, method="L-BFGS-B")
    return recorder.trace(recorder.until_enough(lambda: minimize(options=limits).message), compile_seconds)


@partial(jax.jit, static_argnums=0)
def _residuals(network, flat, template, batch):
    return residuals(network, ravel_pytree(template)[1](flat), batch)


@partial(jax.jit, static_argnums=0)
def _jacobian(network, flat, template, batch):
    return jacobian(network, flat, template, batch)


@partial(jax.jit, static_argnums=(0, 1))
def _value_and_gradient(network, loss, flat, template, batch):
    unravel = ravel_pytree(template)[1]
    return jax.value_and_grad(lambda flat: true_loss(network, loss, unravel(flat), batch))(jnp.asarray(flat))


def fits(problem: Problem) -> bool:
    """Whether the Jacobian fits in memory in float64."""
    return has_small_jacobian(problem, itemsize=8)


def fits_lm(problem: Problem) -> bool:
    """MINPACK also wants at least as many residuals as parameters."""
    return fits(problem) and problem.num_residuals >= problem.network.num_params


PEERS = (
    Peer("SciPy LM", partial(residual_solver, method="lm"), fits_lm, "scipy", "scipy", "evaluation"),
    Peer("SciPy TRF", partial(residual_solver, method="trf"), fits, "scipy", "scipy", "evaluation"),
    Peer("SciPy L-BFGS-B", lbfgs, needs="scipy", package="scipy", unit="evaluation"),
)
