"""One problem of the benchmark, in a process of its own; `experiments.benchmark` starts it.

    python -m experiments.benchmark.one_problem CONFIG FOLDER [--seeds N] [--seconds S] [--only WORD] [--memory PEER]

Every run is written when it is complete; what FOLDER already holds is not run again.
"""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import problems, records
from experiments.benchmark.config import (
    FULL_BATCH,
    MINIBATCHES,
    NAMES,
    QUICKLY_COMPILED,
    UNTUNED,
    BenchmarkConfig,
    ConfigError,
    chosen,
    load_benchmark,
    same_problem,
)
from experiments.benchmark.files import read_json, run_path, slug, write_json
from experiments.data import MissingData
from experiments.measuring import command_line, peak_bytes
from experiments.peers import Budget, Peer, Problem, Trace, choose, epochs, with_optax

TUNING_SEED = 1_000_000  # the first one; none that is measured
CAP = 10  # times the seconds of Adam
TRACE_POINTS = 400


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 2 for a bad config, 3 for missing data, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        config = load_benchmark(options.config, options.seeds, options.seconds)
        jax.config.update("jax_enable_x64", config.dtype == "float64")
        task = problems.make_task(config, options.data)
        claim(options.folder, config)
        if options.memory:
            measure_memory(config, task, options.folder, options.memory)
        else:
            measure(config, task, options.folder, options.only)
    except (ConfigError, MissingData) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 3
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("benchmark.one_problem", __doc__, data=True)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--memory", default="", metavar="PEER", choices=NAMES)
    return parser


