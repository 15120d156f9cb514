"""What the measuring scripts share: a progress line, Ctrl-C, timing of a sweep, memory of the process, styles."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import jills
from experiments import figures, records
from experiments.compare import uninterrupted


def style(name: str) -> dict:
    """Colour, line and mark of an algorithm, the same in all figures."""
    return {
        "color": figures.COLOURS[name],
        "linestyle": figures.LINES[name],
        "marker": figures.MARKS[name],
        "markersize": 4,
    }


def subplots(rows: int, columns: int):
    """A figure of that many panels."""
    size = (3.4 * columns + 0.6, 2.8 * rows + 0.4)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, sharey="row", layout="constrained")


def close(figure) -> None:
    """Frees a figure that is written."""
    plt.close(figure)


def write_environment(folder: Path) -> None:
    """Versions and device, beside results."""
    text = json.dumps(records.environment(), indent=2)
    (folder / "environment.json").write_text(text + "\n", encoding="utf-8")


def collect(rows: Iterable[dict], count: int, label: Callable[[dict], str], stream=None) -> tuple[list[dict], bool]:
    """The rows as a list, with a progress line; and whether Ctrl-C cut it short, which keeps what came before it."""
    stream, done, began = sys.stderr if stream is None else stream, [], time.perf_counter()
    try:
        for row in rows:
            done.append(row)
            bar = "#" * round(20 * len(done) / count)
            text = f"[{bar:.<20s}] {len(done)}/{count} {label(row)}, {time.perf_counter() - began:.0f} s"
            print(f"\r{text:<100s}", end="\n" if len(done) == count else "", file=stream, flush=True)
    except KeyboardInterrupt:
        return done, True
    return done, False


def where(table: pd.DataFrame, mask) -> pd.DataFrame:
    """The rows of a table where the mask holds."""
    return pd.DataFrame(table[np.asarray(mask, bool)])


class Timing(NamedTuple):
    """Of a sweep."""

    seconds: float  # of its second chunk
    compile_seconds: float
    result: jills.SweepResult


def second_chunk(algorithm, hparams, problem, keys, chunk_steps: int, batch_size: int | None = None) -> Timing:
    """Times `chunk_steps` steps of all members: the first chunk also starts them and brings them to the device.

    Raises:
        KeyboardInterrupt: also where a sweep would keep its first chunk, which is no measurement.
    """
    times = []
    result = jills.sweep(
        algorithm,
        hparams,
        problem,
        keys,
        2 * chunk_steps,
        chunk_steps,
        lambda *_: times.append(time.perf_counter()),
        batch_size=batch_size,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    return Timing(times[-1] - times[0], result.compile_seconds, result)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_resident() -> int:
    """Most bytes this process has had in memory so far; -1 where the system is not asked."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return -1
    # Not getrusage: its maximum is handed on from the process that started this one.
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), -1)


def device_bytes() -> int | None:
    """Bytes of the first device's own memory; None where it has none, as a CPU."""
    limits: Any = jax.local_devices()[0].memory_stats()
    return limits.get("bytes_limit") if limits else None


__all__ = [
    "Timing",
    "close",
    "collect",
    "device_bytes",
    "most_resident",
    "num_cores",
    "second_chunk",
    "style",
    "subplots",
    "uninterrupted",
    "where",
    "write_environment",
]
