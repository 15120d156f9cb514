"""Every claim of the paper and every question it leaves open, one experiment each.

    python -m experiments.claims [--quick] [--only NAME …] [--results FOLDER] [--data FOLDER] [--publish]

Each experiment has a config in configs/claims/. A piece of it is on disk as soon as it is complete: after Ctrl-C, or
where the process was killed, the same command goes on there, and what was finished with the same config is not run
again. Leaves a folder per experiment, with `table.csv` (all runs, tidy), `summary.csv`, the resolved config, versions
and device and a figure, and `report.html` with all of them, which opens offline. With --quick everything is run at toy
size, with --publish figures and tables go to experiments/figures/ and experiments/README.md.
"""

import argparse
import hashlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
import pandas as pd
import tomli_w
from tqdm import tqdm

from experiments import figures, records
from experiments.claims import (
    activations,
    classes,
    classification,
    cost,
    depth,
    generalisation,
    ground_truth,
    guide,
    html_report,
    images,
    phase_map,
    regularisation,
    series,
    stability,
    two_layer,
)
from experiments.claims.base import Experiment, load_config
from experiments.config import ConfigError
from experiments.data import MissingData
from experiments.measuring import command_line

EXPERIMENTS: tuple[Experiment, ...] = (
    two_layer.EXPERIMENT,
    stability.EXPERIMENT,
    ground_truth.EXPERIMENT,
    series.EXPERIMENT,
    depth.EXPERIMENT,
    activations.EXPERIMENT,
    classification.EXPERIMENT,
    images.EXPERIMENT,
    cost.EXPERIMENT,
    phase_map.EXPERIMENT,
    generalisation.EXPERIMENT,
    regularisation.EXPERIMENT,
    classes.EXPERIMENT,
    guide.EXPERIMENT,
)
"""In the order of the report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if an experiment broke, 2 for a bad config, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    chosen = [one for one in EXPERIMENTS if not options.only or one.name in options.only]
    results, broken = Path(options.results), []
    try:
        for one in chosen:
            folder = folder_of(results, one, options.quick)
            if not run(one, folder, options):
                broken.append(one.name)
            elif options.publish:
                html_report.publish(one.name, folder)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: what is complete is kept; the same command goes on from there", file=sys.stderr)
        return 130
    folders = {one.name: folder_of(results, one, options.quick) for one in EXPERIMENTS}
    print(f"report: {html_report.write(results / 'report.html', folders)}")
    if broken:
        print(f"broke: {', '.join(broken)}; the others are complete", file=sys.stderr)
    return int(bool(broken))


def _parser() -> argparse.ArgumentParser:
    parser = command_line("claims", __doc__, "results/claims", data=True)
    names = [one.name for one in EXPERIMENTS]
    parser.add_argument("--quick", action="store_true", help="everything at toy size")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help=", ".join(names))
    parser.add_argument("--publish", action="store_true", help="put figures and tables into experiments/")
    return parser


def folder_of(results: Path, one: Experiment, quick: bool) -> Path:
    """`results/<name>-<8 digits of its config>`: another config has another folder."""
    text = tomli_w.dumps(load_config(one, quick).model_dump(exclude_none=True))
    return results / f"{one.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run(one: Experiment, folder: Path, options: argparse.Namespace) -> bool:
    """Runs what is not there yet, writes table, summary and figure; returns whether nothing broke."""
    if (folder / "summary.csv").exists():
        print(f"{one.name}: complete in {folder}")
        return True
    config = load_config(one, options.quick)
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    (folder / "pieces").mkdir(parents=True, exist_ok=True)
    records.write_config(folder, config)
    try:
        table, whole = run_pieces(one, config, folder / "pieces", options.data)
        if table.empty:
            print(f"{one.name}: nothing to show", file=sys.stderr)
            return True
        write(one, table, folder, whole)
    except (KeyboardInterrupt, ConfigError):
        raise
    except Exception:  # the other experiments do not depend on this one
        traceback.print_exc()
        return False
    finally:
        jax.clear_caches()  # a process can hold only so many compiled programs
    return True


def run_pieces(one: Experiment, config, folder: Path, data: str) -> tuple[pd.DataFrame, bool]:
    """The rows of all pieces, and whether all data were there."""
    tables, whole, pieces = [], True, list(one.pieces(config, data))
    with tqdm(pieces, desc=one.name) as bar:
        for piece in bar:
            path = folder / f"{piece.name}.csv"
            if not path.exists():
                bar.set_postfix_str(piece.name)
                try:
                    rows = piece.run()
                except MissingData as error:
                    bar.write(str(error), sys.stderr)
                    whole = False
                    continue
                records.write_text(path, pd.DataFrame(rows).to_csv(index=False))
            tables.append(pd.read_csv(path))
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), whole


def write(one: Experiment, table: pd.DataFrame, folder: Path, whole: bool) -> None:
    """Table, figure and summary; the summary last, since it says that the experiment is complete."""
    table.to_csv(folder / "table.csv", index=False)
    figures.write(one.draw(table), folder / f"{one.name}.png")
    summary = one.summarize(table)
    (folder / "summary-of-part.csv").unlink(missing_ok=True)
    # With data missing it is not complete: then the same command looks for them again.
    summary.to_csv(folder / ("summary.csv" if whole else "summary-of-part.csv"), index=False)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
