"""What a function consists of, read into a flat tuple: equal for functions that must give the same numbers.

A function is its code (not its name and its line), its defaults, what it has closed over, its attributes, and every
global that its code names, be it a number or another function, read in turn. Values count as they are when they are
read: arrays by dtype, shape and bytes, lists, dictionaries and objects by all that they hold. Of an object whose
method is read, only what the method names of it counts, unless the object leaves its hands as a whole.

Functions of the packages in `PURE` are what their name says. Whatever else cannot be seen through (a generator of
random numbers, an open file, an object of C, a tracer, a function that reads files or looks names up by `getattr`)
raises `Unseen`: then nothing is known, and the caller compares as Python does. A wrong "equal" would train on other
numbers than those given; a wrong "different" compiles once more.
"""

import builtins
import enum
import functools
import hashlib
import inspect
import sys
import types
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jills.bytecode import names_in

PURE = {
    *("jills", "jax", "jaxlib", "numpy", "optax", "chex", "ml_dtypes"),
    *("abc", "builtins", "cmath", "collections", "copy", "dataclasses", "enum", "functools", "itertools", "math"),
    *("numbers", "operator", "reprlib", "types", "typing", "warnings"),
}
"""Packages whose functions depend on their arguments only, but for `numpy.random` and those of `IMPURE`."""

IMPURE = {"fromfile", "fromregex", "genfromtxt", "load", "load_model", "loadtxt", "memmap", "open_memmap"}
OPAQUE = {
    *("__import__", "compile", "dir", "eval", "exec", "getattr", "globals", "hasattr", "id", "input", "locals"),
    *("open", "vars"),
}
"""Built-in functions after which it is unknown what is read."""

MOST = 20_000  # values; more would take longer to read than they are worth

PLAIN = (type(None), bool, int, str, bytes, float, complex, range, type(...), type(NotImplemented))
DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    type(NamedTuple("_Field", [("field", int)]).field),  # pyright: ignore[reportAttributeAccessIssue]
)
BOOKKEEPING = {
    *("__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__"),
    *("__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__"),
    *("__module__", "__orig_bases__", "__parameters__", "__qualname__", "__slotnames__", "__static_attributes__"),
    *("__weakref__", "_abc_impl"),
}
"""Of a class, what its methods do not depend on."""


class Unseen(Exception):
    """Something cannot be seen through."""


class Same:
    """Equal to itself only, by identity; its label stands for it where processes are compared."""

    def __init__(self, value: Any, label: str):
        self.value = value  # kept alive, lest another gets its id
        self.label = label

    def __eq__(self, other):
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)

    def __repr__(self):
        return self.label


def read(value: Any) -> tuple:
    """The contents of a value; hashable.

    Raises:
        Unseen: they cannot be known.
    """
    reader = _Reader()
    try:
        reader.add(value)
    except Unseen:
        raise
    except Exception as error:  # objects of users may raise anything, or be nested too deeply
        raise Unseen(repr(error)) from error
    return tuple(reader.parts)


def is_pure(value: Any) -> bool:
    """Whether a class or function is found by its name in one of the packages `PURE`."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not (isinstance(module, str) and isinstance(name, str) and _is_pure_module(module)) or name in IMPURE:
        return False
    found = sys.modules.get(module)
    for part in name.split("."):
        found = vars_of(found).get(part)
    return found is value


def name_of(value: Any) -> str:
    """Module and name of a class or function, or of the class of another value."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{named.__qualname__}"


def _is_pure_module(name):
    return name.partition(".")[0].lstrip("_") in PURE and not name.startswith("numpy.random")


