"""Where the time of the main job goes.

    python -m experiments.studies.speed [CONFIG] [--members N] [--repeats N]

For ILLS with each solver and for Adam, measured in alternation in one process, medians of several: compilation, a
member-step in a sweep (all cores), the same in a Python loop over single compiled runs, and the least-squares solves
of a step alone. Milliseconds; ratios mean more than times, since machines are shared.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
from jax import lax

import jills
from experiments import problems
from experiments.config import load_config
from jills import solvers
from jills.network import total_input, with_bias

SOLVERS = {"lstsq": solvers.lstsq, "qr": solvers.qr, "cholesky": solvers.cholesky}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.speed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/sunspots.toml"), metavar="CONFIG")
    parser.add_argument("--members", type=int, default=40, metavar="N", help="networks in the sweep (default: 40)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each (default: 5)")
    parser.add_argument("--data", default="data", metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    task = problems.make_task(config, options.data)
    table = measure(task, config.num_steps, options.members, options.repeats)
    print(f"{config.title}, {config.dtype}, {options.members} networks, {config.num_steps} steps; ms a member-step:")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    return 0


def measure(task: problems.Task, num_steps: int, members: int, repeats: int, methods=SOLVERS) -> pd.DataFrame:
    """One row an algorithm; every repeat measures all of them, one after the other."""
    keys = jax.random.split(jax.random.key(0), members)
    params, batch, _ = task.problem(keys[0])
    algorithms: dict[str, jills.Algorithm] = {"adam": jills.adam.build(task.network)}
    algorithms |= {f"ills, {name}": jills.ills.build(task.network, solver=one) for name, one in methods.items()}
    rows = {}
    calls: dict[str, list[Callable[[], float]]] = {}
    for name, algorithm in algorithms.items():
        sweep = partial(jills.sweep, algorithm, algorithm.defaults, task.problem, keys, num_steps)
        rows[name] = {"algorithm": name, "compile_s": sweep().compile_seconds}
        single = partial(jills.run, algorithm, algorithm.defaults, params, batch, num_steps)
        calls[name] = [lambda sweep=sweep: sweep().run_seconds / members, partial(clock, single)]
        if name != "adam":
            solves = partial(solve_only, algorithm, params, batch, num_steps)
            calls[name].append(partial(clock, solves))
        for call in calls[name]:
            call()  # compiles
    seconds = {name: [[] for _ in each] for name, each in calls.items()}
    for _ in range(repeats):
        for name, each in calls.items():
            for index, call in enumerate(each):
                seconds[name][index].append(call())
    for name, measured in seconds.items():
        columns = zip(("in_a_sweep", "in_a_loop", "solves_alone"), measured, strict=False)
        rows[name] |= {column: 1e3 * statistics.median(each) / num_steps for column, each in columns}
    table = pd.DataFrame(rows.values())
    table["solves_share"] = table["solves_alone"] / table["in_a_loop"]
    table["sweep_gain"] = table["in_a_loop"] / table["in_a_sweep"]
    return table


def clock(call: Callable[[], object]) -> float:
    """Seconds of a call, its results computed."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


@partial(jax.jit, static_argnums=(0, 3))
def solve_only(algorithm: jills.ills.Ills, params: jills.Params, batch: jills.Batch, num_steps: int) -> jax.Array:
    """The solves of `num_steps` ILLS steps, always on the matrices of the start, and nothing else."""
    matrices = problem_matrices(algorithm.network, params, batch)

    def body(total, _):
        for matrix, right in matrices:
            # The sum enters, so that no solve can be taken out of the loop.
            solution = algorithm.solver.solve(matrix, right + 0 * total)
            total = jnp.sum(solution.x)
        return total, None

    return lax.scan(body, jnp.zeros((), params[0].weight.dtype), length=num_steps)[0]


def problem_matrices(network: jills.Network, params: jills.Params, batch: jills.Batch) -> list:
    """Matrix and right-hand side of every solve of a step: one a layer, and one a deviation."""
    below, matrices = (batch.inputs, *network.forward(params, batch.inputs)), []
    for layer in range(network.num_layers):
        target = jnp.broadcast_to(batch.targets[:, :1], below[layer + 1].shape)
        matrices.append((with_bias(below[layer]), target))
        if layer > 0:
            rows = with_bias(below[layer - 1])
            slope = network.activations[layer - 1].derivative(total_input(params[layer - 1], rows[:, :-1]))
            weight = params[layer].weight
            wide = jnp.einsum("nj,ni,jk->nkji", slope, rows, weight)
            matrices.append((wide.reshape(-1, slope.shape[1] * rows.shape[1]), target.reshape(-1, 1)))
    return matrices


if __name__ == "__main__":
    sys.exit(main())
