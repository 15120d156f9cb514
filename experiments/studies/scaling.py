"""How seconds, memory and compilation grow with rows, width, depth, outputs and members.

    python -m experiments.studies.scaling [--rows N …] [--width N …] [--depth N …] [--outputs N …] [--members N …]
        [--algorithms NAME …] [--base KEY=N …] [--repeats N] [--results FOLDER]

One axis at a time around a base point: 1000 rows, 8-20-20-1, float32, one network. An axis given without values is
left out. At each point the algorithms are measured in alternation. Leaves a new folder with `scaling.csv`,
`exponents.csv`, versions and device, and `scaling.png`. Ctrl-C keeps what is measured.

Seconds are those of a step after compilation; on the axis of members, of one step of all members of a sweep. Every
timing starts at the same random start. Bytes are XLA's own sum for the compiled step: arguments, results and
temporaries. `share` is the arithmetic of a step on paper (`arithmetic`) over its seconds, as a part of the rate at
which the machine multiplies large matrices of the same dtype.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax import lax
from jax.tree_util import Partial

import jills
from experiments import figures, measuring, problems, records
from experiments.measuring import command_line
from experiments.studies import arithmetic

Timed = Callable[[], float]


class Point(NamedTuple):
    """What is measured at once."""

    rows: int = 1000
    width: int = 20  # of every hidden layer
    depth: int = 2  # hidden layers
    outputs: int = 1
    members: int = 1
    inputs: int = 8

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the network."""
        return (self.inputs, *self.depth * (self.width,), self.outputs)


AXES = {
    "rows": (250, 1000, 4000, 16000, 64000),
    "width": (5, 10, 20, 40, 80, 160, 320),
    "depth": (1, 2, 5, 10, 20),
    "outputs": (1, 2, 4, 8, 16),
    "members": (1, 4, 16, 64, 256, 1024),
}


class Limits(NamedTuple):
    """How long and how often to measure, and what to leave out."""

    repeats: int = 5
    seconds: float = 0.2  # of a measurement; so many steps are taken in it
    max_steps: int = 1000
    longest: float = 5.0  # seconds of a step above which it is measured once, or left out
    max_bytes: float = 1e9  # of the deviation matrix of ILLS


