"""One network trained on a stream of batches, whose rows are never all in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from threadpoolctl import threadpool_limits

from jills import checks
from jills.algorithm import Algorithm
from jills.arrays import brief, cast, native_dtype
from jills.functions import Static, settle
from jills.training.description import describe
from jills.training.interruption import interruption, termination
from jills.training.run import check_static, checked_validation
from jills.training.streams import steps
from jills.training.streams.driving import Training
from jills.training.streams.rows import Rows
from jills.training.streams.setup import Record, Setup
from jills.types import Batch, Params, State


def fit(
    algorithm: Algorithm,
    hparams: Any,
    params: Params | State,
    batches: Iterable[Batch],
    num_steps: int | None = None,
    *,
    epochs: int | None = None,
    validation: Batch | None = None,
    validation_steps: int = 100,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> tuple[State, Record]:
    """Trains one network on a stream of batches: a step for each, read ahead in a thread.

    What is in memory is the state, and some batches. Ctrl-C ends it after the step under way and returns what is done;
    pressed twice it raises KeyboardInterrupt.

    Args:
        algorithm: of a `build(…, full_batch=False)`.
        hparams: the algorithm's `Hparams`, scalars.
        params: where to start, or a `State` to go on from by the rule of `jills.run`, from the first batch on.
        batches: `streams.batches`, `streams.files`, or any iterable of `jills.Batch`: a list or a data loader for
            several epochs, a generator for one. Batches of another length compile another program.
        num_steps: T; None: as many as the epochs have.
        epochs: passes over the batches; None: one, or without end where `num_steps` is given.
        validation: rows that training does not see. Their loss chooses `state.best_params`; without them that is the
            loss of single batches, which chance decides.
        validation_steps: steps from one look at the validation rows to the next. They are looked at before the first
            step and after the last one too.
        patience: stop after so many steps without a lower validation loss; None: do not.
        checkpoint: a file, ending in `.npz`, that is written now and then, at the end, after Ctrl-C and SIGTERM, and
            where reading fails. If it is there already, training goes on from it, at the batch after its last, and ends
            as if it had never been cut short; `num_steps` and `epochs` count from its beginning.
        checkpoint_seconds: from one writing to the next.
        progress: whether to show a bar, with the mean loss of the last batches.

    Returns:
        The final state, and a `Record` of its losses. Where a loss is not finite it ends early, see `state.result`.

    Raises:
        ValueError: hparams out of range, batches that do not fit, an algorithm for full batches, or a checkpoint that
            was made with another algorithm, hparams or order of rows.
        Exception: any that reading the batches raises.

    Minibatches of a file of any size, for example::

        table = np.load("table.npy", mmap_mode="r")  # (n, 11)
        rows = jills.training.streams.batches(table[:, :10], table[:, 10:], 2048)
        network = jills.Network((10, 50, 1), jills.activations.tanh)
        solver = jills.ConjugateGradients(max_steps=3)
        algorithm = jills.gauss_newton.build(network, linear_solver=solver, full_batch=False)
        hparams = jills.gauss_newton.minibatch_hparams(network, 2048)
        params = network.init(jax.random.key(0))
        state, record = jills.training.streams.fit(algorithm, hparams, params, rows, checkpoint="training.npz")
    """
    check_static(algorithm, None)
    if algorithm.full_batch:
        raise ValueError("streams.fit: the algorithm is for full batches; build it with full_batch=False")
    steps.check_source(batches)
    start = params.params if isinstance(params, State) else params
    checks.check_params(algorithm.network, start)
    dtype = native_dtype(start[0].weight)
    algorithm.check(hparams, scalar=True, dtype=dtype)
    num_steps = None if num_steps is None else checks.checked_count("streams.fit: num_steps", num_steps)
    epochs = None if epochs is None else checks.checked_count("streams.fit: epochs", epochs)
    every = checks.checked_count("streams.fit: validation_steps", validation_steps)
    if not (isinstance(checkpoint_seconds, int | float) and checkpoint_seconds >= 0):
        raise ValueError(f"checkpoint_seconds is {brief(checkpoint_seconds)}, but must be a number of seconds ≥ 0")
    setup = Setup(
        static=Static(algorithm),
        hparams=cast(hparams, dtype),
        source=batches,
        num_steps=num_steps,
        epochs=1 if epochs is None and num_steps is None else epochs,
        given=checked_validation(algorithm, start, validation, patience),
        every=every,
        path=None if checkpoint is None else Path(checkpoint),
        seconds=float(checkpoint_seconds),
        described=_described(algorithm, cast(hparams, dtype), batches),
    )
    training = Training(setup, params)
    with (
        termination(setup.path is not None) as is_terminated,
        interruption() as is_interrupted,
        threadpool_limits(1, "blas"),
        _bar(setup, training.done, progress) as show,
    ):
        told = training.run(lambda: is_interrupted() or is_terminated(), show)
    settle(setup.static)
    return told


def _described(algorithm, hparams, source):
    """What a checkpoint must agree with to be gone on from, in words, a line for each."""
    leaves = jax.tree_util.tree_leaves_with_path(hparams)
    lines = [f"hparams{jax.tree_util.keystr(place)} = {float(leaf)!r}" for place, leaf in leaves]
    if isinstance(source, Rows):  # what other iterables will give cannot be told
        lines.append(f"batches = {source}")
    return "\n".join([describe(algorithm), *lines])


def _bar(setup, done, progress):
    """A progress bar, of unknown length where that of the stream is."""
    from tqdm import tqdm  # not needed to import jills

    totals = [] if setup.num_steps is None else [setup.num_steps]
    if setup.epochs is not None and hasattr(setup.source, "__len__"):
        totals.append(setup.epochs * len(setup.source))
    total = min(totals, default=None)
    return tqdm(total=total, initial=done, unit="step", disable=not progress, dynamic_ncols=True)
