"""A sweep over several processes of `jax.distributed`: each trains its share of the keys, and all are told everything.

The keys are cut into blocks, which go round the processes; a block is a sweep of its own, on the devices of its
process. What a member starts from and trains on depends on its key alone, so results do not depend on the number of
processes, but for rounding. With checkpoints there are as many blocks whatever the number of processes, each with a
folder of its own: what processes had not saved when they ended is all that is lost, and other processes, more or fewer
or a single one, go on from there.

A process that fails tells the others, which train their own blocks to the end before they fail too. Of one that is
killed they learn from JAX, and nothing waits for ever: where it was process 0, JAX ends them at once; else where they
are to be told the results (an error, on CPUs), or by its heartbeats that are missing, 100 seconds later at most
(`heartbeat_timeout_seconds` of `jax.distributed.initialize`), wherever they are then.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jills.training.members import split
from jills.training.result import SweepResult
from jills.types import Batch

_AT_ITS_SHARE: ContextVar[bool] = ContextVar("at its share", default=False)
BLOCKS = 16  # with checkpoints
GO_ON = "with checkpoint=, the same call goes on from what was saved, in any number of processes"


def are_several() -> bool:
    """Whether this is one of several processes, which the user has initialised, and not at its own share yet."""
    return jax.process_count() > 1 and not _AT_ITS_SHARE.get()


def is_in_blocks(checkpoint: Any) -> bool:
    """Whether several processes have begun the sweep of a folder, which then goes on in their blocks."""
    if _AT_ITS_SHARE.get() or not isinstance(checkpoint, str | os.PathLike):
        return False
    return any(Path(checkpoint).glob("block-*-of-*"))


def share_out(
    train: Callable[..., SweepResult],
    keys: Any,
    rows: dict[str, Batch | None],
    state: Any,
    checkpoint: str | Path | None,
) -> SweepResult:
    """Trains the blocks of this process, and gathers those of all.

    Args:
        train: `train(keys=…, state=…, checkpoint=…, **rows)`, a sweep.
        keys: `(S,)`.
        rows: `batches` and `validation`; stacked arrays lead with `[S]`.
        state: to go on from, with leaves `[H, S, …]`, or None.
        checkpoint: the folder, or None.

    Returns:
        The result of all keys, the same in every process; `interrupted` where any of them was. Seconds are those of the
        slowest process.

    Raises:
        ValueError: processes that were given different keys; a folder whose sweep one process has begun.
        RuntimeError: another process has failed, or is not there any more.
    """
    data = _told_by_all(np.asarray(jax.random.key_data(keys)))
    if np.any(data != data[0]):
        raise ValueError(
            "the keys differ between processes; make the same call in all of them (and give estimators a random_state)"
        )
    if checkpoint is not None and not is_in_blocks(checkpoint) and (Path(checkpoint) / "sweep.npz").exists():
        raise ValueError(f"one process has begun the sweep in {checkpoint}; go on with one, or give another folder")
    count, own = jax.process_count(), jax.process_index()
    places = blocks_of(len(keys), count if checkpoint is None else BLOCKS)

    def block(number, folder):
        at = places[number]
        parts = {name: taken(batch, at, len(keys), name) for name, batch in rows.items()}
        return train(keys=keys[at], state=part_of(state, at), checkpoint=folder, **parts)

    def folder(number):
        return None if checkpoint is None else Path(checkpoint) / f"block-{number:02d}-of-{len(places):02d}"

    results, failure = [], None
    token = _AT_ITS_SHARE.set(True)
    try:
        results = [block(number, folder(number)) for number in range(own, len(places), count)]
        # Where blocks are fewer than processes, or do not come out even, one is there twice: shapes must be the same.
        results = results or [block(0, None)]
    except Exception as error:  # told to the others, who would wait for this process
        failure = error
    finally:
        _AT_ITS_SHARE.reset(token)
    failed = np.flatnonzero(_told_by_all(np.asarray(failure is not None)))
    if failure is not None:
        raise failure
    if failed.size:
        raise RuntimeError(f"the sweep has failed in process {failed[0]}, which says why; {GO_ON}")
    results += results[-1:] * (-(-len(places) // count) - len(results))
    return gathered(results, places, keys)


def _told_by_all(tree):
    """What each process tells, leaves `[n, …]`."""
    from jax.experimental.multihost_utils import process_allgather

    try:
        return process_allgather(tree)
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(f"another process of this sweep is not there any more; {GO_ON}") from error


def blocks_of(count: int, blocks: int) -> np.ndarray:
    """Which keys are in which block, `(K, b)`; the last ones are repeated so that all have the same length."""
    length = -(-count // min(count, blocks))
    blocks = -(-count // length)
    return np.minimum(np.arange(blocks * length), count - 1).reshape(blocks, length)


def taken(batch: Batch | None, at: np.ndarray, count: int, name: str = "batches") -> Batch | None:
    """The arrays of some of `count` keys where they are stacked, and as they are where all share them."""
    rows = split(name, batch, count)
    return None if rows is None else rows.taken(at).merged()


def part_of(state: Any, at: np.ndarray) -> Any:
    """That of some keys."""
    some = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[:, at], tree)  # noqa: E731 used at once
    if isinstance(state, SweepResult):
        keys = None if state.keys is None else state.keys[at]
        return state._replace(state=some(state.state), info=some(state.info), keys=keys)
    return None if state is None else some(state)


def gathered(results: list[SweepResult], places: np.ndarray, keys: Any) -> SweepResult:
    """The results of all processes, by the order of the keys."""
    told = np.asarray(
        [
            min(result.num_steps for result in results),
            max(result.interrupted for result in results),
        ],
        np.int32,
    )
    seconds = np.asarray([sum(getattr(one, name) for one in results) for name in ("compile_seconds", "run_seconds")])
    told, seconds = _told_by_all((told, seconds))
    steps = int(told[:, 0].min())
    cut = lambda info: jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, :steps], info)  # noqa: E731 used at once
    trees = [(jax.tree.map(np.asarray, result.state), cut(result.info)) for result in results]
    local = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)  # [own blocks, H, b, …]
    everything = _told_by_all(local)  # [n, own blocks, H, b, …]
    _, first = np.unique(places, return_index=True)

    def ordered(leaf):
        n, own, h, b, *rest = leaf.shape
        # Block k went to process k modulo n, as its block number k // n.
        blocks = np.swapaxes(leaf, 0, 1).reshape(n * own, h, b, *rest)[: len(places)]
        return np.moveaxis(blocks, 1, 0).reshape(h, -1, *rest)[:, first]

    state, info = jax.tree.map(ordered, everything)
    return results[0]._replace(
        state=jax.device_put(state),
        info=info,
        num_steps=steps,
        interrupted=bool(told[:, 1].max()),
        compile_seconds=float(seconds[:, 0].max()),
        run_seconds=float(seconds[:, 1].max()),
        keys=np.asarray(jax.random.key_data(keys)),
    )
