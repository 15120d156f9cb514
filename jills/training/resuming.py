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
    if before.hparams is not None and (wrong := other_hparams(named(before.hparams), named(hparams))):
        others.append(f"other hyperparameters ({wrong})")
    if others:
        raise ValueError(
            f"the sweep to go on from was made with {' and '.join(others)}; give the same, or, to go on with others on "
            "purpose, state=result.state in place of the whole result"
        )


def named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their place in it, such as `learning_rate`, or `metrics['error']`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(place).lstrip("."): np.asarray(leaf) for place, leaf in leaves}


def other_hparams(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> str:
    """Which hyperparameters differ, by more than a cast to float32 would make them; in words."""
    if set(before) != set(now):
        return f"of another kind, {', '.join(before)} then"
    return ", ".join(
        f"{name} was {short(one)} and is {short(now[name])}"
        for name, one in before.items()
        if one.shape != now[name].shape or not np.allclose(one, now[name], rtol=1e-6, atol=0.0, equal_nan=True)
    )


def short(values: Any) -> str:
    """Numbers for a message."""
    return np.array2string(np.unique(values), precision=4, threshold=6, edgeitems=2)
