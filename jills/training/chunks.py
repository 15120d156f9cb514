"""How a sweep runs: its members laid out on cores and devices, and driven chunk by chunk.

Private to `sweep`. Everything here has the members on one flat axis `[M]`.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from threadpoolctl import threadpool_limits

from jills import results
from jills.functions import Static
from jills.programs import Program, Traced
from jills.training.members import member_of
from jills.training.memory import heaviest_step
from jills.training.run import scan
from jills.training.validation import Validation
from jills.types import Info, State
from jills.warn import warn


class Plan(NamedTuple):
    """Which member runs where."""

    members: np.ndarray  # (W, B) flat indices; each worker's row is one call of the program
    count: int  # M; members are repeated where W · B exceeds it
    mesh: Mesh | None  # devices that share each row
    batch_size: int  # members at a time on each device

    def gather(self, rows: list) -> Any:
        """The rows of all workers, leaves `[B, …]`, as one tree with leaves `[M, …]` in member order."""
        _, first = np.unique(self.members, return_index=True)
        # NumPy, since each shape would cost JAX a compilation of its own.
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves])[first], *rows)


def make_plan(count: int, mesh: Mesh | None, batch_size: int | None) -> Plan:
    """Shares M members out: to threads on a single CPU device, else to the devices of a mesh.

    Raises:
        ValueError: some of them are of another process.
    """
    if mesh is None and jax.local_device_count() > 1:
        mesh = Mesh(np.array(jax.local_devices()), ("members",))
    if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            "mesh has devices of other processes; leave mesh= out: each process then trains its share of the keys on "
            "its own devices"
        )
    if mesh is not None:  # one of explicit axes would ask for arrays that are sharded already
        mesh = Mesh(mesh.devices.ravel(), ("members",), axis_types=(AxisType.Auto,))
    on_cpu = (jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]).platform == "cpu"
    workers = min(count, num_cores()) if on_cpu and mesh is None else 1
    shares = 1 if mesh is None else mesh.size
    block = math.ceil(count / (workers * shares)) * shares
    # Neighbours go to different workers: those of one learning rate tend to stop together.
    members = (np.arange(workers * block) % count).reshape(block, workers).T
    if batch_size is None:
        batch_size = 1 if on_cpu else block // shares
    return Plan(members, count, mesh, min(batch_size, block // shares))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Shared(NamedTuple):
    """What all members of a sweep have in common."""

    problem: Any
    stop: results.Stop
    metrics: Any  # None: those of the problem, or none
    common: list  # rows, and those for validation, see `members.Rows`; None of what each member brings
    patience: Any
    still: Any  # the detail of a member that stands still


class Given(NamedTuple):
    """What the programs of a sweep are given, but for states."""

    shared: Shared
    rows: list[tuple]  # hyperparameters, keys and rows of each worker's members, leaves [B, …]


def given(plan: Plan, shared: Shared, members: tuple, impl: Any) -> Given:
    """For leaves `[W, B, …]` of members; keys come as their data, and what they are."""
    if plan.mesh is not None:  # an array that a user has put on one device would not go with the others
        shared = jax.device_put(shared, NamedSharding(plan.mesh, PartitionSpec()))
    rows = [rows_of(members, worker) for worker in range(len(plan.members))]
    return Given(shared, [(hparams, jax.random.wrap_key_data(data, impl=impl), own) for hparams, data, own in rows])


def _each(one, batch_size, mesh, shared, members):
    """`one(shared, member)` of members `[B]`: one after the other, some at a time, and on each device its own."""

    def block(shared, members):
        own = partial(one, shared)
        if batch_size >= jax.tree.leaves(members)[0].shape[0] > 1:
            return jax.vmap(own)(members)
        return lax.map(own, members, batch_size=batch_size if batch_size > 1 else None)

    if mesh is not None:
        # Without its check: an optimizer of a user's may hold constants in loops of its own, as optax.lbfgs does.
        alike, split = PartitionSpec(), PartitionSpec("members")
        block = jax.shard_map(block, mesh=mesh, in_specs=(alike, split), out_specs=split, check_vma=False)
    return block(shared, members)


def _member(shared, key, own):
    rows, judges = (one and one._replace(stacked=two) for one, two in zip(shared.common, own, strict=True))
    return member_of(shared.problem, key, rows, judges)


def _blank(static, batch_size, mesh, shared, members):
    """States of members `[B]` that have not seen their rows: `resume` makes each a start."""

    def one(shared, member):
        _, key, own = member
        params, batch, _, _ = _member(shared, key, own)
        state = static.value.blank(params, batch)
        # Finite losses, lest JAX finds others where it looks for them; nothing is told by either.
        return state._replace(loss=jnp.zeros_like(state.loss), best_loss=jnp.zeros_like(state.best_loss))

    return _each(one, batch_size, mesh, shared, members)


def _steps(static, chunk_steps, batch_size, mesh, shared, members, state, remaining):
    """`chunk_steps` steps, of which `remaining` count, of members `[B]`."""
    algorithm = static.value

    def one(both, member):
        (shared, remaining), (hparams, key, own, state) = both, member
        _, batch, own_metrics, judge = _member(shared, key, own)
        state, batch = algorithm.resume(state, batch)
        metrics = shared.metrics if own_metrics is None else own_metrics
        judge = None if judge is None else Validation(judge, shared.patience)
        return scan(algorithm, chunk_steps, hparams, state, batch, shared.stop, metrics, judge, shared.still, remaining)

    return _each(one, batch_size, mesh, (shared, remaining), (*members, state))


# Starts have a program of their own: they are made once, and steps are compiled to run often.
_starts, _chunk = Program(_blank, (0, 1, 2)), Program(_steps, (0, 1, 2, 3), heaviest_step)


Call = Callable[[int, State, int], tuple[State, Info]]
"""`call(worker, its state, remaining)` runs one chunk of one worker and waits for it."""


class Chunk(NamedTuple):
    """A chunk of steps, traced but not compiled yet."""

    traced: Traced
    arguments: Callable[[int, State, int], tuple]  # what a call is given
    full: dict[str, Any]  # options of the full tier

    def work_bytes(self, plan: Plan) -> int:
        """The least that all its calls hold at once, beside the states."""
        calls = len(plan.members) if plan.mesh is None else plan.mesh.size
        return calls * self.traced.facts

    def compile(self, tier: str) -> Call:
        """Compiles it, or finds it compiled: only shapes and static choices tell programs apart."""
        program = _in_threads(self.traced.compile(tier, self.full))
        return lambda worker, state, remaining: program(*self.arguments(worker, state, remaining))


def trace_chunk(static: Static, plan: Plan, given: Given, blank: State, chunk_steps: int) -> Chunk:
    """Traces the chunk for one worker; the others have the same shapes. `blank` tells those of one member's state."""
    size = plan.members.shape[1]

    def arguments(worker, state, remaining):
        return given.shared, given.rows[worker], state, np.int32(remaining)

    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), blank)
    choices = (static, chunk_steps, plan.batch_size, plan.mesh)
    return Chunk(_chunk.trace(choices, *arguments(0, state, 0)), arguments, static.value.compiler_options)


