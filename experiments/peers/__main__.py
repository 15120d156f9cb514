"""How long a step of each peer takes: a small tanh network on the diabetes data of scikit-learn.

    python -m experiments.peers [--seconds S] [--dtype float32|float64] [--widths N …] [--only WORD]

A step is what the library calls one, so this is not a comparison; losses over time are.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

import jills
from experiments.peers import PEERS, Budget, Peer, Problem, choose


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each peer (default: 2)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--widths", type=int, nargs="+", default=[20, 20], metavar="N", help="hidden (default: 20 20)")
    parser.add_argument("--only", default="", metavar="WORD", help="peers whose name contains it")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    problem = diabetes(options.dtype, options.widths)
    peers, lines = choose(problem, tuple(peer for peer in PEERS if options.only.lower() in peer.name.lower()))
    rows = []
    for peer in peers:
        print(peer.name, end=" … ", file=sys.stderr, flush=True)
        rows.append(row(peer, problem, options.seconds))
    print(file=sys.stderr)
    print(f"{problem.network.sizes}, {options.dtype}, {options.seconds:g} s each")
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    print(*lines, sep="\n")
    return 0


def diabetes(dtype: str, widths: Sequence[int]) -> Problem:
    """442 rows of ten inputs and one target, standardised."""
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes()
    inputs, targets = ((array - array.mean(0)) / array.std(0) for array in (data.data, data.target))
    network = jills.Network((10, *widths, 1), jills.activations.tanh)
    batch = jills.Batch(jnp.asarray(inputs, dtype), jnp.asarray(targets[:, None], dtype))
    return Problem(network, jills.losses.squared_error, network.init(jax.random.key(0), dtype), batch)


def row(peer: Peer, problem: Problem, seconds: float) -> dict:
    """What one run of a peer showed."""
    trace = peer.run(problem, Budget(max_seconds=seconds))
    steps = len(trace.losses) - 1
    return {
        "peer": peer.name,
        "unit": peer.unit,
        "steps": steps,
        "ms_a_step": 1e3 * trace.seconds[-1] / steps,
        "compile_s": trace.compile_seconds,
        "best_loss": trace.losses.min(),
        "end": trace.note,
    }


if __name__ == "__main__":
    sys.exit(main())
