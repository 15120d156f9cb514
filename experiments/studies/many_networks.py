"""Many small networks at once: what a member-step costs, and where the time goes.

    python -m experiments.studies.many_networks [--members N] [--rows N] [--hidden N …] [--steps N] [--repeats N]
                                                [--batch-size N] [--results FOLDER]

1024 networks 8-20-20-1 by default, tanh, float32: every member another start, the same 1000 rows and targets of a
teacher of the same shape. The algorithms, measured in alternation in one process, medians of several:

* `gauss_newton, 5 CG`: one layer after the other, 5 iterations of conjugate gradients each;
* `gauss_newton`: with its defaults;
* `adam`.

For each: milliseconds a member-step in a sweep (all cores, or the accelerators), the same in a Python loop over
single runs, and the arithmetic on paper at the measured rate of large matrix products. Then the pieces of the first
one alone, in the same loop over members: forward passes, sensitivities, gradients, preconditioner, products of
conjugate gradients, each with the elementwise work that belongs to it. What they leave of a step is trials, losses,
acceptance, and what it costs to start so many small operations.

The same code runs on CPUs, GPUs and TPUs. On an accelerator try `--members 65536`: it takes as many at a time as fit
its memory, see `--batch-size`. Leaves a new folder with `algorithms.csv`, `pieces.csv`, versions and device, and
`many_networks.png`. Ctrl-C keeps what is measured.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax

import jills
from experiments import measuring, records
from experiments.studies import arithmetic
from experiments.studies.scaling import Point, compile_steps, make_problem
from jills import kronecker, linearization
from jills.conjugate_gradients import ConjugateGradients
from jills.linearization import times

ITERATIONS = 5
SHARE_OF_MEMORY = 0.5  # of an accelerator's, for the members that step at once


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
    measuring.write_environment(folder)
    rate = arithmetic.matmul_rate("float32", options.matmul_size)
    point = Point(rows=options.rows, members=options.members)
    job = Job(point, tuple(options.hidden), options.steps, options.repeats, options.singles, options.batch_size, rate)
    sizes = "-".join(map(str, sizes_of(job)))
    print(f"{point.members} networks {sizes}, {point.rows} rows, float32, {job.steps} steps")
    print(f"{records.environment()['device']}: {rate / 1e9:.3g} G multiply-adds a second in a matmul")
    rows, interrupted = measuring.collect(
        measure(job), len(builders()) + len(PIECES), lambda row: row.get("algorithm") or row["piece"]
    )
    with measuring.uninterrupted():
        finish(folder, rows)
    print(f"{'interrupted; ' if interrupted else ''}results in {folder}")
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.many_networks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--members", type=int, default=1024, metavar="N", help="networks (default: 1024)")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="of the data (default: 1000)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[20, 20], metavar="N", help="widths (default: 20 20)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed at once (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each (default: 5)")
    parser.add_argument("--singles", type=int, default=8, metavar="N", help="runs in the Python loop (default: 8)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="members at a time on a device (default: what fits)"
    )
    parser.add_argument("--matmul-size", type=int, default=2048, metavar="N", help="of the rate (default: 2048)")
    parser.add_argument("--results", default="results", metavar="FOLDER", help="gets a new folder (default: results)")
    return parser


def sizes_of(job: Job) -> tuple[int, ...]:
    """Of the networks."""
    return (job.point.inputs, *job.hidden, job.point.outputs)


def builders() -> dict[str, Callable[[jills.Network], jills.Algorithm]]:
    """The algorithms."""
    five = ConjugateGradients(ITERATIONS, 0.0)
    return {
        f"gauss_newton, {ITERATIONS} CG": lambda network: jills.gauss_newton.build(
            network, solver=five, blocks=jills.gauss_newton.one_by_one(network)
        ),
        "gauss_newton": lambda network: jills.gauss_newton.build(network),
        "adam": lambda network: jills.adam.build(network),
    }


def measure(job: Job) -> Iterator[dict]:
    """One row an algorithm, then one a piece."""
    network, task = make_problem(job.point, job.dtype, sizes_of(job))
    keys = jax.random.split(jax.random.key(1), job.point.members)
    params, batch = task(keys[0])
    rows, sweeps, singles = {}, {}, {}
    for name, build in builders().items():
        algorithm = build(network)
        size, note = members_at_once(algorithm, task, job)
        sweep = partial(measuring.second_chunk, algorithm, algorithm.defaults, task, keys, job.steps, size)
        single = partial(jills.run, algorithm, algorithm.defaults, params, batch, job.steps)
        first = sweep()
        jax.block_until_ready(single())
        rows[name] = {"algorithm": name, "compile_s": first.compile_seconds, "note": note}
        rows[name]["multiply_adds"] = on_paper(name, job, first.result.info)
        sweeps[name] = lambda sweep=sweep: sweep().seconds
        singles[name] = partial(loop_of_singles, single, job.singles)
    in_sweep, in_loop = arithmetic.medians(sweeps, job.repeats), arithmetic.medians(singles, job.repeats)
    for name, row in rows.items():
        row["ms_in_a_sweep"] = 1e3 * in_sweep[name] / (job.steps * job.point.members)
        row["ms_in_a_loop"] = 1e3 * in_loop[name] / job.steps
        row["ms_on_paper"] = 1e3 * row["multiply_adds"] / job.rate
        yield row
    yield from measure_pieces(job, network, task, keys)


def loop_of_singles(single: Callable[[], Any], count: int) -> float:
    """Seconds of one run, in a Python loop over `count` of them."""
    return arithmetic.clock(lambda: [jax.block_until_ready(single()) for _ in range(count)]) / count


def members_at_once(algorithm: jills.Algorithm, task, job: Job) -> tuple[int | None, str]:
    """Batch size on a device by its memory, and the note; None on a CPU, where `sweep` knows best."""
    memory = measuring.device_bytes()
    if job.batch_size is not None or memory is None:
        return job.batch_size, ""
    one = compile_steps(algorithm, task)
    needed = one.argument_bytes + one.output_bytes + one.temporary_bytes
    share = math.ceil(job.point.members / jax.local_device_count())
    fits = share if not math.isfinite(needed) else int(SHARE_OF_MEMORY * memory / needed)
    size = max(1, min(share, fits))
    return size, f"{size} at a time, {needed / 1e6:.2f} MB each, of {memory / 1e9:.0f} GB"


def on_paper(name: str, job: Job, info: jills.Info) -> float:
    """Multiply-adds of a member-step, with the iterations of conjugate gradients that were taken."""
    sizes, rows = sizes_of(job), job.point.rows
    if name == "adam":
        return arithmetic.adam(sizes, rows)
    taken = float(np.mean(info.detail.products))
    if name != "gauss_newton":
        blocks = jills.gauss_newton.one_by_one(jills.Network(sizes, jills.activations.tanh))
        return arithmetic.gauss_newton(sizes, rows, taken / len(blocks), blocks, 0).total
    blocks = jills.gauss_newton.default_blocks(jills.Network(sizes, jills.activations.tanh))
    iterative = arithmetic.iterative_blocks(sizes, rows, blocks)
    return arithmetic.gauss_newton(sizes, rows, taken / max(len(iterative), 1), blocks).total


class Ready(NamedTuple):
    """What the pieces start from: a linearised network, arrays features × rows as in `jills.linearization`."""

    matrices: tuple[jax.Array, ...]
    current: linearization.Pass
    roots: list[jax.Array]  # S^l of every layer, (n_l, n)
    weights: jax.Array  # (n,)
    factors: list[kronecker.Factors]


def make_ready(network: jills.Network, params: jills.Params, batch: jills.Batch) -> Ready:
    """All that a piece may need, so that none computes what belongs to another."""
    matrices = tuple(jnp.concatenate([layer.weight, layer.bias[None]]) for layer in params)
    current = linearization.forward(network, matrices, batch.inputs.T)
    weights = jnp.full(batch.inputs.shape[:1], 1 / batch.inputs.shape[0], batch.inputs.dtype)
    roots = linearization.carry_down(matrices, current.slopes, (0, len(matrices) - 1), batch.targets.T)
    ready = Ready(matrices, current, roots, weights, [])
    return ready._replace(factors=preconditioner(network, ready))


def forward_passes(network: jills.Network, ready: Ready) -> list:
    """That of the start, and of the trial of every layer: from there up."""
    first = linearization.forward(network, ready.matrices, ready.current.below[0][:-1])
    trials = [
        linearization.forward(network, ready.matrices, ready.current, layer)
        for layer in reversed(range(network.num_layers))
    ]
    return [(each.prediction, each.slopes) for each in (first, *trials)]


def sensitivities(network: jills.Network, ready: Ready) -> list:
    """`S^l` of every layer, each from the output down; and for the preconditioner of the hidden ones once more."""
    layers = range(network.num_layers)
    blocks = [*((layer, layer) for layer in layers), (0, network.num_layers - 2)]
    down = partial(linearization.carry_down, ready.matrices, ready.current.slopes)
    return [down(block, ready.weights[None, :]) for block in blocks]


def gradients(network: jills.Network, ready: Ready) -> list:
    """`A^lᵀ s^l` of every layer."""
    return [times(below, root.T) for below, root in zip(ready.current.below, ready.roots, strict=True)]


def preconditioner(network: jills.Network, ready: Ready) -> list:
    """Γ, Σ and the inverses of every layer."""
    n, k = len(ready.weights), network.sizes[-1]
    moments, dampings = [], []
    for below, root in zip(ready.current.below, ready.roots, strict=True):
        few, many = kronecker.rows_for_sigma(n, k), kronecker.rows_for_gamma(n, len(below))
        roots, standing = _columns(root, few)[None], _columns(ready.weights, few)
        moment = kronecker.moments(
            _columns(below, many), _columns(ready.weights, many), _columns(below, few), roots, roots, standing
        )
        moments.append(moment)
        dampings.append(0.01 * moment.trace / (len(below) * len(root)))
    return kronecker.factors(moments, dampings)


def _columns(array, which):
    return array if which is None else array[..., which]


def products(network: jills.Network, ready: Ready) -> list:
    """`ITERATIONS` products of every layer, each preconditioned; the next direction is the last image."""
    images = []
    for matrix, below, root, factor in zip(
        ready.matrices, ready.current.below, ready.roots, ready.factors, strict=True
    ):
        direction = factor(matrix)
        for _ in range(ITERATIONS):
            response = jnp.sum(root * times(direction.T, below), axis=0, keepdims=True)
            direction = factor(times(below, (root * response).T))
        images.append(direction)
    return images


PIECES = {
    "forward": forward_passes,
    "sensitivities": sensitivities,
    "gradient": gradients,
    "preconditioner": preconditioner,
    "products": products,
}


@partial(jax.jit, static_argnums=(0, 1, 2))
def repeated(piece, network: jills.Network, batch_size: int, count: jax.Array, task, keys: jax.Array) -> jax.Array:
    """`count` times a piece for every member, and nothing else but what it starts from."""

    def one(key):
        ready = make_ready(network, *task(key))

        def body(_, total):
            # The sum enters what each piece depends on, so that none can be taken out of the loop.
            nudge = lambda leaf: leaf + 0 * total  # noqa: E731 used at once
            nudged = ready._replace(
                matrices=jax.tree.map(nudge, ready.matrices),
                roots=jax.tree.map(nudge, ready.roots),
                weights=nudge(ready.weights),
            )
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(piece(network, nudged)))

        return lax.fori_loop(0, count, body, jnp.zeros((), ready.weights.dtype))

    return lax.map(one, keys, batch_size=batch_size if batch_size > 1 else None)


def measure_pieces(job: Job, network: jills.Network, task, keys: jax.Array) -> Iterator[dict]:
    """One row a piece: milliseconds a member-step, in the loop over members that `sweep` has."""
    on_cpu = jax.local_devices()[0].platform == "cpu"
    workers = min(measuring.num_cores(), len(keys)) if on_cpu else 1
    # Every program has one shape, so that the workers share it; a remainder of members is left out.
    block = len(keys) // workers
    shares = [keys[worker * block : (worker + 1) * block] for worker in range(workers)]
    batch_size = 1 if on_cpu else job.batch_size or block
    blocks = jills.gauss_newton.one_by_one(network)
    paper = arithmetic.gauss_newton(sizes_of(job), job.point.rows, ITERATIONS, blocks, 0)._asdict()
    with ThreadPoolExecutor(workers) as pool:

        def seconds(piece, count):
            run = lambda share: jax.block_until_ready(  # noqa: E731 used at once
                repeated(piece, network, batch_size, np.int32(count), task, share)
            )
            return arithmetic.clock(lambda: list(pool.map(run, shares)))

        for name, piece in PIECES.items():
            jax.block_until_ready(repeated(piece, network, batch_size, np.int32(1), task, shares[0]))
            calls = {count: partial(seconds, piece, count) for count in (0, job.steps)}
            median = arithmetic.medians(calls, job.repeats)
            taken = (median[job.steps] - median[0]) / (job.steps * block * workers)
            row = {"piece": name, "ms_alone": 1e3 * taken, "multiply_adds": paper[name]}
            yield row | {"ms_on_paper": 1e3 * paper[name] / job.rate}


def finish(folder: Path, rows: list[dict]) -> None:
    """Writes tables and figure, and prints the tables."""
    algorithms = pd.DataFrame([row for row in rows if "algorithm" in row])
    pieces = pd.DataFrame([row for row in rows if "piece" in row])
    algorithms.to_csv(folder / "algorithms.csv", index=False)
    pieces.to_csv(folder / "pieces.csv", index=False)
    if algorithms.empty:
        return
    adam = algorithms.loc[algorithms["algorithm"] == "adam", "ms_in_a_sweep"]
    algorithms["ratio_to_adam"] = algorithms["ms_in_a_sweep"] / (adam.iloc[0] if len(adam) else math.nan)
    algorithms["sweep_gain"] = algorithms["ms_in_a_loop"] / algorithms["ms_in_a_sweep"]
    algorithms["share_of_matmul"] = algorithms["ms_on_paper"] / algorithms["ms_in_a_sweep"]
    print(algorithms.to_string(index=False, float_format="{:.3g}".format))
    if pieces.empty:
        return
    step = algorithms["ms_in_a_sweep"].iloc[0]
    pieces["share_of_step"] = pieces["ms_alone"] / step
    pieces["share_of_matmul"] = pieces["ms_on_paper"] / pieces["ms_alone"]
    print(f"\npieces of {algorithms['algorithm'].iloc[0]}, ms a member-step:")
    print(pieces.to_string(index=False, float_format="{:.3g}".format))
    print(f"together {pieces['ms_alone'].sum():.3g} of {step:.3g} ms; the rest is elementwise work and overheads")
    figure_of(algorithms, pieces, folder / "many_networks.png")


def figure_of(algorithms: pd.DataFrame, pieces: pd.DataFrame, path: Path) -> None:
    """Milliseconds a member-step: in a sweep, in a loop, on paper; and the pieces alone and on paper."""
    figure, panels = measuring.subplots(1, 2)
    figure.set_size_inches(10, 4)
    bars = {"in a sweep": "ms_in_a_sweep", "in a loop": "ms_in_a_loop", "on paper": "ms_on_paper"}
    _bars(panels[0, 0], algorithms["algorithm"], {label: algorithms[column] for label, column in bars.items()})
    _bars(panels[0, 1], pieces["piece"], {"alone": pieces["ms_alone"], "on paper": pieces["ms_on_paper"]})
    panels[0, 0].set_ylabel("ms a member-step")
    figure.savefig(path, dpi=120)
    measuring.close(figure)


GREYS = ("0.25", "0.55", "0.8")


def _bars(panel, names, columns):
    places, width = np.arange(len(names)), 0.8 / len(columns)
    for index, (label, values) in enumerate(columns.items()):
        # Greys: colours stand for algorithms, and here those are on the axis.
        panel.bar(places + (index - (len(columns) - 1) / 2) * width, values, width, label=label, color=GREYS[index])
    panel.set_xticks(places, names, rotation=20, ha="right", fontsize=8)
    panel.set_yscale("log")
    panel.grid(alpha=0.3, axis="y")
    panel.legend(fontsize=8)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
