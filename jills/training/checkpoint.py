"""Trees on disk: one NumPy `.npz` file, readable with `numpy.load` and without pickle.

Of arrays spread over processes none has all entries: those go to a folder, see `jills.training.spread`.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from jills.training import spread
from jills.training.result import SweepResult
from jills.training.structure import SCALARS, Leaf, UnknownClass, leaves, put_together, restored, take_apart
from jills.training.words import has_words

FORMAT = 2  # 1: without networks
DESCRIPTION = "jills_tree"  # the entry that holds the text


def save(path: str | Path, tree: Any, *, compress: bool = True) -> None:
    """Writes a pytree (params, a `State`, a whole `SweepResult`, …); whole or not at all.

    The file is read by `load`, and by `numpy.load` without pickle: leaves are entries named by their place, such as
    `.params[0].weight`, and `jills_tree` is a text in JSON with the structure. What NumPy does not know of itself is
    stored by its bits, as unsigned integers: bfloat16 and its like, and random keys. Of an exception its text is kept,
    and of a `SweepResult` the network, unless its activations are a user's own: then it is left out.

    Arrays may be spread over several processes, as those of `run` are where its rows or parameters were. Then `path`
    is a folder, written by Orbax (the extra `checkpoint`) on a disk that all processes see, and all make this call.

    Args:
        path: the file, ending in `.npz`; an older one is replaced, and so is what a folder holds.
        tree: of arrays, random keys, numbers, texts, networks and None.
        compress: False: some thirty times as quick, and a file as large as the arrays.

    Raises:
        ValueError: a leaf is something else, a network has activations of a user's own, or a folder holds other things.
        ImportError: arrays are spread over processes, and Orbax is not installed.
    """
    path = Path(path)
    is_result = lambda node: isinstance(node, SweepResult)  # noqa: E731 used at once
    tree, taken = spread.taken_out(jax.tree.map(_holdable, tree, is_leaf=is_result))
    arrays, structure = take_apart(tree)
    text = np.array(json.dumps({"format": FORMAT, "tree": structure, "spread": list(taken)}))
    entries = {DESCRIPTION: text, **arrays}
    if taken or path.is_dir():
        spread.save(path, taken, lambda place: save_arrays(place, entries, compress))
    else:
        save_arrays(path, entries, compress)


def _holdable(node):
    """A result without a network that a file cannot hold; anything else as it is."""
    lost = isinstance(node, SweepResult) and node.network is not None and not has_words(node.network)
    return node._replace(network=None) if lost else node


def save_arrays(path: Path, entries: dict[str, Any], compress: bool = True) -> None:
    """Writes named arrays as `.npz`."""
    write_arrays = np.savez_compressed if compress else np.savez

    def write(place):
        with place.open("wb") as file:
            write_arrays(file, allow_pickle=False, **entries)

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file by way of one beside it, so that it is there whole or as it was, whoever else writes it too.

    That holds for a power cut as well: the file is on the disk before it takes the place of another.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes the file at the path that it is given, which ends as `path` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        write(unfinished)
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(folder):
    """Brings the names in a folder to the disk, where a system can: Windows and some networks cannot."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def load(path: str | Path, like: Any = None, dtype: Any = None) -> Any:
    """Reads what `save` wrote: the same tree, with arrays of JAX and of NumPy where such were saved.

    Args:
        path: the file, or folder.
        like: a tree of the same structure and dtypes, such as `algorithm.init(params, batch)` or its
            `jax.eval_shape`, to make sure of it. The leaves on disk may have further leading axes (those of a sweep);
            like a `SweepResult`, axes may have any length. None: the file tells. That takes NamedTuples of
            modules that are imported already, and no other classes. Of arrays that were spread over processes it also
            tells the sharding: without one they lie as they did, and where not all those devices are here, they come
            whole.
        dtype: of all arrays of floating numbers; None: those of the file.

    Raises:
        FileNotFoundError: there is no such file, or nothing in the folder.
        ImportError: arrays were spread over processes, and Orbax is not installed.
        ValueError: no file of `save`, or of a later version; another structure, or leaves of other dtypes or shapes,
            than `like`; 64 bits, which JAX has off; or a class that is not known, and no `like`.
    """
    path = _file(Path(path))
    entries: dict[str, Any] = read_arrays(path)
    dtype = None if dtype is None else _floating(dtype)
    text = entries.pop(DESCRIPTION, None)
    if text is None and like is None:
        what = "a model: jills.load_model(path)" if "jills_model" in entries else "no structure; give like="
        raise ValueError(f"{path} holds {what}")
    described: dict[str, Any] = {"tree": None} if text is None else read_description(path, text)
    structure, beyond = described["tree"], described.get("spread", [])
    told = {leaf.entry: leaf for leaf in leaves(structure)}
    if lost := set(told) - set(entries):
        raise ValueError(f"{path} is no whole file of jills.save: it lacks {', '.join(sorted(lost)[:5])}")
    value_of = lambda leaf: _value(path, leaf, entries[leaf.entry], dtype)  # noqa: E731 used at once
    if like is None:
        entries |= spread.load(path, beyond, {}, dtype)
        try:
            return put_together(structure, value_of)
        except UnknownClass as error:
            raise ValueError(f"{path}: {error}; import what defines it, or give like=") from None
    places, wanted = jax.tree_util.tree_flatten_with_path(like)
    models: dict[str, Any] = {jax.tree_util.keystr(place): model for place, model in places}
    if set(models) != set(entries):
        wrong = sorted(set(models) ^ set(entries))
        raise ValueError(f"{path} holds another structure: {', '.join(wrong[:5])} stand on one side only")
    shardings = {name: getattr(model, "sharding", None) for name, model in models.items()}
    entries |= spread.load(path, beyond, shardings, dtype)
    values = [value_of(told.get(name, Leaf(name, "jax"))) for name in models]
    _check_fit(path, models, values, isinstance(like, SweepResult), dtype)
    return jax.tree.unflatten(wanted, values)