def blank_states(static: Static, plan: Plan, given: Given, word: str) -> Callable[[], list[State]]:
    """Begins to make each worker's before its first step, leaves `[B, …]`, in threads; returns what waits for them.

    So they are ready when steps have been traced. `word` as for `sweep`.
    """
    traced = _starts.trace((static, plan.batch_size, plan.mesh), given.shared, given.rows[0])
    pool = ThreadPoolExecutor(1 + len(given.rows))
    compiled = pool.submit(traced.lower(traced.tier(word, 1.0), {}))
    call = _in_threads(lambda *args: compiled.result()(*args))
    states = [pool.submit(call, given.shared, rows) for rows in given.rows]
    pool.shutdown(wait=False)
    return lambda: [state.result() for state in states]


def _in_threads(program):
    """A compiled program, called and waited for in threads, which do not inherit JAX's context managers."""
    wide = bool(jax.config.read("jax_enable_x64"))

    def call(*args):
        with jax.enable_x64(wide):
            return jax.block_until_ready(program(*args))

    return call


def rows_of(tree: Any, worker: int) -> Any:
    """What one worker has of leaves `[W, B, …]`."""
    return jax.tree.map(lambda leaf: leaf[worker], tree)


class Progress(NamedTuple):
    """What is complete of a sweep."""

    states: list[State]  # one a worker, leaves [B, …]; none yet before the first step
    infos: list[Info]  # one a chunk, or several; NumPy leaves [M, steps, …], of `done` steps together
    done: int  # steps
    seconds: float = 0.0
    all_stopped: bool = False  # before the last chunk: nothing more will happen
    interrupted: bool = False
    error: Exception | None = None  # of the report
    stored: int | None = None  # the first steps, of which the infos are on disk instead; None: all are here


