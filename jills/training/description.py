"""An algorithm in words, a line each choice, so that a saved sweep knows what it was made with.

Known things go by their public names; functions of a user's own by name and a digest of their contents
(`jills.contents`), which is another once their code or what they have closed over is, and in another version of Python,
which compiles them otherwise.
"""

import hashlib
import sys
from dataclasses import fields
from typing import Any

from jills.contents import PLAIN, Unseen, is_pure, name_of, read
from jills.training.structure import public_name


def describe(algorithm: Any) -> str:
    """Class and fields of an algorithm, such as `network.sizes = (3, 5, 1)`, as lines."""
    return "\n".join([f"class = {_named(type(algorithm))}", *_lines("", algorithm)])


def differences(one: str, other: str) -> str:
    """Where two descriptions differ, for a message."""
    before, now = (dict(line.split(" = ", 1) for line in text.splitlines()) for text in (one, other))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = (f"{name} was {before.get(name, 'none')} and is {now.get(name, 'none')}" for name in names[:3])
    return ", ".join(told) + (", …" if len(names) > 3 else "")


def _lines(name, value: Any) -> list[str]:
    known = _constant(value)
    if known is not None:
        return [f"{name} = {known}"]
    start = f"{name}." if name else ""
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        kind = [f"{name} = {_named(type(value))}"] if name else []
        return kind + [line for each in fields(value) for line in _lines(start + each.name, getattr(value, each.name))]
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        kind = [f"{name} = {public_name(type(value))}"]
        return kind + [line for each in names for line in _lines(start + each, getattr(value, each))]
    if type(value) is tuple and not all(type(each) in PLAIN for each in value):
        return [line for place, inner in enumerate(value) for line in _lines(f"{name}[{place}]", inner)]
    return [f"{name} = {_text(value)}"]


def _constant(value):
    """The name of something that stands in the public module of its class, such as `jills.activations.tanh`."""
    module = type(value).__module__
    if not hasattr(value, "__dataclass_fields__") or not module.startswith("jills."):
        return None
    names = (name for name, other in vars(sys.modules[module]).items() if other == value and not name.startswith("_"))
    return next((f"{module}.{name}" for name in names), None)


def _text(value):
    if type(value) in PLAIN or type(value) is tuple:
        return repr(value)
    return _named(value)


def _named(value):
    if is_pure(value):
        return public_name(value)
    try:
        digest = hashlib.sha256(repr(read(value)).encode()).hexdigest()[:16]
    except Unseen:
        digest = "unknown"
    return f"{name_of(value)} {digest}"
