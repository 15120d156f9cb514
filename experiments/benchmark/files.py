"""Where the benchmark keeps what is complete: a folder per problem, in it a folder per seed, in it a file per run."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.records import write_text


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_path(folder: Path, seed: int, peer: str) -> Path:
    """The file of a run."""
    return folder / f"seed-{seed}" / f"run-{slug(peer)}.json"


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is there completely or not at all."""
    write_text(path, json.dumps(content) + "\n")


def read_runs(results: Path) -> pd.DataFrame:
    """All runs of all problems, one row each; `trace` holds when the best loss so far fell, and to what."""
    rows = [read_json(path) for path in sorted(results.glob("*/seed-*/run-*.json"))]
    table = pd.DataFrame(rows)
    return table.sort_values(["parameters", "problem", "seed", "peer"], ignore_index=True) if rows else table


def read_memory(results: Path) -> pd.DataFrame:
    """Problem, peer and mebibytes, as far as they were measured."""
    rows = [read_json(path) for path in sorted(results.glob("*/memory/[!.]*.json"))]
    return pd.DataFrame(rows, columns=["problem", "peer", "mebibytes"])


def read_tuning(results: Path) -> dict[str, dict]:
    """What was tuned for each problem."""
    return {path.parent.name: read_json(path) for path in sorted(results.glob("*/tuning.json"))}
