"""What a sweep returns, and what it remembers of how it was made."""

from typing import Any, NamedTuple

from jills.types import Info, State


class SweepResult(NamedTuple):
    """What a sweep returns."""

    state: State  # leaves [H, S, …]
    info: Info  # NumPy leaves [H, S, T, …]
    num_steps: int  # T; less than asked for only if interrupted
    interrupted: bool  # by Ctrl-C or an error of `on_chunk`: then the last whole chunk is what is kept
    compile_seconds: float  # tracing and compilation
    run_seconds: float  # all chunks together, without compilation
    error: Exception | None = None  # that `on_chunk` raised: it ends a sweep as Ctrl-C does
    keys: Any = None  # (S,)
    hparams: Any = None  # NumPy leaves (H,)
    algorithm: str = ""  # what it was, in words: see `jills.training.description`
