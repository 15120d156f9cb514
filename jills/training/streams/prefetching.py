"""Reading ahead in a thread."""

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import Any, TypeVar

from jills import checks

Item = TypeVar("Item")
PAUSE = 0.05  # seconds after which a reader that waits for room looks whether anybody still wants what it has


def prefetch(iterable: Iterable[Item], count: int = 2) -> Generator[Item, None, None]:
    """The items of an iterable, read in a thread of its own while the caller works on those before.

    Args:
        iterable: read by one thread only, from the first item that is asked for on.
        count: items that wait at most, besides the one in the reader's hands.

    Yields:
        The items in their order. An exception of the iterable is raised here, after the items before it. Once the
        caller stops (at the end, by `close`, or because nothing refers to this any more) so does the thread, after the
        item it is reading.
    """
    return _items(iterable, Queue(checks.checked_count("count", count)))


def _items(iterable, ready: Queue) -> Generator[Any, None, None]:
    stopped = threading.Event()
    reader = threading.Thread(target=_read, args=(iterable, ready, stopped), name="jills-prefetch", daemon=True)
    reader.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stopped.set()
        while True:  # makes room, so that the reader need not wait for its pause to end
            try:
                ready.get_nowait()
            except Empty:
                break


def _read(iterable, ready, stopped):
    """Passes items on until there are none, or nobody wants them."""
    try:
        for item in iterable:
            if not _put(ready, stopped, ("item", item)):
                break
        told = ("end", None)
    except BaseException as error:  # whatever it is, it is the caller's
        told = ("error", error)
    _put(ready, stopped, told)


def _put(ready, stopped, what):
    while not stopped.is_set():
        try:
            ready.put(what, timeout=PAUSE)
            return True
        except Full:
            pass
    return False
