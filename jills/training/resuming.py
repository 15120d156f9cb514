"""Whether a sweep that goes on from another is made as that was."""

from typing import Any

import jax
import numpy as np

from jills.training.description import differences
from jills.training.result import SweepResult


def check_same(before: SweepResult, algorithm: str, keys: jax.Array, hparams: Any) -> None:
    """Raises ValueError where a sweep to go on from was made with another algorithm, other keys or hyperparameters.

    Args:
        before: what it does not know (None, or an empty text) may be anything.
        algorithm: its description.
        keys: `(S,)`.
        hparams: leaves `(H,)`.
    """
    others = []
    if before.algorithm and before.algorithm != algorithm:
        others.append(f"another algorithm ({differences(before.algorithm, algorithm)})")
    if before.keys is not None and not np.array_equal(before.keys, jax.random.key_data(keys)):
        others.append(f"other keys ({len(before.keys)} then, {len(keys)} now)")
    if before.hparams is not None and (wrong := _other_hparams(before.hparams, hparams)):
        others.append(f"other hyperparameters ({wrong})")
    if others:
        raise ValueError(
            f"the sweep to go on from was made with {' and '.join(others)}; give the same, or, to go on with others on "
            "purpose, state=result.state in place of the whole result"
        )


def _other_hparams(before, now):
    """Which hyperparameters differ, by more than a cast to float32 would make them."""
    if type(before) is not type(now):
        return f"of another kind, {type(before).__qualname__} then"
    names = getattr(now, "_fields", range(len(now)))
    pairs = ((name, np.asarray(one), np.asarray(other)) for name, one, other in zip(names, before, now, strict=True))
    return ", ".join(
        f"{name} was {_short(one)} and is {_short(other)}"
        for name, one, other in pairs
        if one.shape != other.shape or not np.allclose(one, other, rtol=1e-6, atol=0.0, equal_nan=True)
    )


def _short(values):
    return np.array2string(np.unique(values), precision=4, threshold=6, edgeitems=2)
