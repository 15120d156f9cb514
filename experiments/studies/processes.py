"""One sweep over several local processes of `jax.distributed`, one core and one thread each.

    python -m experiments.studies.processes [--processes N] [--members M] [--steps T]

Trains the same networks in one process and in N: members a second, without compilation, and whether the losses are
the same. On a cluster the same call of `jills.sweep` follows `jax.distributed.initialize()`; here the processes meet
on this machine.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.measuring import command_line

ROWS, SIZES = 500, (8, 20, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = command_line("studies.processes", __doc__)
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--members", type=int, default=400, metavar="M", help="networks (default: 400)")
    parser.add_argument("--steps", type=int, default=100, metavar="T", help="of Gauss–Newton (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="measurements of each (default: 3)")
    parser.add_argument("--child", nargs=3, metavar=("INDEX", "ADDRESS", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.processes, options.members, options.steps, *options.child)
        return 0
    told: dict[int, list[tuple[float, np.ndarray]]] = {1: [], options.processes: []}
    for _ in range(options.repeats):
        for count, runs in told.items():
            runs.append(together(count, options.members, options.steps))
    first = told[1][0][1]
    rows = []
    for count, runs in told.items():
        seconds = float(np.median([each for each, _ in runs]))
        apart = max(float(np.max(np.abs(losses - first) / first)) for _, losses in runs)
        rows.append({"processes": count, "members a second": options.members / seconds, "largest difference": apart})
    table = pd.DataFrame(rows)
    table["gain"] = table["members a second"] / table["members a second"][0]
    print(
        f"{options.members} networks {'-'.join(map(str, SIZES))}, {options.steps} steps, median of {options.repeats}:"
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    return 0


def together(count: int, members: int, steps: int) -> tuple[float, np.ndarray]:
    """Seconds of the slowest process, and the losses `(M,)`, told by the first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.npz"
        address = f"localhost:{free_port()}"
        command = [sys.executable, "-m", "experiments.studies.processes", "--members", str(members)]
        command += ["--processes", str(count), "--steps", str(steps), "--child"]
        started = [
            subprocess.Popen([*command, str(index), address, str(path)], stdout=subprocess.DEVNULL)
            for index in range(count)
        ]
        if max(process.wait() for process in started):
            raise RuntimeError("a process failed")
        with np.load(path) as told:
            return float(told["seconds"]), told["losses"]


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def child(count: int, members: int, steps: int, index: str, address: str, path: str) -> None:
    """One of the processes."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(index) % len(cores)]})
    import jax

    if count > 1:
        jax.distributed.initialize(address, count, int(index))
    import jills

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(ROWS, SIZES[0])).astype(np.float32)
    batch = jills.Batch(inputs, np.sin(2 * inputs[:, :1]) + 0.3 * inputs[:, 1:2] * inputs[:, 2:3])
    network = jills.Network(SIZES, jills.activations.tanh)
    algorithm = jills.gauss_newton.build(network)
    keys = jax.random.split(jax.random.key(0), members)
    result = jills.sweep(
        algorithm, algorithm.defaults, network.init, keys, steps, batches=batch, compile="full", chunk_steps=steps
    )
    if int(index) == 0:
        np.savez(path, seconds=result.run_seconds, losses=np.asarray(result.state.loss)[0])


if __name__ == "__main__":
    sys.exit(main())
