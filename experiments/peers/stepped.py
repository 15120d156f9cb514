"""Peers that step inside JAX: one compiled loop takes many steps, the host holds the clock between its calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jills
from experiments.peers.base import Budget, Problem, Trace, clock, first_call_extra, reason_to_stop, start_loss
from jills import results

CAPACITY = 1024  # the most steps of one call
CALL_SECONDS = 0.05  # a call aims at this, so that its own cost (about 0.1 ms) does not count


class Method(Protocol):
    """An optimizer as two pure functions; hashable, since it is static.

    Both return a state with the attribute `params`. Those that `run` takes return a `jills.State` whose `loss` belongs
    to its `params`; a `result` other than `RUNNING` says that no other step is wanted.
    """

    def start(self, hparams: Any, params: jills.Params, batch: jills.Batch) -> Any:
        """The state before the first step; `batch` has the shape of those that follow."""
        ...

    def step(self, hparams: Any, state: Any, batch: jills.Batch) -> Any:
        """One step on the rows of the batch."""
        ...


@dataclass(frozen=True)
class JillsMethod:
    """An algorithm of jills as a method; its steps are those of `jills.run`, on a batch as `precompute` leaves it."""

    algorithm: jills.Algorithm

    def start(self, hparams, params, batch):
        """The algorithm's own start."""
        return self.algorithm.begin(params, batch)[0]

    def step(self, hparams, state, batch):
        """The algorithm's own step."""
        state, info = self.algorithm.advance(hparams, state, batch)
        result = jnp.where(info.finite, results.RUNNING, results.NON_FINITE).astype(jnp.int32)
        return state._replace(result=result)


def first_state(params: jills.Params, inner: Any, loss: jax.Array) -> jills.State:
    """The state of a start."""
    zero = jnp.zeros((), jnp.int32)
    return jills.State(params, (), inner, zero, loss, params, loss, zero)


def next_state(state: jills.State, params: jills.Params, inner: Any, loss: jax.Array, stuck: jax.Array) -> jills.State:
    """The state after a step; `stuck`, `()` bool, says that the method would not go on."""
    better = loss < state.best_loss
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params)
    ended = jnp.where(stuck, results.SETTLED, results.RUNNING)
    result = jnp.where(jnp.isfinite(loss), ended, results.NON_FINITE).astype(jnp.int32)
    return jills.State(params, (), inner, state.step + 1, loss, best, jnp.where(better, loss, state.best_loss), result)


def in_dtype(tree: Any, params: jills.Params) -> Any:
    """A state of a library in the dtype of params: some leaves start in JAX's default one, which no loop carries."""
    dtype = params[0].weight.dtype

    def fix(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    return jax.tree.map(fix, tree)


@contextmanager
def standard_jax() -> Iterator[None]:
    """For code of libraries that rely on promotions which strict JAX, as in our tests, refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(method: Method, hparams: Any, problem: Problem, budget: Budget, tier: str = "full") -> Trace:
    """The trace of a method, compiled in a tier, see `jills.compiler_options`.

    Inside a call the steps are taken to last equally long.
    """
    target, never = (jnp.asarray(value, problem.dtype) for value in (budget.target_loss, -jnp.inf))
    begin, advance = programs(tier)
    begin = partial(begin, method, hparams, problem.params, problem.batch)
    compile_seconds = first_call_extra(begin)
    advance = partial(advance, method, hparams, problem.batch)
    # A call of no step compiles and does nothing else; one thrown away step warms what the steps use.
    compile_seconds += first_call_extra(partial(advance, target, begin(), 0))
    pace = clock(partial(advance, target, begin(), 1))[0]

    seconds, losses = [np.zeros(1)], [np.array([start_loss(problem)])]
    total, state = clock(begin)
    reason = ""
    while not reason:
        count = plan(budget, total, int(state.step), pace)
        # A run that goes on below its target has nothing more to stop at.
        goal = never if state.best_loss <= target else target
        elapsed, (state, values, taken) = clock(partial(advance, goal, state, count))
        taken = int(taken)
        pace = elapsed / max(taken, 1)
        seconds.append(total + elapsed * np.arange(1, taken + 1) / max(taken, 1))
        losses.append(np.asarray(values, float)[:taken])  # by NumPy: JAX would compile for each number of steps
        total += elapsed
        reason = reason_to_stop(budget, float(state.best_loss), total, int(state.step))
        if not reason and int(state.result) != results.RUNNING:
            reason = "not finite" if int(state.result) == results.NON_FINITE else "stopped on its own"
    return Trace(np.concatenate(seconds), np.concatenate(losses), compile_seconds, state.best_params, reason)


def plan(budget: Budget, seconds: float, steps: int, pace: float, capacity: int = CAPACITY) -> int:
    """How many steps the next call takes, from the seconds a step took before."""
    wanted = min(CALL_SECONDS, max(budget.max_seconds - seconds, 0.0)) / max(pace, 1e-9)
    return max(1, min(int(wanted) + 1, capacity, budget.max_steps - steps))


@cache
def programs(tier: str) -> tuple[Any, Any]:
    """A start, and some steps, as `jax.jit` of a tier."""
    options = jills.compiler_options(tier) or None
    compiled = partial(jax.jit, static_argnums=0, compiler_options=options)
    return compiled(_begin), compiled(_advance)


def _begin(method, hparams, params, batch):
    return method.start(hparams, params, batch)


def _advance(method, hparams, batch, target, state, count):
    """Up to `count` steps; ends early at the target, or where the method does. Returns losses and their number."""

    def active(carry):
        index, state, _ = carry
        return (index < count) & (state.result == results.RUNNING) & ~(state.loss <= target)

    def body(carry):
        index, state, losses = carry
        state = method.step(hparams, state, batch)
        return index + 1, state, losses.at[index].set(state.loss)

    if isinstance(method, JillsMethod):
        batch = method.algorithm.precompute(batch)  # once, as `jills.run` does
    losses = jnp.zeros(CAPACITY, state.loss.dtype)
    taken, state, losses = lax.while_loop(active, body, (jnp.zeros((), jnp.int32), state, losses))
    return state, losses, taken
