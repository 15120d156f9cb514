"""Sweeps that are killed again and again, and what their checkpoints cost.

    python -m experiments.studies.faults [--kills N] [--shared N] [--repeats N] [--seconds S]

Sweeps of four algorithms run in processes of their own, with checkpoints as often as they can be, and are killed by
SIGKILL at random moments until each algorithm has had its share. Every sweep goes on from its checkpoints, and in the
end its states and records must have the bits of a sweep that nobody disturbed. Then sweeps that processes of
`jax.distributed` share: one of three is killed, what is left goes to two, of which one is killed, then to one, and so
on in turn; told is how long it takes until none of the others is left. Then one sweep of a thousand networks is timed
with checkpoints and without, in alternation.
"""

import argparse
import hashlib
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

import jills
from experiments.measuring import command_line, whole_sweep
from experiments.studies.processes import free_port
from experiments.studies.startup import rows

NETWORK = jills.Network((8, 20, 1), jills.activations.tanh)
CHUNK_STEPS = 5
LONGEST = 3.0  # seconds from the start of a sweep to its end by a kill
SHARED, COUNTS = "Gauss-Newton", (3, 2, 1)  # what processes share, and how many they are in turn
HEARTBEAT = 10  # seconds after which a process that is silent counts as dead


def column(*numbers: float) -> Any:
    """By NumPy: processes must meet before JAX makes an array."""
    return np.array(numbers, np.float32)


class Case(NamedTuple):
    """A sweep that takes some ten seconds."""

    algorithm: jills.Algorithm
    hparams: Any
    members: int  # for each set of hyperparameters
    num_steps: int


