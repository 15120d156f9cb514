"""The loop over a stream: what has been done so far, and how it is kept."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jills import results
from jills.arrays import native_dtype
from jills.training.streams import steps
from jills.training.streams.prefetching import prefetch
from jills.training.streams.setup import Record, Setup
from jills.types import Params, State

AHEAD = 4  # steps that wait to be computed: enough to keep a device busy, and few batches to keep
SHOWN = 100  # losses whose mean the progress bar shows
SHOW_SECONDS = 0.5  # between two texts behind it


class Training:
    """A training under way. It changes with each step, and so is never handed out."""

    def __init__(self, setup: Setup, start: Params | State):
        """From the training's file, or else from a start."""
        kept = setup.kept()
        record = None if kept is None else kept.record
        start = start if kept is None else kept.state
        self._setup, self._start = setup, start
        self._state: Any = None
        self._judge: Any = None  # validation rows, prepared
        self._losses = [] if record is None else record.loss.tolist()
        self._pending = deque()  # losses that may not be computed yet
        self._looks = [] if record is None else list(zip(record.validation_step, record.validation, strict=True))
        self._position = (0, 0) if record is None else (record.epoch, record.batch)
        self._interrupted = False
        if isinstance(start, State):
            # A copy, since a step gives its state up.
            self._enter(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), start))

    @property
    def done(self) -> int:
        """Steps."""
        return len(self._losses) + len(self._pending)

    def run(self, asked: Callable[[], bool], show: Any) -> tuple[State, Record]:
        """Takes steps until their end, or until `asked` says so.

        Args:
            asked: whether Ctrl-C was pressed.
            show: a progress bar.
        """
        setup = self._setup
        epoch, first = self._position
        batches = steps.checked_batches(setup.static.value, self._dtype, setup.source, epoch, first, setup.epochs)
        with closing(prefetch(islice(batches, self._left()))) as ready:
            self._take(ready, asked, show)
        self._save()
        # Not for the file: from there on the next look is where it would have been without this end.
        if self._judge is not None and self._looks[-1][0] != self.done:
            self._look()
        self._tell(show)
        return self._state, self._record()

    def _take(self, batches: Iterator, asked, show):
        saved = told = time.monotonic()
        while (item := self._next(batches)) is not None:
            self._position, batch = item
            if self._state is None:
                self._enter(self._setup.static.value.init(self._start, batch))
            self._step(batch)
            show.update()
            now = time.monotonic()
            if now - told >= SHOW_SECONDS:
                told = now
                self._tell(show)
            self._interrupted = asked()
            if self._interrupted or self._has_ended():
                return
            if now - saved >= self._setup.seconds:
                saved = now
                self._save()

    def _next(self, batches):
        """The next batch and its position; None where there are no more."""
        try:
            return next(batches, None)
        except Exception:
            self._save()
            raise

    def _step(self, batch):
        static, is_judged = self._setup.static, self._judge is not None
        self._state, loss = steps.step(static, is_judged, self._setup.hparams, self._state, batch)
        self._pending.append(loss)
        self._collect(AHEAD)
        if is_judged and self.done % self._setup.every == 0:
            self._look()

    def _enter(self, state):
        """Begins with a state, seen on the validation rows."""
        if self._setup.given is not None:
            state, self._judge, loss = steps.enter(self._setup.static, state, self._setup.given)
            if not self._looks:
                self._looks.append((self.done, np.asarray(loss)))
        self._state = state

    def _look(self):
        """At the validation rows."""
        waited = np.int32(self.done - self._looks[-1][0])
        self._state, loss = steps.judge(self._setup.static, self._state, self._judge, waited)
        self._looks.append((self.done, np.asarray(loss)))

    def _has_ended(self):
        """Whether a loss is not finite, or patience has come to an end; without waiting for what is not computed."""
        failed = self._losses and not np.isfinite(self._losses[-1])
        looked = self._judge is not None and self._looks[-1][0] == self.done
        return failed or (looked and int(self._state.result) != results.RUNNING)

    def _left(self):
        """Steps to take; None: as many as there are batches."""
        if self._state is not None and int(self._state.result) != results.RUNNING:
            return 0
        return None if self._setup.num_steps is None else max(0, self._setup.num_steps - self.done)

    def _collect(self, ahead):
        while len(self._pending) > ahead:
            self._losses.append(float(self._pending.popleft()))

    def _record(self):
        self._collect(0)
        places, losses = zip(*self._looks, strict=True) if self._looks else ((), ())
        kept = (np.array(self._losses, self._dtype), np.array(losses, self._dtype), np.array(places, np.int32))
        return Record(*kept, *self._position, self._interrupted)

    def _save(self):
        if self._state is not None:
            self._setup.keep(self._state, self._record())

    def _tell(self, show):
        recent = self._losses[-SHOWN:]
        words = [f"loss {np.mean(recent):.4g}"] if recent else []
        words += [f"validation {self._looks[-1][1]:.4g}"] if self._looks else []
        show.set_postfix_str(", ".join(words), refresh=False)

    @property
    def _dtype(self):
        start = self._start.params if isinstance(self._start, State) else self._start
        return native_dtype(start[0].weight)