Keep = Callable[[Progress, bool], Progress]
"""`keep(progress, is_last)`: told what is complete after each chunk, and once more in the end, however that comes.

It returns what is to stay in memory of it.
"""


def begun(plan: Plan, start: State | None) -> Progress:
    """Before the first step from states with leaves `[W, B, …]`, or from blank ones, which are yet to be made."""
    return Progress([] if start is None else [rows_of(start, worker) for worker in range(len(plan.members))], [], 0)


def drive(
    call: Call,
    plan: Plan,
    progress: Progress,
    num_steps: int,
    chunk_steps: int,
    report: Callable[[int, np.ndarray, np.ndarray], Any],
    keep: Keep | None = None,
) -> Progress:
    """Calls chunk after chunk until all steps are done, all members have stopped, or Ctrl-C.

    An error of the report ends it after its chunk. An interruption drops the chunk under way and keeps all before it;
    with none before it, there is nothing to keep and the KeyboardInterrupt goes on.
    """
    workers = range(len(plan.members))
    pool = ThreadPoolExecutor(len(workers))
    try:
        while progress.done < num_steps and not progress.all_stopped:
            began = time.perf_counter()
            remaining = num_steps - progress.done
            futures = [pool.submit(call, w, progress.states[w], remaining) for w in workers]
            with threadpool_limits(1, "blas"):  # on the CPU its threads fight XLA's
                outcomes = [future.result() for future in futures]
            seconds = progress.seconds + time.perf_counter() - began
            # Only a chunk that all entered stopped shows what each would record for ever after. Not the first one: on
            # other rows its members may have begun to run again.
            all_stopped = progress.done > 0 and bool(np.all(plan.gather([s.result for s in progress.states])))
            count = min(chunk_steps, remaining)
            info = plan.gather([info for _, info in outcomes])
            infos = [*progress.infos, jax.tree.map(lambda leaf, count=count: leaf[:, :count], info)]
            progress = progress._replace(
                states=[state for state, _ in outcomes],
                infos=infos,
                done=progress.done + count,
                seconds=seconds,
                all_stopped=all_stopped,
            )
            ended = plan.gather([(state.loss, state.result) for state in progress.states])
            try:
                report(progress.done, ended[0], ended[1] != results.RUNNING)
            except Exception as error:
                warn(f"on_chunk raised {error!r}; the sweep ends after {progress.done} steps")
                progress = progress._replace(interrupted=True, error=error)
                break
            if keep is not None:
                progress = keep(progress, False)
    except KeyboardInterrupt:
        if progress.done == 0:
            raise
        progress = progress._replace(interrupted=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if keep is not None:
            keep(progress, True)
    return progress


def join_infos(progress: Progress, num_steps: int) -> tuple[Info, int]:
    """`Info` with leaves `[M, T, …]` and T; after an early end its last column is repeated to the end."""
    total = progress.done if progress.interrupted else num_steps

    def join(*leaves):
        whole = np.concatenate(leaves, axis=1)
        return np.concatenate([whole, np.repeat(whole[:, -1:], total - whole.shape[1], axis=1)], axis=1)

    return jax.tree.map(join, *progress.infos), total
