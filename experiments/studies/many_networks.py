"""Many small networks at once: what a member-step costs.

    python -m experiments.studies.many_networks [--members N] [--rows N] [--hidden N …] [--steps N] [--repeats N]
                                                [--batch-size N] [--results FOLDER]

1024 networks 8-20-20-1 by default, tanh, float32: every member another start, the same 1000 rows and targets of a
teacher of the same shape. The algorithms, measured in alternation in one process, medians of several:

* `gauss_newton, 5 CG`: one layer after the other, 5 iterations of conjugate gradients each;
* `gauss_newton`: with its defaults;
* `adam`.

For each: milliseconds a member-step in a sweep (all cores, or the accelerators), the same in a Python loop over
single runs, and the arithmetic on paper at the measured rate of large matrix products.

The same code runs on CPUs, GPUs and TPUs; on an accelerator try `--members 65536 --batch-size 8192`. Leaves a new
folder with `algorithms.csv`, versions and device. Ctrl-C keeps what is measured.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

import jills
from experiments import measuring, records
from experiments.studies import arithmetic
from experiments.studies.scaling import BLOCK_BY_BLOCK, Point, make_problem

ITERATIONS = 5


class Job(NamedTuple):
    """What is measured."""

    point: Point
    hidden: tuple[int, ...]
    steps: int
    repeats: int
    singles: int  # runs in the Python loop
    batch_size: int | None
    rate: float  # multiply-adds a second of a large matrix product
    dtype: str = "float32"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    jax.config.update("jax_enable_x64", False)
    folder = records.new_folder(options.results, "many_networks")
    records.write_environment(folder)
    rate = measuring.matmul_rate("float32", options.matmul_size)
    point = Point(rows=options.rows, members=options.members)
    job = Job(point, tuple(options.hidden), options.steps, options.repeats, options.singles, options.batch_size, rate)
    sizes = "-".join(map(str, sizes_of(job)))
    print(f"{point.members} networks {sizes}, {point.rows} rows, float32, {job.steps} steps")
    print(f"{records.environment()['device']}: {rate / 1e9:.3g} G multiply-adds a second in a matmul")
    rows, interrupted = measuring.collect(measure(job), len(builders()), lambda row: row["algorithm"])
    with measuring.uninterrupted():
        finish(folder, rows)
    print(f"{'interrupted; ' if interrupted else ''}results in {folder}")
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = measuring.command_line("studies.many_networks", __doc__, "results")
    parser.add_argument("--members", type=int, default=1024, metavar="N", help="networks (default: 1024)")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="of the data (default: 1000)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[20, 20], metavar="N", help="widths (default: 20 20)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed at once (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each (default: 5)")
    parser.add_argument("--singles", type=int, default=8, metavar="N", help="runs in the Python loop (default: 8)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="members at a time on a device (default: sweep's)")
    parser.add_argument("--matmul-size", type=int, default=2048, metavar="N", help="of the rate (default: 2048)")
    return parser


def sizes_of(job: Job) -> tuple[int, ...]:
    """Of the networks."""
    return (job.point.inputs, *job.hidden, job.point.outputs)


def builders() -> dict[str, Callable[[jills.Network], jills.Algorithm]]:
    """The algorithms."""
    five = jills.ConjugateGradients(ITERATIONS, 0.0)
    return {
        f"gauss_newton, {ITERATIONS} CG": lambda network: jills.gauss_newton.build(
            network, linear_solver=five, blocks=jills.gauss_newton.one_by_one(network)
        ),
        "gauss_newton": lambda network: jills.gauss_newton.build(network, linear_solver=BLOCK_BY_BLOCK),
        "adam": lambda network: jills.adam.build(network),
    }


def measure(job: Job) -> Iterator[dict]:
    """One row per algorithm."""
    network, task = make_problem(job.point, job.dtype, sizes_of(job))
    keys = jax.random.split(jax.random.key(1), job.point.members)
    params, batch = task(keys[0])
    rows, sweeps, singles = {}, {}, {}
    for name, build in builders().items():
        algorithm = build(network)
        sweep = partial(measuring.second_chunk, algorithm, algorithm.defaults, task, keys, job.steps, job.batch_size)
        single = partial(jills.run, algorithm, algorithm.defaults, params, batch, job.steps)
        first = sweep()
        jax.block_until_ready(single())
        rows[name] = {"algorithm": name, "compile_s": first.compile_seconds}
        rows[name]["multiply_adds"] = on_paper(name, job, first.result.info)
        sweeps[name] = lambda sweep=sweep: sweep().seconds
        singles[name] = partial(loop_of_singles, single, job.singles)
    in_sweep, in_loop = measuring.medians(sweeps, job.repeats), measuring.medians(singles, job.repeats)
    for name, row in rows.items():
        row["ms_in_a_sweep"] = 1e3 * in_sweep[name] / (job.steps * job.point.members)
        row["ms_in_a_loop"] = 1e3 * in_loop[name] / job.steps
        row["ms_on_paper"] = 1e3 * row["multiply_adds"] / job.rate
        yield row


def loop_of_singles(single: Callable[[], Any], count: int) -> float:
    """Seconds of one run, in a Python loop over `count` of them."""
    return measuring.clock(lambda: [jax.block_until_ready(single()) for _ in range(count)])[0] / count


def on_paper(name: str, job: Job, info: jills.Info) -> float:
    """Multiply-adds of a member-step, with the iterations of conjugate gradients that were taken."""
    sizes, rows = sizes_of(job), job.point.rows
    if name == "adam":
        return arithmetic.adam(sizes, rows)
    taken = float(np.mean(info.detail.products))
    if name != "gauss_newton":
        blocks = jills.gauss_newton.one_by_one(jills.Network(sizes, jills.activations.tanh))
        return arithmetic.gauss_newton(sizes, rows, taken / len(blocks), blocks, 0)
    blocks = jills.gauss_newton.default_blocks(jills.Network(sizes, jills.activations.tanh))
    iterative = arithmetic.iterative_blocks(sizes, rows, blocks)
    return arithmetic.gauss_newton(sizes, rows, taken / max(len(iterative), 1), blocks)


def finish(folder: Path, rows: list[dict]) -> None:
    """Writes and prints the table."""
    table = pd.DataFrame(rows)
    if table.empty:
        return
    adam = table.loc[table["algorithm"] == "adam", "ms_in_a_sweep"]
    table["ratio_to_adam"] = table["ms_in_a_sweep"] / (adam.iloc[0] if len(adam) else math.nan)
    table["sweep_gain"] = table["ms_in_a_loop"] / table["ms_in_a_sweep"]
    table["share_of_matmul"] = table["ms_on_paper"] / table["ms_in_a_sweep"]
    table.to_csv(folder / "algorithms.csv", index=False)
    print(table.to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    sys.exit(main())
