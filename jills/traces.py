"""Programs on disk as they were traced and lowered, so that the next process need not trace them again.

Of a program that its cache holds, JAX still traces every line to find it there: half of the time until a small network
is trained. Here the lowered program (`jax.export`, 100 kB) lies beside the cache, under a name that tells all that it
was made of: the contents of its functions (`jills.contents`), shapes, dtypes, the settings of JAX, the versions of the
packages whose functions go by their names, and the sources of jills. What cannot be seen through, as a class of a
user's, is traced as ever. A folder of programs is to be trusted like a package: what lies there is run. Where modules
of jills are changed in memory, leave the cache off.
"""

import contextlib
import hashlib
import os
import pickle
import platform
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from jills.contents import PURE, Same, Unseen, is_pure, read
from jills.functions import CONTENTS, Static

MOST_KEPT, LARGEST = 500, 2**20  # programs in a folder, bytes of one; those not used for longest go first
ABANDONED = 3600.0  # seconds after which a file that nobody has finished is removed
OF_THE_CACHE = ("jax_compilation_cache", "jax_persistent_cache", "jax_enable_compilation_cache")  # settings

_folder: list[Path] = []
"""Where they are kept; empty: nowhere."""


class Kept(NamedTuple):
    """A program of arrays, flat: leaves in, leaves out."""

    exported: export.Exported
    structure: Any  # of what it returns
    facts: Any  # what was told of its trace


def keep_in(folder: Path) -> None:
    """From now on programs are kept there."""
    _sources()  # as they are now, which is nearest to what was imported
    _folder[:] = [folder]
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def are_kept() -> bool:
    """Whether any are: not where arrays may lie on several devices, nor where JAX is to look at single operations."""
    config: Any = jax.config
    looks = config.jax_debug_nans or config.jax_debug_infs or config.jax_disable_jit
    return bool(_folder) and bool(_sources()) and jax.device_count() == 1 and not looks


def digest_of(function: Callable, static: tuple, args: tuple) -> str | None:
    """The name of a program in every process; None where what it is made of cannot be told.

    Args:
        function: of `static` and `args`.
        static: its first arguments.
        args: the others, pytrees of arrays.
    """
    leaves, structure = jax.tree.flatten(args)
    try:
        given = [_text(value) for value in (function, *static)], list(map(_shape, leaves)), _text_of(structure)
    except Unseen:
        return None
    return hashlib.sha256(repr((given, _settings(), _versions())).encode()).hexdigest()


def _text(value):
    """What is no array, in every process."""
    contents = value.key if isinstance(value, Static) else (CONTENTS, *read(value))
    if contents[0] != CONTENTS:
        raise Unseen("it is compared as Python does")
    _check_named(contents)
    return repr(contents)


def _check_named(contents):
    """Raises Unseen for a class of a user's, or what JAX made of a function: the name does not tell what is in it."""
    for part in contents:
        if isinstance(part, Same) and not is_pure(part.value):
            raise Unseen(f"{part}, a name only")
        if isinstance(part, tuple):
            _check_named(part)


def _text_of(structure):
    node = structure.node_data()
    if node is None:
        return f"leaf {structure.num_leaves}"
    kind, inside = node
    if not is_pure(kind) and kind is not type(None):
        raise Unseen(f"a {kind}")
    return f"{kind.__module__}.{kind.__qualname__}[{_text(inside)}]({', '.join(map(_text_of, structure.children()))})"


def _shape(leaf):
    if not hasattr(leaf, "dtype") or getattr(leaf, "weak_type", False):
        raise Unseen("a number that is no array")
    return f"{leaf.dtype}{leaf.shape}"


def _settings():
    config: Any = jax.config  # its attributes know of context managers, `read` does not
    told = [(name, str(getattr(config, name, None))) for name in sorted(config.values)]
    return [(name, value) for name, value in told if not name.startswith(OF_THE_CACHE)]


@cache
def _versions():
    """Of what functions are found in by name."""
    packages = sorted(PURE - {"jills"} - sys.stdlib_module_names)
    return platform.python_version(), [(name, _version(name)) for name in packages], _sources()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _sources():
    """A digest of those of jills; empty where it comes without."""
    root = Path(__file__).parent
    paths = sorted(root.rglob("*.py"))
    text = b"".join(f"{path.relative_to(root)}\n".encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(text).hexdigest() if paths else ""


def find(digest: str) -> Kept | None:
    """The program of a digest; None where there is none that can be read."""
    path = _path(digest)
    try:
        serialized, structure, facts = pickle.loads(path.read_bytes())
        kept = Kept(export.deserialize(bytearray(serialized)), structure, facts)
    except Exception:  # not there, cut off, or of another version
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    _ready_lapack()
    return kept


def make(digest: str, function: Callable, static: tuple, args: tuple, facts: Callable[[Any], Any]) -> Kept | None:
    """The program, traced, and kept where it can be written; None where it cannot be exported.

    Args:
        digest: of `digest_of`.
        function: of `static` and `args`.
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
        content = pickle.dumps((bytes(kept.exported.serialize()), *kept[1:]))
    except Exception:  # what is wrong with the arguments, the usual way tells
        return None
    if len(content) <= LARGEST:
        with contextlib.suppress(OSError):
            _write(_path(digest), content)
    return kept


def _path(digest):
    return _folder[0] / f"{digest}.traced"


def _write(path, content):
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    beside.write_bytes(content)
    os.replace(beside, path)
    used = {}
    for other in path.parent.glob("*.traced"):
        with contextlib.suppress(OSError):  # another process may have removed it
            used[other] = other.stat().st_mtime
    for old in sorted(used, key=used.__getitem__)[:-MOST_KEPT]:
        old.unlink(missing_ok=True)


@cache
def _ready_lapack():
    """JAX finds the routines of LAPACK when it first lowers one; a program that was lowered elsewhere would crash."""
    jax.jit(jnp.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))
