"""The problems of the experiments: `key → (params, batch, metrics)`, and what belongs to them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import jills
from experiments.config import Config, Teacher, build_loss, build_network
from experiments.data import Dataset, load


class Task(NamedTuple):
    """What all algorithms of a comparison work on."""

    network: jills.Network
    problem: Partial  # key → (params, batch, metrics)
    dataset: Dataset | None  # None where each seed has data of its own


def make_task(config: Config, folder: str) -> Task:
    """The task of a config.

    Raises:
        MissingData: the data set is not on this machine.
        ValueError: an option does not fit the data set.
    """
    loss = build_loss(config)
    if isinstance(config.data, Teacher):
        network = build_network(config, config.data.inputs, config.data.outputs)
        return Task(network, Partial(partial(_teacher, network, loss, config.data, config.dtype)), None)
    options = config.data.model_dump(exclude={"name"})
    dataset = load(config.data.name, folder, **options)
    network = build_network(config, dataset.train.inputs.shape[1], dataset.train.targets.shape[1])
    batches = [
        jills.Batch(jnp.asarray(split.inputs, config.dtype), jnp.asarray(split.targets, config.dtype))
        for split in (dataset.train, dataset.test)
    ]
    return Task(network, Partial(partial(_fixed, network, loss, config.dtype), *batches), dataset)


def _fixed(network, loss, dtype, train, test, key):
    """The same rows for every key, another start."""
    return network.init(key, dtype), train, Partial(partial(_test_loss, network, loss), test)


def _teacher(network, loss, table, dtype, key):
    """Inputs uniform in (-1, 1), targets of a random network, another random network as the start."""
    keys = jax.random.split(key, 5)
    truth = network.init(keys[0], dtype)
    inputs = jax.random.uniform(keys[1], (table.rows, table.inputs), dtype, -1, 1)
    clean = network.predict(truth, inputs)
    targets = clean + table.noise * jax.random.normal(keys[2], clean.shape, dtype)
    others = jax.random.uniform(keys[3], (table.test_rows, table.inputs), dtype, -1, 1)
    test = jills.Batch(others, network.predict(truth, others))
    metrics = Partial(partial(_distance, network, loss), test, truth)
    return network.init(keys[4], dtype), jills.Batch(inputs, targets), metrics


def _test_loss(network, loss, test, params):
    return {"test_loss": loss(network.predict(params, test.inputs), test.targets)}


def _distance(network, loss, test, truth, params):
    """The test loss; and, where hidden units cannot be permuted, how far the parameters are from the truth."""
    metrics = _test_loss(network, loss, test, params)
    if network.num_layers == 1:
        metrics["distance"] = relative_distance(params, truth)
    return metrics


def relative_distance(params: jills.Params, truth: jills.Params) -> jax.Array:
    """`‖θ − θ*‖ / ‖θ*‖` over all weights and biases, `()`."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(truth), strict=True)
    squares = jnp.stack([jnp.stack([jnp.sum((a - b) ** 2), jnp.sum(b**2)]) for a, b in pairs])
    above, below = jnp.sum(squares, axis=0)
    return jnp.sqrt(above / below)


@jax.jit
def metrics_of(problem: Partial, params: jills.Params, keys: jax.Array):
    """The metrics of params `[H, S, …]`, the member (h, s) of key s."""
    one = lambda params, key: problem(key)[2](params)  # noqa: E731 vmapped at once
    return jax.vmap(jax.vmap(one), in_axes=(0, None))(params, keys)


def baselines(dataset: Dataset, loss: jills.Loss) -> dict[str, float]:
    """Test losses, in scaled units, of what needs no network."""
    truth, rows = dataset.test.targets, np.c_[dataset.train.inputs, np.ones(len(dataset.train.inputs))]
    solved = np.linalg.lstsq(rows, dataset.train.targets, rcond=None)[0]
    linear = np.c_[dataset.test.inputs, np.ones(len(truth))] @ solved
    return {
        "persistence": float(loss(jnp.asarray(dataset.persistence), jnp.asarray(truth))),
        "linear regression": float(loss(jnp.asarray(linear), jnp.asarray(truth))),
    }
