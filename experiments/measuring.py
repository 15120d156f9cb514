"""What the scripts share: the command line, progress, clocks, memory of the process."""

import argparse
import resource
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from tqdm import tqdm

import jills

Result = TypeVar("Result")
Row = TypeVar("Row")
Name = TypeVar("Name")


def command_line(module: str, doc: str | None, results: str = "", data: bool = False) -> argparse.ArgumentParser:
    """The parser of `python -m experiments.<module>`.

    Args:
        module: below `experiments`.
        doc: its docstring, whose first line describes it.
        results: the default of `--results`; empty: no such option.
        data: whether there is `--data`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{module}", description=(doc or "").splitlines()[0])
    if results:
        parser.add_argument("--results", default=results, metavar="FOLDER", help=f"(default: {results})")
    if data:
        words = "of experiments.data.fetch (default: data)"
        parser.add_argument("--data", default="data", metavar="FOLDER", help=words)
    return parser


def collect(rows: Iterable[Row], count: int | None, label: Callable[[Row], str]) -> tuple[list[Row], bool]:
    """The rows as a list, with a progress bar; and whether Ctrl-C cut it short, which keeps what came before it."""
    done = []
    with tqdm(total=count) as bar:
        try:
            for row in rows:
                done.append(row)
                bar.set_postfix_str(label(row), refresh=False)
                bar.update()
        except KeyboardInterrupt:
            return done, True
    return done, False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for what is inside: the seconds in which finished work is summed up and written."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def clock(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of a call, its results computed, and the results."""
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - began, result


def medians(calls: Mapping[Name, Callable[[], float]], repeats: int) -> dict[Name, float]:
    """Median of what each call returns, measured in alternation so that all share what disturbs the machine."""
    measured = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            measured[name].append(call())
    return {name: statistics.median(each) for name, each in measured.items()}


def matmul_rate(dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Multiply-adds a second of the fastest of some products of two `(size, size)` matrices, on all cores.

    Precision is what the algorithms ask for: all digits of the dtype, on accelerators too.
    """
    left = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(multiply(left, left))
    return size**3 / min(clock(lambda: multiply(left, left))[0] for _ in range(repeats))


def whole_sweep(*arguments: Any, **options: Any) -> jills.SweepResult:
    """`jills.sweep`, but Ctrl-C raises KeyboardInterrupt: a sweep that was cut short is no result here."""
    result = jills.sweep(*arguments, **options)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


class Timing(NamedTuple):
    """Of a sweep."""

    seconds: float  # of its second chunk
    compile_seconds: float
    result: jills.SweepResult


def second_chunk(algorithm, hparams, problem, keys, chunk_steps: int, batch_size: int | None = None) -> Timing:
    """Times `chunk_steps` steps of all members: the first chunk also starts them and brings them to the device."""
    times = []
    look = lambda *_: times.append(time.perf_counter())  # noqa: E731 called between chunks
    result = whole_sweep(algorithm, hparams, problem, keys, 2 * chunk_steps, chunk_steps, look, batch_size=batch_size)
    return Timing(times[-1] - times[0], result.compile_seconds, result)


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    try:
        # Not ru_maxrss where it can be helped: Linux hands it down from the process that started this one.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
