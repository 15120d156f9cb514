"""Arrays of which no process has all entries: where a tree on disk holds such, they go to Orbax.

    tree-3.npz      the file that `jills.save` would have written, with empty arrays in place of those
    arrays-3/       those, written by all processes, each its own entries

The arrays come first: a save is there once its file is. Then older ones are removed.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jills.arrays import is_within_reach

OURS = re.compile(r"(tree|arrays)-(\d+)\b.*")  # those that Orbax has not finished have longer names


def is_beyond_reach(leaf: Any) -> bool:
    """Whether it is an array of which this process has some entries only."""
    return not is_within_reach(leaf)


def taken_out(tree: Any) -> tuple[Any, dict[str, jax.Array]]:
    """A tree with empty arrays in place of those for Orbax, and those by their place.

    Where one is spread over processes, so that Orbax is needed, all that lie with several go there: they come back to
    where they were.
    """
    if not any(map(is_beyond_reach, jax.tree.leaves(tree))):
        return tree, {}
    taken = {}

    def part(place, leaf):
        if not is_beyond_reach(leaf) and getattr(leaf, "is_fully_addressable", True):
            return leaf
        name = jax.tree_util.keystr(place)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} are random keys spread over processes; save jax.random.key_data of them")
        taken[name] = leaf
        return jnp.zeros(0)

    return jax.tree_util.tree_map_with_path(part, tree), taken


def save(folder: Path, arrays: dict[str, jax.Array], write_tree: Callable[[Path], None]) -> None:
    """Writes arrays, and then the file of the tree that they are of; all processes call it.

    Args:
        folder: that all processes see.
        arrays: by their place.
        write_tree: writes the file, whole or not at all.

    Raises:
        ImportError: Orbax is not installed.
        ValueError: `folder` is a file, or holds something else.
    """
    orbax = _orbax() if arrays else None
    if folder.exists() and not (folder.is_dir() and (saved(folder) or not _others(folder))):
        raise ValueError(f"{folder} holds something else, and arrays spread over processes want a folder of their own")
    number = _agreed(1 + max((number for number, _ in _versions(folder)), default=-1))
    if orbax is not None:
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute() / f"arrays-{number}", arrays)
    try:
        if jax.process_index() == 0:
            write_tree(folder / f"tree-{number}.npz")
            _tidy(folder, number)
    finally:
        _agreed(number)  # no process goes on before the file is there


def _tidy(folder, number):
    """Removes what is older, or was never finished."""
    for other, path in _versions(folder):
        with suppress(OSError):  # the tree is saved, whatever else lies there
            if other != number:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _versions(folder):
    """What saves have left in a folder, each with its number."""
    entries = [(OURS.fullmatch(entry.name), entry) for entry in folder.iterdir()] if folder.is_dir() else []
    return [(int(match[2]), entry) for match, entry in entries if match]


def _others(folder):
    return [entry for entry in folder.iterdir() if not OURS.fullmatch(entry.name)]


def _agreed(number):
    """The number of the first process, once all have come here."""
    if jax.process_count() == 1:
        return number
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return int(broadcast_one_to_all(np.int32(number)))


def saved(path: Path) -> Path | None:
    """The file of what was saved at a path: itself, or the newest in a folder; None where there is none."""
    if path.is_file():
        return path
    files = [(number, entry) for number, entry in _versions(path) if entry.name == f"tree-{number}.npz"]
    return max(files)[1] if files else None


def load(file: Path, names: list[str], shardings: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Reads arrays, by their place.

    Args:
        file: of `saved`.
        names: of the arrays.
        shardings: of each; where there is none, as they were saved, and where those devices are not here, whole, as
            arrays of NumPy.
        dtype: of those of floating numbers; None: as they were saved.

    Raises:
        ImportError: Orbax is not installed.
        ValueError: a file of it is missing or damaged, or 64 bits, which JAX has off.
    """
    if not names:
        return {}
    with _orbax().StandardCheckpointer() as checkpointer:
        folder = file.absolute().with_name(file.stem.replace("tree", "arrays"))
        try:
            told = checkpointer.metadata(folder).item_metadata.tree
            wanted = {name: _wanted(told[name], shardings.get(name), dtype) for name in names}
            return checkpointer.restore(folder, wanted)
        except (KeyError, AttributeError, OSError, ValueError) as error:
            raise ValueError(f"{folder} cannot be read: {error}") from error


def _wanted(told, sharding, dtype):
    """What Orbax is to make of an array."""
    kind = dtype if dtype is not None and jnp.issubdtype(told.dtype, jnp.floating) else told.dtype
    sharding = _as_saved(told) if sharding is None else sharding
    if sharding is None:
        return np.empty(told.shape, kind)
    if jax.dtypes.canonicalize_dtype(kind) != kind:
        raise ValueError(f"it holds {kind}, but JAX has 64 bits off; give dtype='float32', or set jax_enable_x64")
    return jax.ShapeDtypeStruct(told.shape, kind, sharding=sharding)


def _as_saved(told):
    try:
        return told.sharding and told.sharding.to_jax_sharding()
    except ValueError:  # of devices that are not here
        return None


def _orbax() -> Any:
    try:
        return import_module("orbax.checkpoint")
    except ImportError as error:
        raise ImportError(
            "arrays spread over processes are saved by Orbax: pip install orbax-checkpoint (or jills with its extra, "
            "checkpoint)"
        ) from error
