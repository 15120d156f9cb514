"""One network, T steps, as one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jills import checks, results
from jills.algorithm import Algorithm
from jills.arrays import automatic, blocks_of_rows, cast, native, native_dtype
from jills.batches import cast_known
from jills.compilation import check_tier
from jills.functions import Static, settle
from jills.programs import Program
from jills.results import Stop
from jills.training.validation import Validation, check_validation, checked_patience, entered, judged
from jills.transformations import alike, cond
from jills.types import Batch, Info, Metrics, Params, State


def run(
    algorithm: Algorithm,
    hparams,
    params: Params | State,
    batch: Batch,
    num_steps: int,
    *,
    stop: Stop = Stop(),
    metrics: Metrics | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    compile: str = "auto",
) -> tuple[State, Info]:
    """Trains one network. Pure: it can be wrapped in `jit` or `vmap`.

    `algorithm` and `num_steps` are static. Everything else is data: other hyperparameters, parameters or
    rows of the same shape do not compile again, nor do functions that are made anew with the same contents.

    Args:
        algorithm: of a `build`.
        hparams: the algorithm's `Hparams`, scalars.
        params: where to start, or the `State` of an earlier run to go on from. A state that had stopped stays so
            (set its `result` to 0 to let it go on), unless the rows are others, with another loss, than it was
            taken on: then `best_*` and `result` start anew.
        batch: inputs `(n, d)`, targets `(n, k)`, weights `(n,)` or None. Its rows may be spread over the devices of a
            mesh (`jax.device_put(batch, NamedSharding(mesh, PartitionSpec("rows")))`): XLA shares the work out, to the
            same result but for rounding. (ILLS's least squares gather a triangle of each device, and no rows.) The
            devices may be those of several processes, each of which brings its own rows
            (`jax.make_array_from_process_local_data`) and makes the same call; what such rows hold is not looked at
            before, as inside of another program.
        num_steps: T ≥ 1.
        stop: when to stop on its own; from then on the state stays as it is.
        metrics: recorded as `info.metrics` for the parameters each step received.
        validation: rows that training does not see. Their loss is recorded as `info.validation`, and chooses
            `state.best_params`; `state.params` stay those of the last step.
        patience: stop after so many steps without a lower validation loss; None: do not.
        compile: on a CPU. "fast": in a third of the time, into a program that runs two to ten times as long; "full";
            "auto": which of them is done sooner, by the arithmetic of this call. They differ in the last bits. Inside
            of another program it means nothing.

    Returns:
        The final state, and `Info` with leaves `[T, …]`: `info.loss[t]` is the loss after t steps,
        so `info.loss[0]` is that of the start and `state.loss` the final one. (Of an algorithm built with
        `full_batch=False`, `state.loss` is that before its last step; `observe` tells the final one.)

    Raises:
        ValueError: hparams out of range, shapes that do not fit, NaN or inf in known data.

    Derivatives of what it returns go through all its steps: in forward mode (`jax.jvp`, `jax.jacfwd`) with every
    algorithm, in reverse mode (`jax.grad`) with all but Gauss–Newton. Those of the minimum that many steps lead to take
    one Newton step more instead, in either mode. With respect to a weight decay and to the data, for example::

        def objective(params, decay, batch):
            square = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
            return algorithm.loss_of(params, batch) + 0.5 * decay * square


        def minimum(*given):
            decay, batch = jax.lax.stop_gradient(given)
            hparams = jills.gauss_newton.Hparams(weight_decay=decay)
            params = jills.run(algorithm, hparams, start, batch, num_steps=100)[0].params
            slope = jax.grad(objective)
            product = lambda vector: jax.jvp(lambda params: slope(params, decay, batch), (params,), (vector,))[1]
            # A step of length zero, for so is the slope there; but its derivative is not.
            step, _ = jax.scipy.sparse.linalg.cg(product, slope(params, *given))
            return jax.tree.map(jnp.subtract, params, step)
    """
    check_static(algorithm, metrics)
    check_tier(compile)
    num_steps = checks.checked_count("run: num_steps", num_steps)
    checks.check_stop(stop, algorithm.blank_detail)
    start = params.params if isinstance(params, State) else params
    algorithm.check_problem(start, batch)
    dtype = native_dtype(start[0].weight)
    algorithm.check(hparams, scalar=True, dtype=dtype)
    if isinstance(params, State):
        params = checks.checked_state(params, jax.eval_shape(lambda: algorithm.blank(start, batch)))
    else:
        params = cast(params, dtype)
    hparams, stop = cast((hparams, stop), dtype)
    shared = None if metrics is None else as_partial(metrics)
    judge = checked_validation(algorithm, start, validation, patience)
    blank = blank_detail(algorithm, dtype)
    algorithm = algorithm.in_blocks(blocks_of_rows(batch.inputs)).alone()
    args = automatic((hparams, params, cast_known(batch, dtype), stop, shared, judge, blank))
    return _run(compile, algorithm.compiler_options, (Static(algorithm), num_steps), *args)


def check_static(algorithm, metrics) -> None:
    """Raises ValueError where what a program is compiled for is no algorithm, or no metrics."""
    wanted = "what a build returns, such as jills.gauss_newton.build(network)"
    checks.check_kind("algorithm", algorithm, Algorithm, wanted)
    if metrics is not None:
        checks.check_function("metrics", metrics)


def checked_validation(algorithm, params, validation, patience) -> Validation | None:
    """Validation rows to go into a program, checked like those to train on; None where there are none."""
    patience = checked_patience(validation, patience)
    if validation is None:
        return None
    check_validation(algorithm, params, validation)
    return Validation(cast_known(validation, native_dtype(params[0].weight)), patience)


def as_partial(function: Callable) -> Partial:
    """A function as a pytree: itself static, told from others by its contents; the arrays of a `Partial` data."""
    if isinstance(function, Partial):
        given: Any = native(function)  # copies, where they are NumPy's
        # JAX wraps a `functools.partial` in a class of its own, which hides what it holds.
        inside = given.func.fun if type(given.func).__name__ == "_HashableCallableShim" else given.func
        return Partial(Static(inside), *given.args, **given.keywords)
    return Partial(Static(function))


def _trained(static, num_steps, hparams, start, batch, stop, metrics, judge, blank):
    algorithm, resuming = static.value, isinstance(start, State)
    state, batch = algorithm.resume(start, batch) if resuming else algorithm.begin(start, batch)
    every = jnp.asarray(num_steps, jnp.int32)
    told = scan(algorithm, num_steps, hparams, state, batch, stop, metrics, judge, blank, every)
    settle(static, *([] if metrics is None else [metrics.func]))
    return told


_run = Program(_trained, (0, 1), draws=False)


def blank_detail(algorithm: Algorithm, dtype) -> Any:
    """`Info.detail` of a member that stands still. NaN for floats; but zero while JAX raises at every NaN it sees."""
    config: Any = jax.config
    allowed = not config.jax_debug_nans

    def blank(value):
        if np.asarray(value).dtype.kind != "f":
            return np.asarray(value, np.int32)
        return np.asarray(value if allowed else np.zeros_like(value), dtype)

    return jax.tree.map(blank, algorithm.blank_detail)


def scan(algorithm, num_steps, hparams, state, batch, stop, metrics, judge, blank, remaining) -> tuple[State, Info]:
    """`num_steps` steps on a prepared batch, of which only the first `remaining`, `()` int32, are taken."""
    hparams, state, batch, stop, judge, blank = alike((hparams, state, batch, stop, judge, blank))
    state, judge = entered(algorithm, state, judge)

    def body(carry, index):
        state, known = carry
        values = () if metrics is None else metrics(state.params)
        active = (state.result == results.RUNNING) & (index < remaining)
        carry, info = cond(active, advance, hold, carry)
        return carry, info._replace(metrics=values, validation=known)

    def advance(carry):
        old, known = carry
        state, info = algorithm.advance(hparams, old, batch)
        _check_detail(algorithm, info.detail)
        state = state._replace(result=algorithm.ended(info, results.code(state.loss, info, stop)))
        if judge is not None:
            known = judge.loss(algorithm, state.params)
            state = judged(state, old, known, judge.patience, info.finite)
        return (state, known), info

    def hold(carry):
        state, _ = carry
        finite = (state.result != results.NON_FINITE) & (state.result != results.BAD_WEIGHTS)
        return carry, Info(state.loss, jnp.zeros_like(state.loss), finite, blank)

    known = () if judge is None else judge.loss(algorithm, state.params)
    (state, _), info = lax.scan(body, (state, known), jnp.arange(num_steps, dtype=jnp.int32))
    return state, info


def _check_detail(algorithm, detail):
    blank = algorithm.blank_detail
    shapes = [list(map(np.shape, jax.tree.leaves(tree))) for tree in (detail, blank)]
    if jax.tree.structure(detail) != jax.tree.structure(blank) or shapes[0] != shapes[1]:
        raise ValueError(
            f"{type(algorithm).__name__}.update tells {detail} as its detail, but blank_detail is {blank}; let both be "
            "one NamedTuple of scalars, or arrays of the same shapes, NaN for floats and 0 for integers in the latter"
        )
