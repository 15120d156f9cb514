"""What a training on a stream is made with, what it tells, and its file."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jills.functions import Static
from jills.training.checkpoint import load, save
from jills.training.description import differences
from jills.training.spread import saved
from jills.training.validation import Validation
from jills.types import State


class Record(NamedTuple):
    """How a training on a stream went."""

    loss: np.ndarray  # (T,) of the parameters that each step received, on its batch
    validation: np.ndarray  # (V,) losses on the validation rows
    validation_step: np.ndarray  # (V,) int32, steps taken before each
    epoch: int  # where the stream stands: of the last batch
    batch: int  # batches of that epoch so far
    interrupted: bool  # by Ctrl-C


class Checkpoint(NamedTuple):
    """What the file of a training holds; `jills.load` reads it."""

    state: State
    record: Record
    described: str  # with what it was made, in words


class Setup(NamedTuple):
    """What stays the same in a call of `fit`."""

    static: Static  # the algorithm
    hparams: Any
    source: Any  # of batches
    num_steps: int | None
    epochs: int | None
    given: Validation | None
    every: int  # steps between two looks at the validation rows
    path: Path | None
    seconds: float  # between two checkpoints
    described: str

    def kept(self) -> Checkpoint | None:
        """What the file of this training holds; None where there is none yet."""
        if self.path is None or saved(self.path) is None:
            return None
        kept = load(self.path)
        if not isinstance(kept, Checkpoint):
            raise ValueError(f"{self.path} holds something else than a training on a stream; give another checkpoint=")
        if kept.described != self.described:
            raise ValueError(
                f"{self.path} is of a training with others ({differences(kept.described, self.described)}); give the "
                "same or another file, or, to go on with others on purpose, jills.load(path).state in place of params "
                "and another file"
            )
        return kept

    def keep(self, state: State, record: Record) -> None:
        """Writes the file, if there is to be one: whole or not at all."""
        if self.path is not None:
            save(self.path, Checkpoint(state, record._replace(interrupted=False), self.described))
