"""Programs on disk as they were traced and lowered, so that the next process need not trace them again.

Of a program that its cache holds, JAX still traces every line to find it there: half of the time until a small network
is trained. Here the lowered program (`jax.export`, 100 kB) lies beside the cache, under a name that tells all that it
was made of: the contents of its functions (`jills.contents`), shapes, dtypes, the settings of JAX, and the versions of
the packages whose functions go by their names. What cannot be seen through is traced as ever. A folder of programs is
to be trusted like a package: what lies there is run.
"""

import hashlib
import os
import pickle
import platform
import sys
import uuid
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from jills.contents import PURE, Unseen, read
from jills.functions import Static

MOST_KEPT = 2000  # programs in a folder; the oldest go first
ELSEWHERE = ("jax_compilation_cache", "jax_persistent_cache", "jax_enable_compilation_cache")  # settings of the cache

_folder: list[Path] = []
"""Where they are kept; empty: nowhere."""


class Kept(NamedTuple):
    """A program of arrays, flat: leaves in, leaves out."""

    exported: export.Exported
    structure: Any  # of what it returns
    facts: Any  # what was told of its trace


def keep_in(folder: Path) -> None:
    """From now on programs are kept there."""
    _folder[:] = [folder]


def are_kept() -> bool:
    """Whether any are; not where arrays may lie on several devices."""
    return bool(_folder) and jax.device_count() == 1


def name_of(function: Callable, static: tuple, args: tuple) -> str | None:
    """The name of a program in every process; None where what it is made of cannot be told.

    Args:
        function: of a module of jills.
        static: its first arguments.
        args: the others, pytrees of arrays.
    """
    leaves, structure = jax.tree.flatten(args)
    place = (function.__module__, function.__qualname__, function.__code__.co_firstlineno)
    try:
        given = [_text(value) for value in static], [_shape(leaf) for leaf in leaves], _text_of_structure(structure)
    except Unseen:
        return None
    return hashlib.sha256(repr((place, given, _settings(), _versions())).encode()).hexdigest()


def _text(value):
    """What is no array, in every process."""
    if not isinstance(value, Static):
        return repr(read(value))
    if Static.UNSEEN in repr(value):
        raise Unseen("a function that is compared as Python does")
    return repr(value)


def _text_of_structure(structure):
    node = structure.node_data()
    if node is None:
        return f"leaf {structure.num_leaves}"
    kind, inside = node
    children = ", ".join(map(_text_of_structure, structure.children()))
    return f"{kind.__module__}.{kind.__qualname__}[{_text(inside)}]({children})"


def _shape(leaf):
    if not hasattr(leaf, "dtype") or getattr(leaf, "weak_type", False):
        raise Unseen("a number that is no array")
    return f"{leaf.dtype}{leaf.shape}"


def _settings():
    config: Any = jax.config  # its attributes know of context managers, `read` does not
    told = [(name, str(getattr(config, name, None))) for name in sorted(config.values)]
    return [(name, value) for name, value in told if not name.startswith(ELSEWHERE)]


@cache
def _versions():
    """Of what functions are found in by name; of jills itself the sources."""
    sources = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        sources.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    packages = sorted(PURE - {"jills"} - sys.stdlib_module_names)
    return platform.python_version(), [(name, metadata.version(name)) for name in packages], sources.hexdigest()


def find(name: str) -> Kept | None:
    """The program of a name; None where there is none that can be read."""
    try:
        serialized, structure, facts = pickle.loads(_path(name).read_bytes())
        kept = Kept(export.deserialize(bytearray(serialized)), structure, facts)
    except Exception:  # not there, cut off, of another version, or its classes are in a script that is not this one
        return None
    _ready_lapack()
    return kept


def made(name: str, function: Callable, static: tuple, args: tuple, facts: Callable[[Any], Any]) -> Kept | None:
    """The program, traced and kept under its name; None where it cannot be exported.

    Args:
        name: of `name_of`.
        function: with `static` and `args` as its arguments.
        static: its first arguments.
        args: the others, pytrees of arrays.
        facts: of its jaxpr, to be known without a trace too.
    """
    leaves, structure = jax.tree.flatten(args)
    returned = []

    def flat(*leaves):
        flattened, outer = jax.tree.flatten(function(*static, *jax.tree.unflatten(structure, leaves)))
        returned[:] = [outer]
        return flattened

    program = jax.jit(flat)
    try:
        told = facts(program.trace(*leaves).jaxpr.jaxpr)
        kept = Kept(export.export(program)(*leaves), returned[0], told)
        _write(_path(name), pickle.dumps((bytes(kept.exported.serialize()), *kept[1:])))
    except Exception:  # what is wrong with the arguments, the usual way tells
        return None
    return kept


def _path(name):
    return _folder[0] / f"{name}.traced"


def _write(path, content):
    beside = path.with_name(f".{uuid.uuid4().hex}")
    beside.write_bytes(content)
    os.replace(beside, path)
    others = sorted(path.parent.glob("*.traced"), key=lambda each: each.stat().st_mtime)
    for old in others[:-MOST_KEPT]:
        old.unlink(missing_ok=True)


@cache
def _ready_lapack():
    """JAX finds the routines of LAPACK when it first lowers one; a program that was lowered elsewhere would crash."""
    jax.jit(jnp.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))
