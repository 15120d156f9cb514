"""What a function consists of, as a key that is equal for functions that must give the same numbers.

A function is its code (not its name and its line), its defaults, its attributes, what it has closed over, and every
global that its code names. Of these, numbers, texts, arrays (by their bytes), tuples, lists, dictionaries, frozen
dataclasses, `functools.partial`, bound methods and other functions are read in turn, as they are now; functions,
classes and modules of the packages in `PURE` are what their name says. Anything else (a tracer, an object that may
change, a module or a class of a user's, a function that opens a file) raises `Unseen`, and the caller compares as
Python does: a wrong "equal" would train on other numbers than those given, a wrong "different" compiles once more.
"""

import dataclasses
import dis
import functools
import hashlib
import itertools
import sys
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

PURE = {
    *("jills", "jax", "jaxlib", "numpy", "optax", "chex", "ml_dtypes"),
    *("builtins", "cmath", "collections", "dataclasses", "functools", "itertools", "math", "operator", "typing"),
}
"""Packages whose functions depend on their arguments alone, but for what `OPAQUE` names."""

OPAQUE = {
    *("open", "eval", "exec", "globals", "locals", "vars", "dir", "id", "input", "__import__", "getattr", "hasattr"),
    *("fromfile", "fromregex", "genfromtxt", "load", "load_model", "loadtxt", "memmap", "open_memmap"),
}
"""Names after which it is unknown what a function reads."""

MADE = {
    *("__init__", "__new__", "__post_init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__setattr__", "__delattr__", "__getnewargs__", "__replace__", "__annotate__", "__annotate_func__"),
    *("_fields", "_field_defaults", "_make", "_replace", "_asdict", "_abc_impl"),
}
"""Of the class of a frozen value, what its other methods do not depend on; most are made by Python."""

PLAIN = (type(None), bool, int, str, bytes, float, complex, range, type(...), np.dtype)
MOST = 10_000  # values; more would take longer to read than they are worth


class Unseen(Exception):
    """Something cannot be read."""


class Same:
    """Equal to itself only, by identity; a name stands for it where processes are compared."""

    def __init__(self, value: Any):
        self.value = value  # kept alive, lest another gets its id

    def __eq__(self, other):
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)

    def __repr__(self):
        return name_of(self.value)


def read(value: Any) -> tuple:
    """The contents of a value; hashable.

    Raises:
        Unseen: they cannot be known.
    """
    try:
        return _Reader().read(value)
    except RecursionError:
        raise Unseen("it is nested too deeply") from None


def is_pure(value: Any) -> bool:
    """Whether a class or function is found by its name in one of the packages `PURE`."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not (isinstance(module, str) and isinstance(name, str) and _is_pure_module(module)) or name in OPAQUE:
        return False
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _is_pure_module(name):
    return name.partition(".")[0].lstrip("_") in PURE and not name.startswith("numpy.random")


def name_of(value: Any) -> str:
    """Module and name of a class or function, or of the class of another value."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{named.__qualname__}"


