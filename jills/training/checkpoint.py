"""States on disk: one NumPy `.npz` file, readable with `numpy.load` and without pickle."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def save(path: str | Path, tree: Any) -> None:
    """Writes a pytree of arrays (a `State`, params, …); whole or not at all.

    Args:
        path: the file, ending in `.npz`; an older one is replaced.
        tree: leaves become entries named by their place, such as `.params[0].weight`.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    save_arrays(Path(path), {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves})


def save_arrays(path: Path, entries: dict[str, Any]) -> None:
    """Writes named arrays as `.npz`."""

    def write(place):
        with place.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **entries)

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file by way of one beside it, so that it is there whole or as it was, whoever else writes it too.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes the file at the path that it is given, which ends as `path` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | Path, like: Any) -> Any:
    """Reads what `save` wrote.

    Args:
        path: the file.
        like: a tree of the same structure and dtypes, such as `algorithm.init(params, batch)` or its
            `jax.eval_shape`. The leaves on disk may have further leading axes (those of a sweep).

    Raises:
        ValueError: the file holds another structure, or leaves of other dtypes or shapes.
    """
    places, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(place) for place, _ in places]
    with np.load(path, allow_pickle=False) as file:
        if set(names) != set(file.files):
            wrong = sorted(set(names) ^ set(file.files))
            raise ValueError(f"{path} holds another structure: {', '.join(wrong[:5])} stand on one side only")
        leaves = [file[name] for name in names]
    lead = leaves[0].shape[: leaves[0].ndim - len(places[0][1].shape)] if leaves else ()
    for name, leaf, (_, model) in zip(names, leaves, places, strict=True):
        if leaf.dtype != model.dtype or leaf.shape != (*lead, *model.shape):
            wanted = f"{model.dtype}{[*lead, *model.shape]}"
            raise ValueError(f"{path}: {name} is {leaf.dtype}{list(leaf.shape)}, but {wanted} is expected")
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
