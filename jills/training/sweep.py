"""Many members at once: H sets of hyperparameters × S random keys.

`grid` is pure: two `vmap`s around any function of (hparams, key). `sweep` trains an algorithm: it
compiles one chunk of steps and calls it from the host, so that between chunks come a
progress bar, an early end and Ctrl-C. Members are independent: one that fails leaves the others bit
for bit as they are. (A sweep of another size may differ from this one in the last bits.)
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jills import checks, results
from jills.algorithm import Algorithm
from jills.compilation import check_tier
from jills.functions import settle
from jills.hparams import as_columns
from jills.results import Stop
from jills.training import checkpoints, chunks, processes
from jills.training.identity import identify, look
from jills.training.interruption import termination
from jills.training.keeping import Keeper, checked_seconds, keeping
from jills.training.memory import check_fits, free_bytes
from jills.training.progress import OnChunk
from jills.training.records import Records
from jills.training.result import SweepResult
from jills.training.task import checked_task
from jills.types import Batch, Metrics, Problem, State


def grid(train: Callable[[Any, jax.Array], Any], hparams: Any, keys: jax.Array) -> Any:
    """`train(hparams, key)` for every set of hyperparameters and every key; pure, and one call to compile.

    Args:
        train: pure; receives one set of scalars and one key.
        hparams: a pytree whose leaves are scalars, shared, or `(H,)`, zipped; see `jills.product`.
        keys: `(S,)` keys, or `(S, 2)` of the old kind.

    Returns:
        What `train` returns, each leaf leading with `[H, S]`.

    Raises:
        ValueError: leaves of `hparams` of other shapes or of unequal lengths, or no keys.
    """
    checks.check_function("train", train)
    _, columns = as_columns(hparams)
    return jax.vmap(jax.vmap(train, in_axes=(None, 0)), in_axes=(0, None))(columns, checks.checked_keys(keys))


def sweep(
    algorithm: Algorithm,
    hparams: Any,
    problem: Problem,
    keys: jax.Array,
    num_steps: int,
    chunk_steps: int = 50,
    on_chunk: OnChunk | None = None,
    mesh: Mesh | None = None,
    *,
    stop: Stop = Stop(),
    metrics: Metrics | None = None,
    state: State | SweepResult | None = None,
    batch_size: int | None = None,
    batches: Batch | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    compile: str = "auto",
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    records: str | Path | None = None,
) -> SweepResult:
    """Trains H × S networks, all from one compiled program.

    Where they run: on one CPU device, a block of members on one thread for each core, one member
    after the other in each (faster there than `vmap`, and no batched LAPACK call); on several
    devices, or with `mesh`, a share of the members on each; on an accelerator all members of a
    device at once. Under `jax.distributed`, which the user has initialised, each process trains a share of the keys on
    its devices, and all return the whole result; they make the same call, and `on_chunk` sees a process's own share.

    Args:
        algorithm: of a `build`.
        hparams: the algorithm's `Hparams`; leaves scalars, shared, or `(H,)`, zipped; `jills.product` makes
            all combinations. Other values do not compile again.
        problem: `key → Member(params, batch)`, pure; see `jills.types.Problem`. With `batches`: `key → params`, such
            as `network.init`.
        keys: `(S,)` keys; members with the same key get the same start and data.
        num_steps: T ≥ 1, for each member.
        chunk_steps: steps between two returns to the host.
        on_chunk: called after each chunk as `on_chunk(step, loss, stopped)`, see `progress_bar`. If it raises, the
            sweep ends as with Ctrl-C: with a warning, what is complete, and the exception in `result.error`.
        mesh: devices of this process to share the members out to; None: all of them.
        stop: when a member stops on its own. The sweep ends early once all have.
        metrics: recorded as `info.metrics` for the parameters each step received, where `problem` returns none.
        state: an earlier `SweepResult` to go on from, or its `state`, by the rule of `jills.run`: a member that had
            stopped stays so (set `result` to 0 to let all go on), unless its rows are others than before. The whole
            result knows its algorithm, keys and hyperparameters, and refuses others; its `state` goes on with any.
        batch_size: members at a time on each device; None: 1 on CPUs, all on accelerators.
        batches: many data sets, one for each key: arrays stacked, inputs `(S, n, d)`, targets `(S, n, k)`, weights
            `(S, n)`; what all share is given once, without the first axis. Data sets of unequal length are filled up
            with rows of weight zero, which may hold anything.
        validation: rows that choose `state.best_params`, see `run`; stacked or shared like `batches`. A member of a
            problem may bring its own.
        patience: stop a member after so many steps without a lower validation loss; None: do not.
        compile: "fast", "full" or "auto", see `run`.
        checkpoint: a folder of this sweep's own, made where it is missing: states and records are written there while
            it trains, the first time that it is called, and the same call goes on from them, however the process before
            it ended (killed, Ctrl-C, a power cut). The result is that of a sweep never interrupted, curves and all:
            to the same bits on as many cores or devices with the same `chunk_steps` and `batch_size`, else to rounding.
            A finished sweep comes back at once, from a folder that can only be read too, and with more `num_steps` goes
            on. SIGTERM, which Slurm and Kubernetes send before they kill, waits for a checkpoint after the chunk.
            Anything else that differs is refused: algorithm, dtype, keys, hyperparameters, `stop`, `patience`, `state`
            (which the folder must have begun from), and what `problem`, validation rows and `metrics` give at the start
            of each key, but for rounding.
        checkpoint_seconds: the least time between two checkpoints; 0: after each chunk. Where one cannot be written,
            as on a full disk, the sweep warns once, goes on and tries again.
        records: a folder to be made for the curves, such as "curves.zarr" (the extra `records`): then they take no
            memory, however many steps there are. `result.info` reads from it what is indexed, and
            `xarray.open_zarr(records)` opens it lazily, with the names and dimensions of `result.to_xarray()`. With
            `checkpoint` the same call goes on with both; else a folder that is there is refused. Not over processes.

    Returns:
        A `SweepResult`, whose methods predict, tell the best member, and make tables. `result.info.loss[h, s, t]` is
        the loss after t steps.

    Raises:
        ValueError: hparams out of range or of unequal lengths, shapes that do not fit, a result or checkpoints to go on
            from that were made with others, or a start that is not finite in any member.
        OSError: `checkpoint` cannot be written, or another sweep is writing there; told before steps are compiled.
        MemoryError: state and info of all members, or with them the work of a step, would not fit; told before the
            steps are compiled.
        RuntimeError: of several processes, another has failed or is not there any more. All end, none waits for ever
            (see `jills.training.processes`), and the same call goes on from `checkpoint`, in any number of processes.
    """
    if mesh is None and (processes.are_several() or processes.is_in_blocks(checkpoint)):
        if records is not None:
            raise ValueError("records= is for one process, and no sweep that several have begun; give each own keys")
        options = {"stop": stop, "metrics": metrics, "batch_size": batch_size, "patience": patience, "compile": compile}
        options |= {"chunk_steps": chunk_steps, "on_chunk": on_chunk, "checkpoint_seconds": checkpoint_seconds}
        again = partial(sweep, algorithm, hparams, problem, num_steps=num_steps, **options)
        rows = {"batches": batches, "validation": validation}
        return processes.share_out(again, checks.checked_keys(keys), rows, state, checkpoint)
    check_tier(compile)
    checkpoint_seconds = checked_seconds(checkpoint_seconds)
    task = checked_task(
        algorithm=algorithm,
        hparams=hparams,
        problem=problem,
        keys=keys,
        num_steps=num_steps,
        chunk_steps=chunk_steps,
        mesh=mesh,
        stop=stop,
        metrics=metrics,
        state=state,
        batch_size=batch_size,
        batches=batches,
        validation=validation,
        patience=patience,
        is_checkpointed=checkpoint is not None,
        is_recorded=records is not None,
    )
    with checkpoints.claimed(checkpoint) as folder:
        found = None if folder is None else _found(task, folder, records is not None)
        progress = task.start() if found is None else found.going_on(task.plan, task.num_steps)
        store = None
        if records is not None:
            progress = progress._replace(stored=progress.stored or 0)
            owner = checkpoints.owner(folder and folder.path)
            store = Records(records, owner, progress.stored or 0, task.shape, task.columns, task.described)
        compile_seconds = 0.0
        if progress.done < task.num_steps and not progress.all_stopped:
            if folder is not None:
                folder.check_writable()
            if store is not None:
                store.begin(task.num_steps)
            began = time.perf_counter()
            word = found.tier if found and compile == "auto" else compile
            call, tier, progress = _compiled(task, progress, word)
            compile_seconds = time.perf_counter() - began
            settle(task.static, task.shared.problem.func, *([] if metrics is None else [task.shared.metrics.func]))
            report = partial(_report, on_chunk, task.shape)
            with termination(folder is not None) as is_terminated:
                keeper = None
                if folder is not None:
                    keeper = Keeper(folder.path, checkpoint_seconds, found, task.plan, tier, is_terminated)
                keep = keeping(store, keeper)
                progress = chunks.drive(call, task.plan, progress, task.num_steps, task.chunk_steps, report, keep)
        final = task.plan.gather(progress.states)
        _check_started(final)
        if store is None:
            info, done = chunks.join_infos(progress, task.num_steps)
            info = task.laid_out(info)
        else:
            info, done = store.finish(progress, task.num_steps)
        final = jax.device_put(task.laid_out(final))
    return SweepResult(
        state=final,
        info=info,
        num_steps=done,
        interrupted=progress.interrupted,
        compile_seconds=compile_seconds,
        run_seconds=progress.seconds,
        error=progress.error,
        keys=np.asarray(jax.random.key_data(task.keys)),
        hparams=jax.tree.map(np.asarray, task.columns),
        algorithm=task.described,
        network=algorithm.network,
    )


def _found(task, folder, are_on_disk):
    """The checkpoint that a sweep goes on from; None where there is none yet."""
    shared, keys = task.shared, task.keys
    identity = identify(
        task.described, task.dtype, keys, task.columns, shared.stop, shared.patience, task.earlier, are_on_disk
    )
    looks = partial(
        look, task.static, task.plan.batch_size, shared.problem, shared.metrics, shared.common, keys, task.stacked
    )
    return checkpoints.enter(folder.path, identity, looks, task.blank, shared.still, math.prod(task.shape))


def _compiled(task, progress, word):
    """What runs a chunk, in which tier it was compiled, and the progress with the starts that were made meanwhile."""
    plan = task.plan
    given = chunks.given(plan, task.shared, task.members(), jax.random.key_impl(task.keys))
    available = free_bytes()  # starts, which begin to be made here, are among what is kept
    starts = None if progress.states else chunks.blank_states(task.static, plan, given, word)
    chunk = chunks.trace_chunk(task.static, plan, given, task.blank, task.chunk_steps)
    check_fits(task.kept, chunk.work_bytes(plan), task.shape, available)
    tier = chunk.traced.tier(word, task.num_steps / task.chunk_steps)
    call = chunk.compile(tier)
    return call, tier, progress if starts is None else progress._replace(states=starts())


def _check_started(state):
    failed = np.isin(state.result, results.FAILED) & (state.step == 0)
    if np.all(failed):
        raise ValueError(
            "every member starts with NaN or inf, or without a row of positive weight; look at the inputs, targets, "
            "weights and params that problem(key) returns"
        )


def _report(on_chunk, shape, step, loss, stopped):
    if on_chunk is not None:
        on_chunk(step, loss.reshape(shape), stopped.reshape(shape))
