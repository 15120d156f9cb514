"""The benchmark: time to target against every peer, one config for each problem.

    python -m experiments.benchmark configs/benchmark/*.toml [--seeds N] [--seconds S] [--only WORD] [--memory]
                                    [--results FOLDER] [--data FOLDER]

Each problem is measured in a process of its own, since what is compiled and 64 bits belong to the process. Every run is
on disk as soon as it is complete; after Ctrl-C the same command goes on where it was, and the report is about all that
FOLDER holds. To measure a peer again, delete its files there. Without a config it only reports.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.benchmark.config import NAMES, ConfigError, chosen, load_benchmark
from experiments.benchmark.figures import curve_figure, ratio_figure
from experiments.benchmark.files import read_memory, read_runs, read_tuning, slug
from experiments.benchmark.ratios import curves, ours_in, summarize, with_losses
from experiments.benchmark.tables import markdown
from experiments.figures import write
from experiments.measuring import command_line
from experiments.records import write_text
from jills.training import write_whole

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a problem broke, 2 for a bad config, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        for path in options.configs:
            load_benchmark(path, options.seeds, options.seconds)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    status = 0
    try:
        for path in options.configs:
            status = max(status, run_problem(path, options))
    except KeyboardInterrupt:
        print("interrupted: what is complete is kept; the same command goes on from there", file=sys.stderr)
        status = 130
    report(Path(options.results))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = command_line("benchmark", __doc__, "results/benchmark", data=True)
    parser.add_argument("configs", type=Path, nargs="*", metavar="CONFIG", help="files of configs/benchmark/")
    parser.add_argument("--seeds", type=int, metavar="N", help="in place of those of the configs")
    parser.add_argument("--seconds", type=float, metavar="S", help="the longest run, in place of those of the configs")
    parser.add_argument("--only", default="", metavar="WORD", help="peers whose name contains it; several: A,B")
    parser.add_argument("--memory", action="store_true", help="also the memory of each peer, in a process of its own")
    return parser


def run_problem(path: Path, options: argparse.Namespace) -> int:
    """Measures one problem; returns 1 if it broke. Data that are not on this machine are told and passed over.

    Raises:
        KeyboardInterrupt: also where only the process below received it.
    """
    command = [str(path), str(Path(options.results) / path.stem), "--data", options.data, "--only", options.only]
    for name in ("seeds", "seconds"):
        command += [] if getattr(options, name) is None else [f"--{name}", str(getattr(options, name))]
    status = start(command)
    if status == 0 and options.memory:
        names = chosen(NAMES, options.only)
        folder = Path(options.results) / path.stem / "memory"
        for name in names:
            if not (folder / f"{slug(name)}.json").exists():
                start([*command, "--memory", name])
    if status not in (0, 3):
        print(f"{path}: ended with status {status}", file=sys.stderr)
    return 0 if status in (0, 3) else 1


def start(arguments: list[str]) -> int:
    """Runs `experiments.benchmark.one_problem` and returns its exit status."""
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}
    command = [sys.executable, "-m", "experiments.benchmark.one_problem", *arguments]
    status = subprocess.run(command, env=environment, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    return status


def report(results: Path) -> None:
    """Writes and prints tables, and draws figures, of all runs in a folder."""
    runs = read_runs(results)
    if runs.empty:
        print(f"no run is complete in {results}")
        return
    try:
        ours = ours_in(runs)
    except ValueError as error:
        print(error)
        return
    summary, arrays = summarize(with_losses(runs, ours), ours, read_memory(results)), curves(runs)
    write_text(results / "runs.csv", with_losses(runs, ours).to_csv(index=False))
    write_text(results / "summary.csv", summary.to_csv(index=False))
    write_whole(results / "traces.nc", partial(arrays.to_netcdf, engine="h5netcdf"))
    text = markdown(summary, read_tuning(results), ours)
    write_text(results / "summary.md", text)
    write(ratio_figure(summary, ours), results / "ratios.png")
    write(curve_figure(summary, arrays, ours), results / "curves.png")
    print(text)
    print(f"{runs.problem.nunique()} problems, {runs.peer.nunique()} peers, {len(runs)} runs; results in {results}")


if __name__ == "__main__":
    sys.exit(main())
