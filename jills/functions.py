"""Functions and whatever holds them as static arguments of `jax.jit`: equal contents, one program.

JAX tells functions apart by identity, so that a lambda made anew compiles anew, and a function around which something
has changed (a number that it has closed over, a helper that was defined again) goes on with its old program. Here its
contents decide, as they are when `run` or `sweep` is called, see `jills.contents`. What cannot be seen through is
compared as before, by `==`.
"""

from typing import Any

from jills.contents import Unseen, read

_SAME: dict[tuple, tuple] = {}
"""Contents → those of the same function before it was traced, where tracing changed them."""
_MOST_KEPT = 1000
CONTENTS = "contents"  # the first word of keys that are the same in every process


class Static:
    """A value for a static argument of `jax.jit`: hashable, and equal where the contents were equal when it was made.

    Attributes:
        value: a function, an algorithm; a function may be called without unwrapping it.
    """

    def __init__(self, value: Any):
        self.value = value
        self.seen = _contents(value)
        self.key = _SAME.get(self.seen, self.seen)
        self._hash = hash(self.key)

    def __call__(self, *args, **kwargs):
        """Calls the function."""
        return self.value(*args, **kwargs)

    def __eq__(self, other):
        return isinstance(other, Static) and self.key == other.key

    def __hash__(self):
        return self._hash


def settle(*statics: Any) -> None:
    """To be called with each `Static` at the end of a trace: what it changed meanwhile does not make another of it.

    As of a function that counts its calls, or keeps what it has found: JAX traces it once, and so do we.
    """
    for static in statics:
        after = _contents(static.value)
        if after != static.seen:
            if len(_SAME) >= _MOST_KEPT:
                _SAME.clear()
            _SAME[after] = static.key


class _AsPython:
    """Compared by the `==` of a value, or by identity where it has no hash."""

    def __init__(self, value):
        self.value = value
        try:
            self._hash = hash(value)
        except TypeError:
            self._hash = None

    def __eq__(self, other):
        if not isinstance(other, _AsPython) or None in (self._hash, other._hash):
            return isinstance(other, _AsPython) and self.value is other.value
        return self.value == other.value

    def __hash__(self):
        return id(self.value) if self._hash is None else self._hash


def _contents(value) -> tuple:
    try:
        return (CONTENTS, *read(value))
    except Unseen:
        return ("as Python", _AsPython(value))
