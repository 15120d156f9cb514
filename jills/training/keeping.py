"""Checkpoints of a running sweep: written in a thread of their own, while training goes on."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jills.arrays import brief, is_number
from jills.training.checkpoints import Found, Written, write
from jills.training.chunks import Keep, Plan, Progress
from jills.training.records import Records
from jills.warn import warn

log = logging.getLogger("jills")


def checked_seconds(value: Any) -> float:
    """The least time between two checkpoints; raises ValueError where it is no number, negative or NaN."""
    if isinstance(value, bool) or not is_number(value) or np.ndim(value) or not float(value) >= 0:
        raise ValueError(f"checkpoint_seconds is {brief(value)}, but must be a number of at least 0 (after each chunk)")
    return float(value)


def keeping(records: Records | None, keeper: "Keeper | None") -> Keep:
    """Records to the disk first, then checkpoints, which count on them; either may be None."""

    def keep(progress: Progress, is_last: bool) -> Progress:
        if records is not None and not is_last:
            progress = records.take(progress)
        if keeper is not None:
            keeper(progress, is_last)
        return progress

    return keep


class Keeper:
    """Checkpoints in the course of `jills.training.chunks.drive`: one at a time, and one more in the end.

    What cannot be written is warned of once, until it can be, and tried again at the next interval: training does not
    depend on a disk.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        found: Found | None,
        plan: Plan,
        tier: str,
        is_terminated: Callable[[], bool],
    ):
        self._is_terminated = is_terminated
        self._folder, self._seconds, self._plan, self._tier = folder, seconds, plan, tier
        self._written = Written.of(found)
        self._pool = ThreadPoolExecutor(1, "jills-checkpoints")
        self._writing: Future[Written] | None = None
        self._began = time.monotonic()
        self._warned = False

    def __call__(self, progress: Progress, is_last: bool) -> None:
        """Begins a checkpoint where one is due; the last one is waited for. Where SIGTERM came, it ends the loop."""
        if is_last:
            self._end(progress)
        elif self._is_terminated():
            raise KeyboardInterrupt
        elif time.monotonic() - self._began >= self._seconds and not self._is_busy():
            self._begin(progress)

    def _is_busy(self):
        """Whether the next checkpoint has to wait for the one before. With one after each chunk, training waits."""
        return self._seconds > 0 and self._writing is not None and not self._writing.done()

    def _begin(self, progress):
        self._settle()
        if progress.done > self._written.done:
            self._began = time.monotonic()
            arguments = (self._folder, self._written, progress, self._plan, self._tier)
            self._writing = self._pool.submit(write, *arguments)

    def _settle(self):
        """Waits for the checkpoint that is being written, and remembers what became of it."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            self._written, self._warned = writing.result(), False
        except Exception as error:
            log.warning("no checkpoint in %s: %r", self._folder, error)
            if not self._warned:
                self._warned = True
                warn(
                    f"no checkpoint could be written to {self._folder}: {error}; the last one there is of step "
                    f"{self._written.done}; training goes on, and so do attempts"
                )

    def _end(self, progress):
        try:
            self._begin(progress)
            self._settle()
        finally:  # a second Ctrl-C does not wait
            self._pool.shutdown(wait=False)