def claim(folder: Path, config: BenchmarkConfig) -> None:
    """Makes the folder of a problem.

    Raises:
        ConfigError: it holds measurements of another problem.
    """
    if (folder / "config.toml").exists() and not same_problem(load_benchmark(folder / "config.toml"), config):
        raise ConfigError(f"{folder}: holds another problem or protocol; choose another --results or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    records.write_config(folder, config)


def problem_of(config: BenchmarkConfig, task: problems.Task, seed: int) -> tuple[Problem, Callable[[Any], dict]]:
    """The problem of a seed, and the metrics of its parameters on the test rows."""
    params, batch, metrics = task.problem(jax.random.fold_in(jax.random.key(config.seed), seed))
    batch = jax.tree.map(lambda leaf: leaf[: config.train_rows], batch)
    return Problem(task.network, task.loss, params, batch, seed), metrics


def measure(config: BenchmarkConfig, task: problems.Task, folder: Path, only: str = "") -> None:
    """Every peer whose name contains one of the parts of `only`, on every seed, as far as its file is not there."""
    example, _ = problem_of(config, task, TUNING_SEED)
    names = chosen(applicable(config, example), only)
    pending = [name for name in names if any(not run_path(folder, s, name).exists() for s in range(config.seeds))]
    if not pending:
        return
    compile_seconds = {name: first_compilation(name, example) for name in pending}
    tuning = tuned(config, task, folder)
    for seed in range(config.seeds):
        problem, metrics = problem_of(config, task, seed)
        goal = reference(config, problem, folder, tuning)
        shift = seed % len(names)
        for count, name in enumerate([*names[shift:], *names[:shift]]):
            path = run_path(folder, seed, name)
            if path.exists():
                continue
            place = f"{folder.name}, seed {seed + 1} of {config.seeds}, peer {count + 1} of {len(names)}"
            print(f"{place}: {name}", end=" … ", file=sys.stderr, flush=True)
            record = measured(entry(name, tuning), problem, goal, config.max_seconds, metrics)
            labels = {"problem": folder.name, "title": config.title, "loss": config.loss}
            write_json(path, labels | record | {"compile_seconds": compile_seconds[name]})
            print(f"{record['seconds']:.3g} s" + ("" if record["reached"] else ", not reached"), file=sys.stderr)


def applicable(config: BenchmarkConfig, problem: Problem) -> list[str]:
    """The names of the peers to run, after a line for each of the others that could."""
    peers, lines = choose(problem, tuple(peer for peer in UNTUNED if peer.name not in config.leave_out))
    lines += [f"{name} is left out: {reason}" for name, reason in config.leave_out.items()]
    print(*lines, sep="\n", file=sys.stderr, end="\n" if lines else "")
    tunable = [FULL_BATCH, QUICKLY_COMPILED, *([MINIBATCHES] if batch_sizes(problem) else [])]
    return [name for name in NAMES if name in {*tunable, *(peer.name for peer in peers)} - set(config.leave_out)]


def batch_sizes(problem: Problem) -> list[int]:
    """Those of which an epoch has two."""
    return [size for size in with_optax.BATCH_SIZES if epochs.fills_batches(problem, size)]


def entry(name: str, tuning: dict) -> Peer:
    """A peer by name, Adam at its tuned setting."""
    if name in (FULL_BATCH, QUICKLY_COMPILED):
        rate, tier = tuning["full_batch"]["rate"], "full" if name == FULL_BATCH else "fast"
        return Peer(name, partial(with_optax.adam, learning_rate=rate, tier=tier), setting=f"rate {rate:g}")
    if name == MINIBATCHES:
        rate, size = tuning["minibatches"]["rate"], tuning["minibatches"]["batch_size"]
        run = partial(with_optax.minibatch_adam, learning_rate=rate, batch_size=size)
        return Peer(name, run, unit="epoch", setting=f"rate {rate:g}, batches of {size}")
    return next(peer for peer in UNTUNED if peer.name == name)


def untuned(name: str, problem: Problem) -> Peer:
    """A peer before it is tuned, to see what does not depend on it."""
    sizes = batch_sizes(problem) or [0]
    return entry(name, {"full_batch": {"rate": 1e-3}, "minibatches": {"rate": 1e-3, "batch_size": sizes[0]}})


def first_compilation(name: str, problem: Problem) -> float:
    """Seconds of tracing and compilation, with nothing compiled before; NaN where the peer fails."""
    jax.clear_caches()  # peers share programs, and would share their cost
    try:
        return untuned(name, problem).run(problem, Budget(max_steps=1)).compile_seconds
    except Exception:  # told with its reason when it is measured
        return math.nan


def tuned(config: BenchmarkConfig, task: problems.Task, folder: Path) -> dict:
    """The rates of Adam, and the size of its batches, by the median loss over tuning seeds."""
    path = folder / "tuning.json"
    if not path.exists():
        print(f"{folder.name}: tuning the rates of Adam", file=sys.stderr)
        seeds = range(TUNING_SEED, TUNING_SEED + config.tuning_seeds)
        write_json(path, tune([problem_of(config, task, seed)[0] for seed in seeds], config.target_steps))
    return read_json(path)


def tune(samples: list[Problem], steps: int) -> dict:
    """The settings with the lowest median loss, and those losses: all rows after `steps`, minibatches in that time."""
    budget = Budget(math.inf, steps)
    traces = {rate: [with_optax.adam(problem, budget, rate) for problem in samples] for rate in with_optax.RATES}
    losses = {rate: float(np.median([trace.lowest for trace in each])) for rate, each in traces.items()}
    rate = min(losses, key=lambda rate: losses[rate])
    seconds = float(np.median([trace.seconds[-1] for trace in traces[rate]]))
    tuning = {"full_batch": {"rate": rate, "losses": losses, "seconds": seconds}}
    if batch_sizes(samples[0]):
        tuning["minibatches"] = tune_minibatches(samples, seconds)
    return tuning


def tune_minibatches(samples: list[Problem], seconds: float) -> dict:
    """Rate and batch size with the lowest median loss after some seconds."""
    run, budget = with_optax.minibatch_adam, Budget(seconds)
    pairs = [(rate, size) for rate in with_optax.RATES for size in batch_sizes(samples[0])]
    losses = {pair: float(np.median([run(one, budget, *pair).lowest for one in samples])) for pair in pairs}
    rate, size = min(losses, key=lambda pair: losses[pair])
    return {"rate": rate, "batch_size": size, "losses": {f"{r:g}, {s}": loss for (r, s), loss in losses.items()}}


def reference(config: BenchmarkConfig, problem: Problem, folder: Path, tuning: dict) -> dict:
    """Where tuned Adam gets on all rows, the target of all; and its seconds, which measure their budgets."""
    path = folder / f"seed-{problem.seed}" / "reference.json"
    if not path.exists():
        trace = entry(FULL_BATCH, tuning).run(problem, Budget(math.inf, config.target_steps))
        goal = {"target": trace.lowest, "budget": float(trace.seconds[-1]), "steps": len(trace.losses) - 1}
        write_json(path, goal)
    return read_json(path)


def measured(one: Peer, problem: Problem, goal: dict, max_seconds: float, metrics: Callable[[Any], dict]) -> dict:
    """A run as a record: a row of the table, and the trace.

    The run goes on until the target is reached, at least for the budget, and at most for ten of it. Where the target
    is not reached, `seconds` is that end, a lower bound, also if the peer gave up before.
    """
    # Twice at least: on a busy machine Adam itself may take longer than before.
    cap = max(2 * goal["budget"], min(CAP * goal["budget"], max_seconds))
    budget = Budget(cap, target_loss=goal["target"], min_seconds=goal["budget"])
    record: dict = {"peer": one.name, "setting": one.setting, "unit": one.unit, "seed": problem.seed}
    record |= {"parameters": problem.network.num_params, "rows": problem.batch.inputs.shape[0]}
    record |= {"target": goal["target"], "budget": goal["budget"], "cap": cap}
    try:
        trace = one.run(problem, budget)
    except Exception as error:  # a peer that breaks has not reached the target; the others go on
        failure = {"reached": False, "seconds": cap, "steps": 0, "best_loss": math.nan}
        return record | failure | {"note": f"failed: {error!r}"[:300], "trace": {"seconds": [], "losses": []}}
    seconds = trace.seconds_to(goal["target"])
    reached = seconds <= cap
    record |= {"reached": reached, "seconds": seconds if reached else cap, "steps": len(trace.losses) - 1}
    record |= {name: float(value) for name, value in metrics(trace.params).items()}
    return record | {"best_loss": trace.lowest, "note": trace.note, "trace": thin(trace)}


def thin(trace: Trace, most: int = TRACE_POINTS) -> dict:
    """When the best loss so far fell, and to what; the last of them in each of `most` equal ratios of time."""
    best = np.fmin.accumulate(trace.losses)
    falls = np.flatnonzero(np.diff(best) < 0) + 1
    if len(falls) > most:
        edges = np.geomspace(trace.seconds[falls[0]], trace.seconds[falls[-1]], most)
        falls = falls[np.unique(np.searchsorted(trace.seconds[falls], edges, side="right") - 1)]
    # The grid's end may be rounded down, but the lowest loss must not be lost.
    kept = np.union1d(np.array([0, np.argmax(best == best[-1])]), falls)
    return {"seconds": trace.seconds[kept].tolist(), "losses": best[kept].tolist()}


def measure_memory(config: BenchmarkConfig, task: problems.Task, folder: Path, name: str, seconds: float = 2.0) -> None:
    """Writes the peak of this process beyond what libraries and data take, compilation included, in MiB."""
    path = folder / "memory" / f"{slug(name)}.json"
    problem, _ = problem_of(config, task, TUNING_SEED)
    if path.exists() or name not in applicable(config, problem):
        return
    one = untuned(name, problem)
    importlib.import_module(one.needs)
    before = peak_bytes()
    one.run(problem, Budget(seconds))
    write_json(path, {"problem": folder.name, "peer": name, "mebibytes": (peak_bytes() - before) / 2**20})


if __name__ == "__main__":
    sys.exit(main())