class _Reader:
    def __init__(self):
        self.parts = []
        self.count = 0
        self.met = {}  # id → place, and the value, lest a later one gets its id

    def add(self, value: Any) -> None:
        """Appends the contents of a value."""
        self.count += 1
        if self.count > MOST:
            raise Unseen(f"more than {MOST} values")
        if type(value) in PLAIN:
            kind = type(value).__name__
            # Numbers that are equal are not yet the same: 1 and True, 0.0 and -0.0.
            self.parts += (kind, value) if kind in ("str", "bytes", "int", "bool") else (kind, repr(value))
        elif not self._again(id(value), value):
            self._composed(value)

    def _again(self, mark, *values):
        """Whether something has been read already: then its place is enough."""
        if mark in self.met:
            self.parts += ("again", self.met[mark][0])
            return True
        self.met[mark] = (len(self.met), values)
        return False

    def _composed(self, value):
        match value:
            case types.ModuleType() if value.__name__.partition(".")[0] == "jax":
                self.parts.append(Same(value, value.__name__))
            case Tracer() | types.ModuleType():
                raise Unseen(f"a {type(value).__name__}")
            case _ if is_pure(value) or isinstance(value, DESCRIPTORS):
                self.parts.append(Same(value, name_of(value)))
            case _ if isinstance(value, _JITTED):
                self.parts.append(Same(value, name_of(value)))
                self.add(getattr(value, "__wrapped__", None))
            case jax.Array() | np.ndarray() | np.generic() | np.dtype():
                self.parts += _of_array(value)
            case list() | tuple() | dict() | set() | frozenset() | bytearray() if _is_container(value):
                self._container(value)
            case types.CodeType():
                self._code(value)
            case types.FunctionType():
                self._function(value)
            case types.MethodType():
                self._bound(value)
            case types.BuiltinFunctionType() if not isinstance(value.__self__, types.ModuleType | None):
                self.parts += ("built in", value.__name__)
                self.add(value.__self__)
            case enum.Enum():
                self.parts += ("member", Same(value, f"{name_of(value)}.{value.name}"))
                self.add(type(value))
            case _ if isinstance(value, types.UnionType | types.GenericAlias) or type(value).__module__ == "typing":
                self.parts += ("annotation", repr(value))
            case functools.partial():
                self._all("partial", value.func, value.args, value.keywords)
            case property():
                self._all("property", value.fget, value.fset, value.fdel)
            case staticmethod() | classmethod():
                self._all(type(value).__name__, value.__func__)
            case type():
                self._class(value)
            case _:
                self._object(value)

    def _all(self, kind, *values):
        self.parts += (kind, len(values))
        for value in values:
            self.add(value)

    def _container(self, value):
        if isinstance(value, set | frozenset):
            if not all(type(each) in PLAIN for each in value):
                raise Unseen(f"a set of other values than numbers and texts: {value!r}")
            self.parts += (type(value).__name__, tuple(sorted(f"{type(each).__name__} {each!r}" for each in value)))
        elif isinstance(value, bytearray):
            self.parts += ("bytearray", bytes(value))
        else:
            if type(value) not in (tuple, list, dict):
                self.add(type(value))
            pairs = isinstance(value, dict)
            self._all(type(value).__name__, *([each for pair in value.items() for each in pair] if pairs else value))

    def _code(self, code):
        numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.parts += ("code", code.co_code, code.co_exceptiontable, numbers, names)
        self._all("constants", *code.co_consts)

    def _function(self, function, instance=None):
        code, names = function.__code__, names_in(function.__code__)
        self.add(code)
        self._all("function", function.__defaults__, function.__kwdefaults__, vars(function))
        module = str(function.__globals__.get("__name__"))
        pure = _is_pure_module(module)
        if pure and function.__name__ in IMPURE:
            raise Unseen(f"{name_of(function)} reads files")
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            chains = sorted(each[1:] for each in names.closed_over if each[0] == name and not pure)
            for chain in chains or [()]:
                self.parts += ("cell", name)
                self._cell(cell, chain)
        if pure:  # made by a function of such a package: what it reads there does not change
            self.parts.append(Same(function.__globals__, module))
            return
        if names.imports:
            raise Unseen(f"{name_of(function)} imports modules when it is called")
        for root, *chain in sorted(names.globals):
            self.parts += ("global", root)
            self._global(function, root, chain)
        if instance is not None:
            if names.first is None:
                self.add(instance)
            for chain in sorted(names.first or ()):
                self._attribute(instance, *chain)

    def _cell(self, cell, chain):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            self.parts.append("empty")
        else:
            self._reach(value, chain)

    def _global(self, function, root, chain):
        known = function.__globals__
        if root in known:
            self._reach(known[root], chain)
        elif root in OPAQUE:
            raise Unseen(f"{name_of(function)} calls {root}")
        elif hasattr(builtins, root):
            self._reach(getattr(builtins, root), chain)
        else:
            self.parts.append("missing")

    def _reach(self, value, chain):
        """What a chain of attributes leads to; a module itself is never looked at as a whole."""
        chain = list(chain)
        while chain and isinstance(value, types.ModuleType):
            name = chain.pop(0)
            if name not in vars(value):
                raise Unseen(f"{value.__name__} has no {name} yet")
            value = vars(value)[name]
        if chain and _is_open(value):
            self._attribute(value, *chain)
        else:
            self.add(value)

    def _bound(self, method):
        function, instance = method.__func__, method.__self__
        if isinstance(function, types.FunctionType) and _is_open(instance):
            self._method(function, instance)
        else:
            self._all("method", function, instance)

    def _method(self, function, instance):
        self.parts.append("method")
        if not self._again((id(function), id(instance)), function, instance):
            self._function(function, instance)

    def _attribute(self, instance, name, *rest):
        """Of an object, what code names of it: an attribute of its own, or of its class."""
        self.parts += ("attribute", name)
        found = inspect.getattr_static(type(instance), name, _MISSING)
        if name in vars(instance) and not hasattr(type(found), "__set__"):
            self._reach(vars(instance)[name], rest)
        elif isinstance(found, property) and isinstance(found.fget, types.FunctionType):
            self._method(found.fget, instance)
        elif isinstance(found, types.FunctionType) and not rest:
            self._method(found, instance)
        elif found is not _MISSING and not hasattr(type(found), "__get__"):
            self._reach(found, rest)
        else:
            self.add(instance)

    def _class(self, kind):
        if _is_foreign(kind) or _is_pure_module(kind.__module__) or kind.__module__.startswith("numpy."):
            raise Unseen(f"{kind!r} cannot be read")
        self.parts += ("class", Same(kind, name_of(kind)))
        if type(kind) is not type and not is_pure(type(kind)):
            self.add(type(kind))
        for name, value in vars(kind).items():
            if name not in BOOKKEEPING:
                self.parts.append(name)
                self.add(value)
        for base in kind.__bases__:
            self.add(base)

    def _object(self, value):
        """All that pickle would keep of an object, if its class lets pickle have its way."""
        if not _is_transparent(type(value)):
            raise Unseen(f"a {name_of(value)}")
        try:
            _, arguments, *state = object.__reduce_ex__(value, 2)
        except TypeError as error:  # it holds more than its attributes
            raise Unseen(str(error)) from None
        self._all("object", *arguments, state[0], *(None if each is None else list(each) for each in state[1:3]))


