"""Networks fitted to splits of a table, and how long that took: what the claims on regularisation share.

`M` is the number of networks of an ensemble; all of them are trained in one sweep.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jills
from experiments import data
from experiments.claims.base import ClaimConfig, Piece, Row
from experiments.config import Positive

HELD_OUT = 0.2  # of the training rows, for validation
FOLDS = 5


class FitConfig(ClaimConfig):
    """Which data, which methods, for how long."""

    tables: list[str]
    methods: list[str]
    left_out: list[str] = []  # pieces, "table-method", that would take too long
    splits_of_tables: dict[str, Positive] = {}  # where they are fewer than `seeds`
    splits_of_methods: dict[str, Positive] = {}  # likewise, of methods that take long
    members: Positive  # of every ensemble of networks
    hidden: list[Positive]
    steps: Positive  # of evidence
    newton_steps: Positive
    patience: Positive


class Split(NamedTuple):
    """Standardised by the training rows; NumPy."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    unit: float  # of the targets
    number: int

    @classmethod
    def of(cls, train: data.Split, test: data.Split, dtype: str, number: int, unit: float = 1.0) -> "Split":
        """The two parts of a data set, in the dtype of the config."""
        arrays = [np.asarray(each, dtype) for each in (train.inputs, train.targets, test.inputs, test.targets)]
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], unit, number)


def pieces_of(config: FitConfig, folder: str, measure: Callable[[Any, str, str, str], list[Row]]) -> Iterator[Piece]:
    """One for each table and method: `measure(config, table, method, folder)`."""
    for table in config.tables:
        for method in config.methods:
            if f"{table}-{method}" not in config.left_out:
                yield Piece(f"{table}-{method}", partial(measure, config, table, method, folder))


def count_of(config: FitConfig, table: str, method: str) -> int:
    """How many splits are measured."""
    most = config.splits_of_tables.get(table), config.splits_of_methods.get(method)
    return min([config.seeds, *(count for count in most if count is not None)])


def timed(methods: Mapping[str, Any], compiled: Mapping[str, Any], name: str, config: Any, split: Split) -> Any:
    """What a method returns for a split, and its seconds; those that compile have run once before."""
    if split.number == 0 and name in compiled:
        methods[name](config, split)
    began = time.perf_counter()
    told = methods[name](config, split)
    return told, time.perf_counter() - began


def network_of(config: FitConfig, split: Split) -> jills.Network:
    """An output for each target, tanh."""
    return jills.Network((split.inputs.shape[1], *config.hidden, split.targets.shape[1]), jills.activations.tanh)


def starts(config: ClaimConfig, network: jills.Network, number: int, members: int) -> tuple[Any, jax.Array]:
    """A problem for `batches=`, and its keys `(M,)`."""
    start = jax.tree_util.Partial(partial(_start, network, config.dtype))
    return start, jax.random.split(jax.random.key(config.seed + number), members)


def _start(network, dtype, key):
    return network.init(key, dtype)


def evidence(
    config: FitConfig, split: Split, loss: jills.Loss = jills.losses.squared_error, prior: Any = None
) -> jills.Ensemble:
    """What networks that choose their own regularisation predict for the test rows."""
    network = network_of(config, split)
    algorithm = jills.evidence.build(network, loss, prior or jills.evidence.one_group)
    batch = jills.Batch(split.inputs, split.targets)
    start, keys = starts(config, network, split.number, config.members)
    result = jills.sweep(algorithm, algorithm.defaults, start, keys, config.steps, 20, batches=batch)
    return predicted(algorithm, first(result.state), batch, split.test_inputs)


@partial(jax.jit, static_argnums=0)
def predicted(algorithm: Any, states: Any, batch: jills.Batch, inputs: Any) -> jills.Ensemble:
    """By states `[M]` together."""
    return jills.ensemble(jax.vmap(lambda state: jills.evidence.predict(algorithm, state, batch, inputs))(states))


def first(tree: Any, at: int = 0) -> Any:
    """One setting of the hyperparameters of a sweep."""
    return jax.tree.map(lambda leaf: leaf[at], tree)


def newton(
    config: FitConfig,
    split: Split,
    decays: list[float],
    batch: jills.Batch,
    loss: jills.Loss = jills.losses.squared_error,
    members: int | None = None,
    **options: Any,
) -> jills.SweepResult:
    """A sweep of Gauss–Newton over weight decays."""
    network = network_of(config, split)
    algorithm = jills.gauss_newton.build(network, loss)
    start, keys = starts(config, network, split.number, members or config.members)
    hparams = jills.gauss_newton.Hparams(weight_decay=jnp.asarray(decays, config.dtype))
    return jills.sweep(algorithm, hparams, start, keys, config.newton_steps, 20, batches=batch, **options)


def outputs(config: FitConfig, split: Split, params: Any, inputs: np.ndarray) -> np.ndarray:
    """Of networks whose params lead with `[M]`, `(M, n, k)`."""
    network = network_of(config, split)
    return np.asarray(jax.vmap(network.predict, in_axes=(0, None))(params, jnp.asarray(inputs)))


def stopped(config: FitConfig, split: Split, loss: jills.Loss = jills.losses.squared_error) -> tuple[Any, slice]:
    """Each network with the parameters of its lowest validation loss, and the rows that told it."""
    count = round(HELD_OUT * len(split.inputs))
    used, held = slice(None, -count), slice(-count, None)  # of a series the latest rows
    batch, validation = (jills.Batch(split.inputs[rows], split.targets[rows]) for rows in (used, held))
    options: dict[str, Any] = {"validation": validation, "patience": config.patience}
    result = newton(config, split, [0.0], batch, loss, **options)
    return first(result.state.best_params), held