class _Reader:
    """Reads one value; remembers what it has met, so that a function may name itself."""

    def __init__(self):
        self.met: dict[int, tuple[int, Any]] = {}
        self.count = 0

    def read(self, value: Any) -> tuple:
        """See `read`."""
        self.count += 1
        if self.count > MOST:
            raise Unseen(f"more than {MOST} values")
        if isinstance(value, PLAIN) and not isinstance(value, np.generic):
            if type(value) not in PLAIN and not isinstance(value, np.dtype):
                raise Unseen(f"a {name_of(value)}")
            return (type(value).__name__, repr(value))  # 1 is not True, nor 0.0 -0.0
        if id(value) in self.met:
            return ("again", self.met[id(value)][0])
        self.met[id(value)] = (len(self.met), value)
        return self._composed(value)

    def _all(self, kind, values):
        return (kind, *map(self.read, values))

    def _composed(self, value):
        match value:
            case types.ModuleType() if _is_pure_module(value.__name__):
                return ("module", value.__name__)
            case _ if is_pure(value):
                return ("named", Same(value))
            case np.ndarray() | np.generic() | jax.Array() if not isinstance(value, Tracer):
                return _of_array(value)
            case tuple() | list() if type(value) in (tuple, list):
                return self._all(type(value).__name__, value)
            case dict() if type(value) is dict:
                return self._all("dict", [each for pair in value.items() for each in pair])
            case tuple() if hasattr(type(value), "_fields") and type(value).__base__ is tuple:
                return (self.read(type(value)), *map(self.read, tuple(value)))
            case type() if hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__"):
                return self._class(value)
            case functools.partial() if type(value) is functools.partial and not vars(value):
                return self._all("partial", (value.func, value.args, value.keywords))
            case types.MethodType():
                return self._all("method", (value.__func__, value.__self__))
            case types.FunctionType():
                return self._function(value)
            case types.CodeType():
                return self._code(value)
            case _ if isinstance(value, _JITTED):  # it keeps what it has traced: two of them are never alike
                return ("jitted", Same(value), self.read(getattr(value, "__wrapped__", None)))
        if _is_frozen(value):
            fields = (self.read(getattr(value, each.name)) for each in dataclasses.fields(value))
            return (self.read(type(value)), *fields)
        raise Unseen(f"a {name_of(value)}")

    def _code(self, code):
        if _names(code).imports or OPAQUE & set(code.co_names):
            raise Unseen(f"{code.co_name} may read what is not known")
        numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return (code.co_code, code.co_exceptiontable, numbers, names, self._all("constants", _ordered(code.co_consts)))

    def _class(self, kind):
        """Of a NamedTuple or dataclass: its methods, and values that stand in the class."""
        fields = {*getattr(kind, "_fields", ()), *getattr(kind, "__dataclass_fields__", ())}
        parts = [
            (name, self.read(getattr(each, "fget", getattr(each, "__func__", each))))
            for base in kind.__mro__
            if not is_pure(base)
            for name, each in vars(base).items()
            if name not in fields | MADE and (not name.startswith("__") or isinstance(each, types.FunctionType))
        ]
        return (Same(kind), *parts)

    def _function(self, function):
        known, names = function.__globals__, _names(function.__code__)
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:
            raise Unseen("a cell that is empty yet") from None
        closed_over = dict(zip(function.__code__.co_freevars, cells, strict=True))
        if any((known | closed_over).get(owner) is not jax for owner in names.owners):
            raise Unseen(f"{name_of(function)} may draw from numpy.random")
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, vars(function), cells)
        return (
            *self._all("function", parts),
            *((name, self.read(known[name])) for name in sorted(names.globals) if name in known),
        )


_JITTED = type(jax.jit(lambda: 0))


def _ordered(constants):
    """Sets among constants as tuples, in an order that does not depend on the process."""
    return [tuple(sorted(map(repr, each))) if isinstance(each, frozenset) else each for each in constants]


class _Names(NamedTuple):
    """What a code and those inside it name."""

    globals: frozenset[str]
    owners: frozenset[str]  # of what `.random` is taken; "" where that has no name outside of the code
    imports: bool


@functools.lru_cache(maxsize=4096)
def _names(code) -> _Names:
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    inside = [_names(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    named = [step.argval for step in steps if step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT"))]
    owners = [
        before.argval if before.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") else ""
        for before, step in itertools.pairwise(steps)
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval == "random"
    ]
    return _Names(
        frozenset(named).union(*(each.globals for each in inside)),
        frozenset(owners).union(*(each.owners for each in inside)),
        any(step.opname == "IMPORT_NAME" for step in steps) or any(each.imports for each in inside),
    )


def _is_frozen(value):
    """Whether an object is a frozen dataclass that holds nothing but its fields."""
    settings: Any = getattr(type(value), "__dataclass_params__", None)
    if settings is None or not settings.frozen or isinstance(value, type):
        return False
    return set(getattr(value, "__dict__", ())) <= {each.name for each in dataclasses.fields(value)}


def _of_array(array):
    if isinstance(array, jax.Array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return ("keys", str(array.dtype), *_of_array(jax.random.key_data(array)))
        place = str(array.sharding) if array.committed else ""
        return ("jax", array.weak_type, place, *_of_array(np.asarray(array)))
    if (type(array) not in (np.ndarray, np.memmap) and not isinstance(array, np.generic)) or array.dtype.hasobject:
        raise Unseen(f"a {name_of(array)}, a kind of array of its own")
    digest = hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).digest()
    return (type(array).__name__, array.dtype.str, str(array.dtype), array.shape, digest)