CASES = {
    "Adam": Case(jills.adam.build(NETWORK), jills.adam.Hparams(column(0.003, 0.01, 0.03)), 40, 1000),
    "ILLS": Case(jills.ills.build(NETWORK), jills.ills.Hparams(column(0.1, 0.3, 0.5), 1e-3), 4, 100),
    "Gauss-Newton": Case(
        jills.gauss_newton.build(NETWORK), jills.gauss_newton.Hparams(weight_decay=column(1e-4, 1e-3)), 20, 100
    ),
    "evidence": Case(jills.evidence.build(NETWORK), jills.evidence.Hparams(), 40, 100),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the tables."""
    parser = command_line("studies.faults", __doc__)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of all sweeps together (default: 50)")
    parser.add_argument("--shared", type=int, default=12, metavar="N", help="kills of sharing processes (default: 12)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="sweeps timed of each (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="between checkpoints (default: 10)")
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="of the sweep timed (default: 2000)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help="train this one in this process")
    parser.add_argument("--place", nargs=3, metavar=("INDEX", "COUNT", "ADDRESS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        name, folder = options.one
        train(name, folder, options.place)
        return 0
    told = survived(options.kills)
    print(told.to_string(index=False))
    together = shared(options.shared)
    print(together.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    told = pd.concat([told, together])
    cost = overhead(options.steps, options.repeats, options.seconds)
    print(cost.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    return 0 if list(told["same bits"]) == list(told["sweeps"]) else 1


def train(name: str, folder: str, place: Sequence[str] | None = None) -> None:
    """Prints each step that is reached, and a digest of all bits in the end; no folder: without checkpoints.

    Args:
        name: of a case.
        folder: for checkpoints.
        place: index, count and address, of one of several processes.
    """
    if place and int(place[1]) > 1:
        index, count, address = place
        jax.distributed.initialize(address, int(count), int(index), heartbeat_timeout_seconds=HEARTBEAT)
    jills.enable_compilation_cache(Path(tempfile.gettempdir()) / "jills-faults")
    case = CASES[name]
    inputs, targets = rows(500)
    problem = jax.tree_util.Partial(_member, jills.Batch(inputs, targets))
    keys = jax.random.split(jax.random.key(0), case.members)
    result = jills.sweep(
        case.algorithm,
        case.hparams,
        problem,
        keys,
        case.num_steps,
        CHUNK_STEPS,
        lambda step, *_: print(step, flush=True),
        checkpoint=folder or None,
        checkpoint_seconds=0,
    )
    bits = hashlib.sha256()
    for leaf in jax.tree.leaves((result.state, result.info)):
        bits.update(np.asarray(leaf).tobytes())
    print(bits.hexdigest(), flush=True)


def _member(batch, key):
    return NETWORK.init(key), batch


class Course(NamedTuple):
    """Of one process."""

    steps: list[int]  # that it told
    bits: str  # empty: it was killed


def process(name: str, folder: str, longest: float | None = None) -> Course:
    """Trains in a process of its own, and kills it at a random moment of so many seconds of training; None: never."""
    command = [sys.executable, "-m", "experiments.studies.faults", "--one", name, folder]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = [child.stdout.readline()] if child.stdout else []
    try:
        rest, errors = child.communicate(timeout=None if longest is None else random.uniform(0, longest))
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        rest, errors = child.communicate()
    if child.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{name}: {errors[-2000:]}")
    words = "".join([*told, rest]).split()
    bits = words.pop() if child.returncode == 0 else ""
    return Course([int(word) for word in words if word.isdigit()], bits)


def survived(kills: int) -> pd.DataFrame:
    """Kills sweeps of every algorithm in turn until there were as many kills, and lets the last of each end."""
    random.seed(0)
    return pd.DataFrame([_survived(name, (kills + place) // len(CASES)) for place, name in enumerate(CASES)])


def _survived(name, kills):
    undisturbed = process(name, "").bits
    row = {"algorithm": name, "sweeps": 0, "kills": 0, "while writing": 0, "steps": 0, "trained twice": 0}
    row["same bits"] = 0
    while row["kills"] < kills:
        with tempfile.TemporaryDirectory() as folder:
            reached, bits = 0, ""
            while not bits:
                steps, bits = process(name, folder, LONGEST if row["kills"] < kills else None)
                if steps:
                    row["trained twice"] += max(0, reached - (steps[0] - CHUNK_STEPS))
                    reached = steps[-1]
                row["kills"] += not bits
                row["while writing"] += any(path.suffix == ".npz" for path in Path(folder).glob(".*"))
        row["sweeps"] += 1
        row["steps"] += reached
        row["same bits"] += bits == undisturbed
    return row


def shared(kills: int) -> pd.DataFrame:
    """Kills processes that share a sweep, one at a time and the others with it, until there were as many kills."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, _ = together(COUNTS[0], folder)
    row = {"processes": "in turn " + ", ".join(map(str, COUNTS)), "sweeps": 0, "kills": 0, "of process 0": 0}
    row |= {"longest wait, s": 0.0, "same bits": 0}
    while row["kills"] < kills:
        with tempfile.TemporaryDirectory() as folder:
            for count in itertools.cycle(COUNTS):
                victim = random.randrange(count) if row["kills"] < kills else None
                bits, seconds = together(count, folder, victim)
                if bits:
                    break
                row["kills"] += 1
                row["of process 0"] += count > 1 and victim == 0
                row["longest wait, s"] = max(row["longest wait, s"], seconds)
        row["sweeps"] += 1
        row["same bits"] += bits == undisturbed
    return pd.DataFrame([row])


def together(count: int, folder: str, victim: int | None = None) -> tuple[str, float]:
    """Shares a sweep, and kills one of its processes at a random moment of its training; None: none.

    Returns:
        The bits that all have told, empty where one was killed; and the seconds from then until none was left.
    """
    command = [sys.executable, "-m", "experiments.studies.faults", "--one", SHARED, folder, "--place"]
    address = f"localhost:{free_port()}"
    children = [
        subprocess.Popen([*command, str(index), str(count), address], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for index in range(count)
    ]
    first = b""
    if victim is not None:
        killed = children[victim]
        if killed.stdout:
            first = killed.stdout.readline()  # which is its last where the others have done all blocks
        time.sleep(random.uniform(0, LONGEST))
        killed.send_signal(signal.SIGKILL)
    began = time.monotonic()
    told = [child.communicate(timeout=600) for child in children]
    if all(child.returncode == 0 for child in children):
        bits = {(first + lines).split()[-1].decode() for lines, _ in told}
        return bits.pop() if len(bits) == 1 else "they differ", 0.0
    if victim is None or children[victim].returncode != -signal.SIGKILL:
        raise RuntimeError("\n".join(errors[-2000:].decode() for _, errors in told))
    return "", time.monotonic() - began


def overhead(num_steps: int, repeats: int, seconds: float, members: int = 1000) -> pd.DataFrame:
    """A sweep of Adam with checkpoints and without: seconds by the clock, and of all threads together."""
    inputs, targets = rows(100)
    network = jills.Network((8, 20, 20, 1), jills.activations.tanh)
    algorithm = jills.adam.build(network)
    problem = jax.tree_util.Partial(lambda batch, key: (network.init(key), batch), jills.Batch(inputs, targets))
    keys = jax.random.split(jax.random.key(0), members)
    sweep = partial(whole_sweep, algorithm, algorithm.defaults, problem, keys, compile="full")
    with tempfile.TemporaryDirectory() as folder:
        sweep(50, checkpoint=folder)  # compiles
    measured = {"none": [], f"every {seconds:g} s": []}
    for name in [*measured] * repeats:
        with tempfile.TemporaryDirectory() as folder:
            options = {} if name == "none" else {"checkpoint": folder, "checkpoint_seconds": seconds}
            began = time.perf_counter(), time.process_time()
            sweep(num_steps, **options)
            ended = time.perf_counter(), time.process_time()
            measured[name].append([*np.subtract(ended, began), len(list(Path(folder).glob("records-*")))])
    medians = {name: np.median(each, axis=0) for name, each in measured.items()}
    return pd.DataFrame(
        {
            "checkpoints": name,
            "seconds": clock,
            "of threads": threads,
            "more, %": 100 * (threads / medians["none"][1] - 1),
            "written": written,
        }
        for name, (clock, threads, written) in medians.items()
    )


if __name__ == "__main__":
    sys.exit(main())
