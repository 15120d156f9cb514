"""What a sweep shows between its chunks: a bar drawn by tqdm."""

from collections.abc import Callable
from typing import Any

import numpy as np

OnChunk = Callable[[int, np.ndarray, np.ndarray], Any]
"""`on_chunk(step, loss, stopped)`: steps done, and the loss and whether stopped, each `(H, S)`."""


def progress_bar(num_steps: int, label: str = "", stream=None) -> OnChunk:
    """An `on_chunk` that keeps one line up to date: steps done, pace, time left, median loss, members stopped.

    Args:
        num_steps: of the sweep.
        label: stands before the bar.
        stream: where to write; None: standard error.
    """
    from tqdm import tqdm  # not needed by a sweep that shows nothing

    bar = tqdm(total=num_steps, desc=label or None, unit="step", file=stream, dynamic_ncols=True)

    def show(step: int, loss: np.ndarray, stopped: np.ndarray) -> None:
        finite = loss[np.isfinite(loss)]
        median = f"{np.median(finite):.3g}" if finite.size else "none finite"
        bar.set_postfix_str(f"median loss {median}, {stopped.sum()} of {stopped.size} stopped", refresh=False)
        bar.update(step - bar.n)
        if step >= num_steps:
            bar.close()

    return show
