"""What a sweep is, in texts and arrays, so that a folder of checkpoints goes on with that one and with no other.

Most of it is compared as it was given: algorithm, dtype, keys, hyperparameters, when to stop, a state to begin from. A
problem is a function, and there it is what it gives that counts: for each key a fingerprint of the rows, and loss,
validation loss and metrics at the start, which take one evaluation each and a small program. Where these numbers are as
they were, but for rounding, the problem counts as the same. So other rows, starts, validation rows and metrics are
found, unless all starts tell the same of them; rows of which only the bits differ are warned of.
"""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jills.functions import Static, settle
from jills.programs import Program
from jills.results import Stop
from jills.states import SAME_LOSS
from jills.training.description import differences
from jills.training.members import member_of
from jills.training.resuming import named, other_hparams, short
from jills.training.validation import FOR_EVER, Validation, entered
from jills.warn import warn

IN_MEMORY, ON_DISK = "in memory", "on disk"
AT_A_TIME = 256  # starts that are looked at together on an accelerator


class Identity(NamedTuple):
    """What a sweep is, apart from its problem."""

    algorithm: str  # see `jills.training.description`
    dtype: str
    keys: np.ndarray  # (S, …) uint32, their data
    implementation: str  # of the keys
    hparams: dict[str, np.ndarray]  # (H,) each
    stop: dict[str, np.ndarray]  # () each
    patience: int
    state: str  # a digest of the one to begin from; empty: the problem's own start
    records: str = IN_MEMORY  # where they are


class Start(NamedTuple):
    """What a problem gives for a key; leaves `[S, …]`."""

    rows: Any  # () uint32, their fingerprint
    loss: Any  # ()
    validation: Any  # () loss, or () of tuples where there are no such rows
    metrics: Any


def identify(
    algorithm: str,
    dtype: Any,
    keys: jax.Array,
    hparams: Any,
    stop: Stop,
    patience: Any,
    state: Any,
    are_on_disk: bool,
) -> Identity:
    """The identity of a sweep.

    Args:
        algorithm: its description.
        dtype: of the parameters.
        keys: `(S,)`.
        hparams: leaves `(H,)`.
        stop: cast to the dtype.
        patience: as `checked_patience` returns it.
        state: leaves `[H, S, …]`; None.
        are_on_disk: the records.
    """
    return Identity(
        algorithm,
        str(dtype),
        np.asarray(jax.random.key_data(keys)),
        str(jax.random.key_impl(keys)),
        named(hparams),
        named(stop),
        int(patience),
        "" if state is None else _digest(state),
        ON_DISK if are_on_disk else IN_MEMORY,
    )


def _digest(tree):
    text = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        text.update(f"{jax.tree_util.keystr(place)} {array.dtype} {array.shape}".encode())
        text.update(array.tobytes())
    return text.hexdigest()


def look(static: Static, size: int, problem: Any, metrics: Any, common: list, keys: jax.Array, own: list) -> Start:
    """Looks at the start of every key.

    Args:
        static: the algorithm.
        size: keys at a time.
        problem: as `as_partial` returns it.
        metrics: likewise; None.
        common: rows and validation rows of all members, see `jills.training.members.Rows`.
        keys: `(S,)`.
        own: stacked rows and validation rows, `(S, …)`.

    Returns:
        Leaves `[S, …]` of NumPy.
    """
    size = min(size, AT_A_TIME, len(keys))
    start = _look("fast", {}, (static, size), problem, metrics, common, keys, own)
    settle(static, problem.func, *([] if metrics is None else [metrics.func]))
    return jax.tree.map(np.asarray, start)


def _starts(static, size, problem, metrics, common, keys, own):
    algorithm = static.value

    def one(member):
        key, own = member
        rows, judges = (one and one._replace(stacked=two) for one, two in zip(common, own, strict=True))
        params, batch, own_metrics, judge = member_of(problem, key, rows, judges)
        state, _ = algorithm.begin(params, batch)
        _, judge = entered(algorithm, state, None if judge is None else Validation(judge, np.int32(FOR_EVER)))
        told = metrics if own_metrics is None else own_metrics
        return Start(
            state.fingerprint,
            state.loss,
            () if judge is None else judge.loss(algorithm, state.params),
            () if told is None else told(state.params),
        )

    return lax.map(one, (keys, own), batch_size=size if size > 1 else None)


_look = Program(_starts, (0, 1))


def others(before: Identity, now: Identity) -> list[str]:
    """In what a sweep differs from an earlier one, its problem apart."""
    told = []
    if before.algorithm != now.algorithm:
        told.append(f"another algorithm ({differences(before.algorithm, now.algorithm)})")
    if before.dtype != now.dtype:
        told.append(f"another dtype ({before.dtype} then, {now.dtype} now)")
    if before.implementation != now.implementation or not np.array_equal(before.keys, now.keys):
        told.append(f"other keys ({len(before.keys)} then, {len(now.keys)} now)")
    if wrong := other_hparams(before.hparams, now.hparams):
        told.append(f"other hyperparameters ({wrong})")
    if wrong := other_hparams(before.stop, now.stop):
        told.append(f"another stop ({wrong})")
    if before.patience != now.patience:
        told.append(f"another patience ({_patience(before)} then, {_patience(now)} now)")
    if before.state != now.state:
        told.append(f"another state to begin from ({_state(before)} then, {_state(now)} now)")
    if before.records != now.records:
        told.append(f"records {before.records} then, {now.records} now (records=)")
    return told


def _patience(identity):
    return "none" if identity.patience == FOR_EVER else identity.patience


def _state(identity):
    return f"one of digest {identity.state[:8]}" if identity.state else "none"


def other_problem(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> list[str]:
    """In what a problem differs from an earlier one; both are `named` starts. Warns where only bits of rows do."""
    told = []
    for part, words in (
        ("loss", "other rows or starts"),
        ("validation", "other validation rows"),
        ("metrics", "other metrics"),
    ):
        names = [name for name in {**before, **now} if name.startswith(part)]
        if wrong := ", ".join(_other(name, before.get(name), now.get(name)) for name in names).strip(", "):
            told.append(f"{words} ({wrong})")
    if not told and not np.array_equal(before["rows"], now["rows"]):
        warn(
            "rows have other bits than those of the checkpoints, but all starts have the same losses, as on another "
            "machine; if the rows were changed, begin in another folder"
        )
    return told


def _other(name, before, now):
    """How the values of all keys differ by more than rounding, in words; empty where they do not."""
    if before is None or now is None or before.shape != now.shape:
        then, here = ("none" if one is None else f"of shape {one.shape}" for one in (before, now))
        return f"{name} {then} then, {here} now"
    one, two = (each.astype(np.complex128 if now.dtype.kind == "c" else np.float64) for each in (before, now))
    # Of losses to some units in the last place; metrics may lose more digits.
    floats = now.dtype.kind not in "iub"
    rounding = float(jax.numpy.finfo(now.dtype).eps) if floats else 0.0
    rounding = rounding**0.5 if name.startswith("metrics") else SAME_LOSS * rounding
    scale = np.max(np.abs(two), where=np.isfinite(two), initial=0.0) if name.startswith("metrics") else 0.0
    near = np.isclose(one, two, rtol=rounding, atol=rounding * scale, equal_nan=True)
    if near.all():
        return ""
    key = int(np.argwhere(~near)[0][0])
    return f"{name} of key {key} was {short(one[key])} and is {short(two[key])}"
