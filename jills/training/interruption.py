"""Signals that ask a training to end, heeded between two steps or chunks."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax


@contextmanager
def interruption(number: int = signal.SIGINT) -> Iterator[Callable[[], bool]]:
    """A function that tells whether a signal came: Ctrl-C, unless another is given.

    The first time it does nothing else: a step gives up its state before the next one is there, and may not be cut in
    two. The second time it is as ever.
    """
    asked = threading.Event()
    before = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield asked.is_set  # no signal arrives here, or none is wanted
        return

    def note(*_):
        asked.set()
        signal.signal(number, before)

    signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(number, before)


@contextmanager
def termination(is_heeded: bool) -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGTERM came, as Slurm and Kubernetes send it some time before they kill.

    What is within has that time to end. Then the signal comes again, to do what it would have done at once.

    Args:
        is_heeded: False: it does so at once.
    """
    # Under `jax.distributed` JAX handles it, in a way that Python does not know of and could not restore.
    if not is_heeded or jax.distributed.is_initialized():
        yield lambda: False
        return
    asked = lambda: False  # noqa: E731 until there is one
    try:
        with interruption(signal.SIGTERM) as asked:
            yield asked
    finally:
        if asked():
            signal.raise_signal(signal.SIGTERM)