BLOCK_BY_BLOCK = jills.gauss_newton.Automatic(quasi_newton=None)  # the step whose arithmetic is counted on paper
BUILDERS: dict[str, Callable[[jills.Network], jills.Algorithm]] = {
    "gauss_newton": lambda network: jills.gauss_newton.build(network, linear_solver=BLOCK_BY_BLOCK),
    "ills": lambda network: jills.ills.build(network, solver=jills.solvers.qr),
    "adam": lambda network: jills.adam.build(network),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    base = Point()._replace(**{key: int(value) for key, value in (text.split("=") for text in options.base)})
    places = [(axis, value) for axis in AXES for value in getattr(options, axis)]
    limits = Limits(repeats=options.repeats, seconds=options.seconds, longest=options.longest)
    folder = records.new_folder(options.results, "scaling")
    records.write_environment(folder)
    rate = measuring.matmul_rate(options.dtype, options.matmul_size)
    print(f"{options.dtype}, {records.environment()['device']}: {rate / 1e9:.3g} G multiply-adds a second in a matmul")
    work = partial(paper, iterations=options.cg_iterations)
    rows, interrupted = measuring.collect(
        measure(base, places, options.algorithms, options.dtype, rate, limits, work),
        len(places) * len(options.algorithms),
        lambda row: f"{row['axis']} {row['value']}: {row['algorithm']}",
    )
    with measuring.uninterrupted():
        finish(folder, rows)
    print(f"{'interrupted; ' if interrupted else ''}results in {folder}")
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("studies.scaling", __doc__, "results")
    for axis, values in AXES.items():
        parser.add_argument(f"--{axis}", type=int, nargs="*", default=values, metavar="N")
    parser.add_argument("--algorithms", nargs="+", choices=BUILDERS, default=list(BUILDERS), metavar="NAME")
    parser.add_argument("--base", nargs="*", default=[], metavar="KEY=N", help=f"of {', '.join(Point._fields)}")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measurements of each (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.2, metavar="S", help="of a measurement (default: 0.2)")
    parser.add_argument("--longest", type=float, default=5.0, metavar="S", help="a step that is repeated (default: 5)")
    parser.add_argument("--cg-iterations", type=float, default=5, metavar="N", help="on paper, a layer (default: 5)")
    parser.add_argument("--matmul-size", type=int, default=2048, metavar="N", help="of the rate (default: 2048)")
    return parser


def paper(name: str, sizes: Sequence[int], rows: int, iterations: float) -> float:
    """Multiply-adds of a step of one network."""
    if name == "gauss_newton":
        return arithmetic.gauss_newton(sizes, rows, iterations)
    return {"ills": arithmetic.ills, "adam": arithmetic.adam}[name](sizes, rows)


def make_problem(point: Point, dtype: str, sizes: tuple[int, ...] | None = None) -> tuple[jills.Network, Partial]:
    """A tanh network and its problem: inputs uniform in (-1, 1), targets of another network of the same shape."""
    network = jills.Network(point.sizes if sizes is None else sizes, jills.activations.tanh)
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.uniform(keys[0], (point.rows, point.inputs), dtype, -1, 1)
    batch = jills.Batch(inputs, network.predict(network.init(keys[1], dtype), inputs))
    return network, problems.random_start(network, dtype, batch)


@partial(jax.jit, static_argnums=0)
def steps(algorithm: jills.Algorithm, count: jax.Array, hparams: Any, state: jills.State, batch: jills.Batch):
    """`count` steps from a state; a number, so that one program serves any count."""
    return lax.fori_loop(0, count, lambda _, state: algorithm.step(hparams, state, batch)[0], state)


class Compiled(NamedTuple):
    """The program of one network, and what is known of it."""

    run: Callable[[int], Any]  # number of steps → the last state
    compile_seconds: float
    first_seconds: float  # of a step, roughly
    argument_bytes: float
    output_bytes: float
    temporary_bytes: float


def compile_steps(algorithm: jills.Algorithm, problem: Partial) -> Compiled:
    """Traces and compiles `steps`, runs it once."""
    params, batch = problem(jax.random.key(1))
    state = jax.block_until_ready(algorithm.init(params, batch))
    rest = (algorithm.defaults, state, batch)
    began = time.perf_counter()
    program = steps.lower(algorithm, np.int32(1), *rest).compile()
    seconds = time.perf_counter() - began
    sizes = program.memory_analysis()  # None on some platforms
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    run = lambda count: program(np.int32(count), *rest)  # noqa: E731 closes over what is fixed
    jax.block_until_ready(run(1))
    first = measuring.clock(partial(run, 1))[0]
    if first < 0.02:  # most of it may be the call itself
        first = measuring.clock(partial(run, 20))[0] / 20
    return Compiled(run, seconds, first, *(float(getattr(sizes, name, math.nan)) for name in names))


def measure(base: Point, places, names: Sequence[str], dtype: str, rate: float, limits: Limits, work) -> Iterator[dict]:
    """One row for each place and algorithm; `places` are pairs of an axis and a value on it."""
    for axis, value in places:
        point = base._replace(**{axis: value})
        jax.clear_caches()  # so that the base point compiles again on every axis
        network, task = make_problem(point, dtype)
        rows, calls = {}, {}
        for name in names:
            adds = point.members * work(name, point.sizes, point.rows)
            rows[name] = {"axis": axis, "value": value, "algorithm": name, **point._asdict(), "dtype": dtype}
            rows[name] |= {"num_params": network.num_params, "multiply_adds": adds, "matmul_rate": rate}
            rows[name]["note"] = too_large(name, point, dtype, adds / rate, limits)
            if not rows[name]["note"]:
                about, call = prepare(BUILDERS[name](network), task, point, limits)
                rows[name] |= about
                if call is not None:
                    calls[name] = call
        for name, seconds in measuring.medians(calls, limits.repeats).items():
            rows[name]["seconds"] = seconds
        for row in rows.values():
            row["share"] = row["multiply_adds"] / rate / row.get("seconds", math.nan)
            yield row


def too_large(name: str, point: Point, dtype: str, least: float, limits: Limits) -> str:
    """Why a point is left out; empty if it is not."""
    needed = arithmetic.deviation_entries(point.sizes, point.rows) * np.dtype(dtype).itemsize
    if name == "ills" and needed > limits.max_bytes:
        return f"left out: deviation matrix of {needed / 1e9:.1f} GB"
    if least > limits.longest:
        return f"left out: at least {least:.0f} s a step, on paper"
    return ""


def prepare(algorithm: jills.Algorithm, task: Partial, point: Point, limits: Limits) -> tuple[dict, Timed | None]:
    """What compilation tells of a point, and the call that measures a step of it, None if that takes too long."""
    compiled = compile_steps(algorithm, task)
    kept, temporary = compiled.argument_bytes + compiled.output_bytes, compiled.temporary_bytes
    about = {"compile_seconds": compiled.compile_seconds, "temporary_bytes": temporary}
    if point.members == 1:
        about["peak_bytes"] = kept + temporary
        if compiled.first_seconds > limits.longest:
            return about | {"seconds": compiled.first_seconds, "note": "measured once"}, None
        count = _clip(limits.seconds / compiled.first_seconds, limits.max_steps)
        return about, lambda: measuring.clock(partial(compiled.run, count))[0] / count
    # On a CPU members wait as states while a core steps one of them; elsewhere all step at once.
    at_once = jills.training.num_cores() if jax.local_devices()[0].platform == "cpu" else point.members
    about["peak_bytes"] = point.members * kept + min(at_once, point.members) * temporary
    expected = point.members * compiled.first_seconds / at_once
    if expected > limits.longest:
        return about | {"note": f"left out: about {expected:.0f} s a step"}, None
    keys = jax.random.split(jax.random.key(1), point.members)
    chunk = _clip(limits.seconds / expected, limits.max_steps)
    timed = partial(measuring.second_chunk, algorithm, algorithm.defaults, task, keys, chunk)
    about["compile_seconds"] = timed().compile_seconds
    return about, lambda: timed().seconds / chunk


def _clip(count: float, largest: int) -> int:
    return int(min(max(count, 1), largest))


def over_adam(table: pd.DataFrame, quantities: Iterable[str]) -> pd.DataFrame:
    """The table with quantities over those of Adam at the same place, as columns `<quantity>_ratio`."""
    names = list(quantities)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *names])))
    adam = table[table["algorithm"] == "adam"].set_index(["axis", "value"])[names].add_suffix("_adam")
    both = table.join(adam, on=["axis", "value"])
    return table.assign(**{f"{name}_ratio": both[name] / both[f"{name}_adam"] for name in names})