_MISSING = object()
_JITTED = type(jax.jit(lambda: 0))  # such a function keeps what it has traced: it is known by identity anyway


def _is_container(value):
    return type(value) in (list, tuple, dict, set, frozenset, bytearray) or (
        isinstance(value, tuple) and hasattr(type(value), "_fields") and not vars_of(value)
    )


def vars_of(value: Any) -> dict:
    """The attributes of an object; none where it cannot have any."""
    return getattr(value, "__dict__", {})


def _is_transparent(kind):
    """Whether a class leaves it to Python what its objects hold."""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is object.__getstate__
    )


def _is_open(value):
    """Whether attributes of an object are what its `__dict__` and its class, a user's, say."""
    kind = type(value)
    return (
        _is_transparent(kind)
        and not is_pure(kind)
        and isinstance(getattr(value, "__dict__", None), dict)
        and not isinstance(value, types.FunctionType | type)
        and kind.__getattribute__ is object.__getattribute__
    )


def _is_foreign(kind):
    """Whether a class is not written in Python: it has methods of C of its own."""
    in_c = (types.MethodDescriptorType, types.WrapperDescriptorType)
    return any(isinstance(value, in_c) and value.__objclass__ is kind for value in vars(kind).values())


def _of_array(value) -> tuple:
    if isinstance(value, np.dtype):
        return ("dtype", value)
    if isinstance(value, jax.Array):
        return _of_jax_array(value)
    if type(value) not in (np.ndarray, np.memmap) and not isinstance(value, np.generic):
        raise Unseen(f"{type(value).__name__}, a kind of array of its own")
    kind = "scalar" if isinstance(value, np.generic) else "array"
    return (kind, value.dtype, value.shape, _digest(value))


def _of_jax_array(value) -> tuple:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ("keys", value.dtype, *_of_jax_array(jax.random.key_data(value)))
    place = value.sharding if value.committed else None
    mark = id(value)
    known = _DIGESTS.get(mark)
    if known is None or known[0]() is not value:
        known = (weakref.ref(value, lambda _: _DIGESTS.pop(mark, None)), _digest(np.asarray(value)))
        _DIGESTS[mark] = known
    return ("jax", value.dtype, value.shape, value.weak_type, place, known[1])


_DIGESTS: dict[int, tuple[Any, bytes]] = {}
"""Of arrays of JAX, which cannot change: id → weak reference, and digest."""


def _digest(array):
    # NumPy refuses this view of an array of objects.
    rows = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.blake2b(rows.data, digest_size=16).digest()
