"""Where the time of the main job goes.

    python -m experiments.studies.speed [CONFIG] [--members N] [--repeats N]

For ILLS with each solver and for Adam, measured in alternation in one process, medians of several: compilation, a
member-step in a sweep (all cores), the same in a Python loop over single compiled runs, and the least-squares solves
of a step alone. Milliseconds; ratios mean more than times, since machines are shared.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
from jax import lax

import jills
from experiments import problems
from experiments.config import load_config
from experiments.measuring import clock, command_line, medians
from jills import solvers

SOLVERS = {"lstsq": solvers.lstsq, "qr": solvers.qr, "cholesky": solvers.cholesky}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = command_line("studies.speed", __doc__, data=True)
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/sunspots.toml"), metavar="CONFIG")
    parser.add_argument("--members", type=int, default=40, metavar="N", help="networks in the sweep (default: 40)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each (default: 5)")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    task = problems.make_task(config, options.data)
    table = measure(task, config.num_steps, options.members, options.repeats)
    print(f"{config.title}, {config.dtype}, {options.members} networks, {config.num_steps} steps; ms a member-step:")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    return 0


def measure(task: problems.Task, num_steps: int, members: int, repeats: int, methods=SOLVERS) -> pd.DataFrame:
    """One row per algorithm; every repeat measures all of them, one after the other."""
    keys = jax.random.split(jax.random.key(0), members)
    params, batch, _ = task.problem(keys[0])
    algorithms: dict[str, jills.Algorithm] = {"adam": jills.adam.build(task.network)}
    algorithms |= {f"ills, {name}": jills.ills.build(task.network, solver=one) for name, one in methods.items()}
    rows, calls = {}, {}
    for name, algorithm in algorithms.items():
        sweep = partial(jills.sweep, algorithm, algorithm.defaults, task.problem, keys, num_steps)
        single = partial(jills.run, algorithm, algorithm.defaults, params, batch, num_steps)
        rows[name] = {"algorithm": name, "compile_s": sweep().compile_seconds}
        calls[name, "in_a_sweep"] = lambda sweep=sweep: sweep().run_seconds / members
        calls[name, "in_a_loop"] = lambda single=single: clock(single)[0]
        if name != "adam":
            solves = partial(solve_only, algorithm, params, batch, num_steps)
            calls[name, "solves_alone"] = lambda solves=solves: clock(solves)[0]
    medians(calls, 1)  # compiles
    for (name, column), seconds in medians(calls, repeats).items():
        rows[name][column] = 1e3 * seconds / num_steps
    table = pd.DataFrame(rows.values())
    table["solves_share"] = table["solves_alone"] / table["in_a_loop"]
    table["sweep_gain"] = table["in_a_loop"] / table["in_a_sweep"]
    return table


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
    """Matrix and right-hand side of every solve of a step: one for each layer, and one for each deviation."""
    inputs, matrices = (batch.inputs, *network.forward(params, batch.inputs)), []
    for layer in range(network.num_layers):
        rows = with_ones(inputs[layer])
        target = jnp.broadcast_to(batch.targets[:, :1], inputs[layer + 1].shape)
        matrices.append((rows, target))
        if layer > 0:
            rows, below = with_ones(inputs[layer - 1]), params[layer - 1]
            slope = network.activations[layer - 1].derivative(rows[:, :-1] @ below.weight + below.bias[None, :])
            wide = jnp.einsum("nj,ni,jk->nkji", slope, rows, params[layer].weight)
            matrices.append((wide.reshape(-1, slope.shape[1] * rows.shape[1]), target.reshape(-1, 1)))
    return matrices


def with_ones(rows: jax.Array) -> jax.Array:
    """A column of ones beside them, for the bias."""
    return jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)


if __name__ == "__main__":
    sys.exit(main())