def exponent(sizes, values) -> float:
    """Slope of `log values` against `log sizes` over the upper half of the sizes, on the logarithmic scale."""
    sizes, values = np.asarray(sizes, float), np.asarray(values, float)
    known = np.isfinite(values) & (values > 0)
    sizes, values = np.log(sizes[known]), np.log(values[known])
    if len(np.unique(sizes)) < 2:
        return math.nan
    upper = sizes >= (sizes.min() + sizes.max()) / 2
    if len(np.unique(sizes[upper])) < 2:  # the two largest, at least
        upper = sizes >= np.unique(sizes)[-2]
    return float(np.polyfit(sizes[upper], values[upper], 1)[0])


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each axis and algorithm: exponents of seconds, of the arithmetic, of bytes and of compilation."""
    columns = ("seconds", "multiply_adds", "peak_bytes", "compile_seconds")
    rows = []
    for axis, name in dict.fromkeys(zip(table["axis"], table["algorithm"], strict=True)):
        part = table.loc[(table["axis"] == axis) & (table["algorithm"] == name)]
        measured = part.loc[np.isfinite(part["seconds"].to_numpy(float))]
        rows.append({"axis": axis, "algorithm": name, "from": part["value"].min(), "to": measured["value"].max()})
        rows[-1] |= {column: exponent(measured["value"], measured[column]) for column in columns}
    return pd.DataFrame(rows)


def finish(folder: Path, rows: list[dict]) -> None:
    """Writes tables and figure, and prints the tables."""
    if not rows:
        return
    table = over_adam(pd.DataFrame(rows), ("seconds", "peak_bytes", "compile_seconds"))
    table.to_csv(folder / "scaling.csv", index=False)
    slopes = exponents(table)
    slopes.to_csv(folder / "exponents.csv", index=False)
    figure_of(table, slopes, folder / "scaling.png")
    shown = table[["axis", "value", "algorithm"]].assign(
        ms=1e3 * table["seconds"],
        ratio_to_adam=table["seconds_ratio"],
        share_of_matmul=table["share"],
        peak_MB=table["peak_bytes"] / 1e6,
        compile_s=table["compile_seconds"],
        note=table["note"],
    )
    print(shown.to_string(index=False, float_format="{:.3g}".format))
    print("\nexponents over the upper half of each range:")
    print(slopes.to_string(index=False, float_format="{:.2f}".format))


def figure_of(table: pd.DataFrame, slopes: pd.DataFrame, path: Path) -> None:
    """Seconds, bytes and compilation (rows) against each axis (columns)."""
    axes_names = list(dict.fromkeys(table["axis"]))
    quantities = {"seconds": "seconds a step", "peak_bytes": "peak bytes", "compile_seconds": "seconds to compile"}
    figure, panels = figures.subplots(len(quantities), len(axes_names), sharey="row")
    for row, (quantity, label) in enumerate(quantities.items()):
        for column, axis in enumerate(axes_names):
            panel = panels[row, column]
            for name, part in table[table["axis"] == axis].groupby("algorithm", sort=False):
                slope = float(slopes.set_index(["axis", "algorithm"]).loc[(axis, name), quantity])
                text = figures.NAMES[str(name)] + (f", exponent {slope:.2f}" if math.isfinite(slope) else "")
                panel.plot(part["value"], part[quantity], label=text, **figures.style(str(name)))
            panel.set(xscale="log", yscale="log", xlabel=axis if row == len(quantities) - 1 else "")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)  # above the curves
        panels[row, 0].set_ylabel(label)
    figures.write(figure, path)


if __name__ == "__main__":
    sys.exit(main())
