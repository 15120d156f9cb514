"""The main job: every algorithm × its hyperparameters × seeds on one problem.

    python -m experiments.compare configs/sunspots.toml [--set key=value …] [--results FOLDER] [--data FOLDER]

All algorithms get the same data, the same starts and the same number of steps. Leaves a new folder with
`results.nc`, `summary.csv`, the resolved config, versions and device, and figures. Ctrl-C keeps what is complete.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jills
from experiments import figures, problems, records
from experiments.config import (
    Config,
    ConfigError,
    algorithms_of,
    build_algorithm,
    build_hparams,
    load_config,
)
from experiments.data import MissingData
from experiments.measuring import command_line, uninterrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 2 for a bad config, 3 for missing data, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config, options.set)
        jax.config.update("jax_enable_x64", config.dtype == "float64")
        task = problems.make_task(config, options.data)
        check_problem(config, task)
    except (ConfigError, MissingData) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 3
    except ValueError as error:  # an option that does not fit the data, the network or the loss
        print(f"{options.config}: {error}", file=sys.stderr)
        return 2
    folder = records.new_folder(options.results, options.config)
    records.write_config(folder, config)
    print(f"{config.title}: {', '.join(algorithms_of(config))}; {config.seeds} seeds, {config.num_steps} steps")
    outcomes, interrupted = run_all(config, task)
    if not outcomes:
        print(f"interrupted before the first chunk of steps was complete; nothing to keep but {folder}")
        return 130
    with uninterrupted():
        finish(folder, config, task, outcomes)
    if interrupted:
        steps = ", ".join(f"{outcome.name} {outcome.result.num_steps} steps" for outcome in outcomes)
        print(f"interrupted: kept and written is what was complete ({steps} of {config.num_steps})")
    print(f"results in {folder}")
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("compare", __doc__, "results", data=True)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a file of configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the config")
    return parser


def run_all(config: Config, task: problems.Task) -> tuple[list[records.Outcome], bool]:
    """One sweep per algorithm, one after the other; the list is shorter, and the flag set, after Ctrl-C."""
    outcomes = []
    for name in algorithms_of(config):
        try:
            outcomes.append(run_one(config, task, name))
        except KeyboardInterrupt:
            return outcomes, True
        if outcomes[-1].result.interrupted:
            return outcomes, True
    return outcomes, False


def check_problem(config: Config, task: problems.Task) -> None:
    """Raises ValueError where data are known not to fit: here their values are known, in the sweep they are not."""
    key = jax.random.split(jax.random.key(config.seed), config.seeds)[0]
    params, batch, _ = task.problem(key)
    for name in algorithms_of(config):
        build_algorithm(config, name, task.network).check_problem(params, batch)


def run_one(config: Config, task: problems.Task, name: str) -> records.Outcome:
    """The sweep of one algorithm over its hyperparameters and all seeds."""
    algorithm, hparams = build_algorithm(config, name, task.network), build_hparams(config, name)
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    bar = jills.progress_bar(config.num_steps, name)
    # In the full tier: the seconds of a step are to be told.
    result = jills.sweep(
        algorithm, hparams, task.problem, keys, config.num_steps, config.chunk_steps, bar, compile="full"
    )
    settings = {field: np.asarray(values) for field, values in hparams._asdict().items()}
    with uninterrupted():
        final = problems.metrics_of(task.problem, result.state.params, keys)
        return records.Outcome(name, settings, result, jax.tree.map(np.asarray, final), predict(task, result))


def predict(task: problems.Task, result: jills.SweepResult) -> np.ndarray | None:
    """Predictions `(S, n_test, k)` for the test rows, at the setting with the lowest median training loss."""
    if task.dataset is None:
        return None
    return np.asarray(result.predict(task.dataset.test.inputs, best=True)[best_index(result.state.best_loss)])


def best_index(losses) -> int:
    """The setting with the lowest median over seeds of losses `(H, S)`."""
    return int(np.argmin(np.median(records.diverged_last(losses), axis=1)))


def finish(folder: Path, config: Config, task: problems.Task, outcomes: list[records.Outcome]) -> None:
    """Writes arrays, table and figures, and prints the table."""
    dataset, summary = records.to_dataset(outcomes, config), records.summarize(outcomes)
    records.write_results(folder, dataset, summary)
    figures.draw_all(folder, dataset, task.dataset)
    print()
    print(printable(summary).to_string(index=False))
    for outcome in outcomes:
        result = outcome.result
        print(f"{outcome.name}: compiled in {result.compile_seconds:.1f} s, ran in {result.run_seconds:.1f} s")
    if task.dataset is not None:
        known = problems.baselines(task.dataset, task.loss)
        measure = "loss" if task.dataset.num_classes is None else "accuracy"
        print(f"test {measure} without a network: " + ", ".join(f"{name} {value:.3g}" for name, value in known.items()))


def printable(summary: pd.DataFrame) -> pd.DataFrame:
    """The columns of the summary that fit a terminal, three digits each."""
    varied = [n for n in HPARAMS if n in summary and max(summary.groupby("algorithm")[n].nunique()) > 1]
    medians = [name for name in summary.columns if name.endswith("_median")]
    statuses = [status for status in records.STATUSES if max(summary[status]) > 0]
    shown = {"algorithm": list(summary["algorithm"])}
    for name in (*varied, *medians, *statuses, "ms_per_member_step"):
        digits = "{:.0%}" if name in statuses else "{:.3g}"
        known = zip(summary[name], summary[name].notna(), strict=True)
        shown[name.removesuffix("_median")] = [digits.format(value) if there else "" for value, there in known]
    return pd.DataFrame(shown)


HPARAMS = ("learning_rate", "ridge", "weight_decay", "damping", "b1", "b2", "eps")

if __name__ == "__main__":
    sys.exit(main())
