"""Warnings, which point at the line outside of jills that led to them."""

import sys
import warnings

INSIDE = ("jills", "jax")  # packages whose lines say nothing to who reads a warning


def warn(message: str) -> None:
    """Warns of a line of the caller's, however deep inside of jills this is found.

    Python's own `stacklevel` counts frames, and a count is wrong as soon as a function is put in between.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