def _file(path):
    file = spread.saved(path)
    if file is None and path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, and holds nothing that jills.save has finished")
    return file or path


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All entries of an `.npz` file; raises ValueError where it is another, or not whole."""
    with Path(path).open("rb") as opened:
        try:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.lib.npyio.NpzFile):
                return {name: file[name] for name in file.files}
            reason = "it holds a single array"
        except Exception as error:  # what is damaged may say anything, even that it is too large for the memory
            reason = str(error) or type(error).__name__
    raise ValueError(f"{path} is no whole file of jills.save or jills.save_model: {reason}")


def read_description(path: str | Path, entry: np.ndarray, newest: int = FORMAT) -> dict[str, Any]:
    """A text in JSON that says what is in a file; raises ValueError where it comes from a later version of jills."""
    described = json.loads(str(entry))
    if described["format"] > newest:
        raise ValueError(f"{path} is of format {described['format']}, this jills reads up to {newest}; update jills")
    return described


def _floating(dtype):
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype}, but must be one of floating numbers, such as 'float32'")
    if dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype is {dtype}, but JAX has 64 bits off; give dtype='float32', or set jax_enable_x64")
    return dtype


def _value(path, leaf, array, dtype):
    if isinstance(array, jax.Array):  # it was spread over processes, and may be so again
        return array
    if leaf.kind in SCALARS.values():
        return array.item()
    if leaf.kind == "error":
        return RuntimeError(array.item())
    if leaf.kind == "keys":
        return jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.detail)
    array = restored(array, leaf.detail)
    if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(dtype)
    if leaf.kind == "scalar":
        return array[()]
    return array if leaf.kind == "numpy" else as_jax(path, array)


def as_jax(path: str | Path, array: np.ndarray) -> jax.Array:
    """An array of JAX; raises ValueError where its 64 bits are more than JAX takes, and any of them matters."""
    narrow = array.astype(dtypes.canonicalize_dtype(array.dtype))
    if narrow.dtype != array.dtype and (array.dtype.kind in "fc" or not np.array_equal(narrow, array)):
        raise ValueError(
            f"{path} holds {array.dtype}, but JAX has 64 bits off; give dtype='float32', or set jax_enable_x64"
        )
    return jnp.asarray(narrow)


def _check_fit(path, models, values, any_length, dtype):
    """Raises ValueError where arrays are not like those of a model, further leading axes aside."""
    pairs = [(name, *pair) for (name, *pair) in zip(models, models.values(), values, strict=True) if _is_array(pair)]
    lead = None
    for name, model, value in pairs:
        cast = dtype is not None and jnp.issubdtype(model.dtype, jnp.floating)
        kind: Any = dtype if cast else model.dtype
        shape = tuple(model.shape)
        if any_length:
            shape = value.shape if len(shape) == value.ndim else shape
        elif lead is None:
            lead = value.shape[: value.ndim - len(shape)]
        wanted = (*(lead or ()), *shape)
        if value.dtype != kind or value.shape != wanted:
            casts = all(jnp.issubdtype(each, jnp.floating) for each in (kind, value.dtype)) and value.dtype != kind
            raise ValueError(
                f"{path}: {name} is {value.dtype}{list(value.shape)}, but {kind}{list(wanted)} is expected"
                + (f"; give dtype='{kind}' to have floating numbers cast" if casts else "")
            )


def _is_array(pair):
    return all(hasattr(each, "dtype") and hasattr(each, "shape") for each in pair)
