"""The configs of the benchmark: one is one problem. Its tables are those of `experiments.config`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from experiments.config import ConfigError, Positive, ProblemConfig, Table, read
from experiments.peers import PEERS, with_jills
from experiments.peers.base import FAST_TIER

FULL_BATCH, MINIBATCHES = "Adam, full batch", "Adam, minibatches"
QUICKLY_COMPILED = f"{FULL_BATCH}{FAST_TIER}"
UNTUNED = tuple(peer for peer in (*with_jills.PEERS, *PEERS) if not peer.name.startswith("Optax Adam"))
NAMES = (FULL_BATCH, QUICKLY_COMPILED, MINIBATCHES, *(peer.name for peer in UNTUNED))


class BenchmarkConfig(ProblemConfig):
    """Time to target on one problem."""

    dtype: Literal["float32", "float64"] = "float32"
    seeds: Positive = 5  # measured
    tuning_seeds: Positive = 2  # others, for the rates of Adam
    target_steps: Positive = 2000  # of Adam on all rows: where it gets is the target
    max_seconds: Annotated[float, Field(gt=0)] = 600.0  # for a run, if ten times those of Adam are more
    train_rows: Positive | None = None  # only the first ones; None: all
    leave_out: dict[str, str] = Field(default_factory=dict)  # peer → why


def load_benchmark(path: str | Path, seeds: int | None = None, seconds: float | None = None) -> BenchmarkConfig:
    """Reads a config of the benchmark.

    Args:
        path: of the file.
        seeds: in place of its own number.
        seconds: in place of its own `max_seconds`.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed.
    """
    changes = [] if seeds is None else [f"seeds={seeds}"]
    changes += [] if seconds is None else [f"max_seconds={float(seconds)}"]
    config = read(path, BenchmarkConfig, changes)
    unknown = [name for name in config.leave_out if name not in NAMES]
    if unknown:
        raise ConfigError(f"{path}: leave_out: unknown peer {unknown[0]!r}; allowed: {'; '.join(NAMES)}")
    return config


def chosen(names: Iterable[str], only: str) -> list[str]:
    """The names that contain one of the parts of `only`, which has commas between them; all if it is empty."""
    wanted = only.lower().split(",")
    return [name for name in names if any(part in name.lower() for part in wanted)]


def same_problem(one: Table, other: Table) -> bool:
    """Whether measurements of two configs can stand in one table: all but how much is measured is the same."""
    free = {"seeds", "max_seconds", "leave_out", "title"}
    return one.model_dump(exclude=free) == other.model_dump(exclude=free)
