"""The problems of the experiments: `key → (params, batch, metrics)`, and what belongs to them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import jills
from experiments.config import ProblemConfig, Teacher, build_loss, build_network
from experiments.data import Dataset, Split, load


class Task(NamedTuple):
    """What all algorithms of a comparison work on."""

    network: jills.Network
    loss: jills.losses.Loss  # of the test
    problem: Partial  # key → (params, batch, metrics)
    dataset: Dataset | None  # None where each seed has data of its own


def make_task(config: ProblemConfig, folder: str) -> Task:
    """The task of a config.

    Raises:
        MissingData: the data set is not on this machine.
        ValueError: an option does not fit the data set.
    """
    loss = build_loss(config)
    if isinstance(config.data, Teacher):
        network = build_network(config, config.data.inputs, config.data.outputs)
        return Task(network, loss, teacher_problem(network, loss, config.data, config.dtype), None)
    options = config.data.model_dump(exclude={"name"})
    dataset = load(config.data.name, folder, **options)
    network = build_network(config, dataset.train.inputs.shape[1], dataset.train.targets.shape[1])
    return Task(network, loss, fixed_problem(network, loss, config.dtype, dataset), dataset)


def fixed_problem(network: jills.Network, loss: jills.Loss, dtype: str, dataset: Dataset) -> Partial:
    """The training rows of a data set with another start for every key; metrics on its test rows."""
    train, test = (as_batch(split, dtype) for split in (dataset.train, dataset.test))
    labels = None if dataset.test.labels is None else jnp.asarray(dataset.test.labels)
    return Partial(partial(_fixed, network, loss, dtype), train, test, labels)


def held_out_problem(network: jills.Network, dtype: str, fitted: Split, validation: Split, test: Split) -> Partial:
    """Squared error on the fitted rows with another start for every key; validation and test loss as metrics."""
    return Partial(partial(_held_out, network, dtype), *(as_batch(each, dtype) for each in (fitted, validation, test)))


def teacher_problem(network: jills.Network, loss: jills.Loss, table: Teacher, dtype: str) -> Partial:
    """A random network of the same shape labels random inputs; each key has its own, and another start."""
    return Partial(partial(_teacher, network, loss, table, dtype))


def random_start(network: jills.Network, dtype: str, batch: jills.Batch) -> Partial:
    """Another start for every key, the same rows; `key → (params, batch)`."""
    return Partial(partial(_random, network, dtype), batch)


def _random(network, dtype, batch, key):
    return network.init(key, dtype), batch


def scaled_start(problem: Partial, scale: float) -> Partial:
    """The same problem with all weights and biases of the start multiplied; another scale does not compile again."""
    return Partial(_scaled, problem, jnp.asarray(scale))


def _scaled(problem, scale, key):
    params, batch, metrics = problem(key)
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), params), batch, metrics


def as_batch(split: Split, dtype: str) -> jills.Batch:
    """A split as rows to train on."""
    return jills.Batch(jnp.asarray(split.inputs, dtype), jnp.asarray(split.targets, dtype))


def _fixed(network, loss, dtype, train, test, labels, key):
    """The same rows for every key, another start."""
    return network.init(key, dtype), train, Partial(partial(_test, network, loss), test, labels)


def _held_out(network, dtype, fitted, validation, test, key):
    """The same rows for every key, another start."""
    return network.init(key, dtype), fitted, Partial(partial(_losses, network), validation, test)


def _losses(network, validation, test, params):
    """Squared errors of validation and test."""
    named = {"validation_loss": validation, "test_loss": test}
    return {
        name: jills.losses.squared_error(network.predict(params, rows.inputs), rows.targets)
        for name, rows in named.items()
    }


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


def _test(network, loss, test, labels, params):
    """The test loss; and, where rows have labels, the share of them whose highest output is that of their class."""
    predictions = network.predict(params, test.inputs)
    metrics = {"test_loss": loss(predictions, test.targets)}
    if labels is not None:
        # NaN counts as highest: a diverged network would be credited with the class of its first NaN.
        right = (jnp.argmax(predictions, axis=1) == labels) & jnp.all(jnp.isfinite(predictions), axis=1)
        metrics["test_accuracy"] = jnp.mean(right, dtype=predictions.dtype)
    return metrics


def _distance(network, loss, test, truth, params):
    """The test loss; and, where hidden units cannot be permuted, how far the parameters are from the truth."""
    metrics = _test(network, loss, test, None, params)
    if network.num_layers == 1:
        metrics["distance"] = relative_distance(params, truth)
    return metrics


def relative_distance(params: jills.Params, truth: jills.Params) -> jax.Array:
    """`‖θ − θ*‖ / ‖θ*‖` over all weights and biases, `()`."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(truth), strict=True)
    squares = jnp.stack([jnp.stack([jnp.sum((a - b) ** 2), jnp.sum(b**2)]) for a, b in pairs])
    apart, size = jnp.sum(squares, axis=0)
    return jnp.sqrt(apart / size)


@jax.jit
def metrics_of(problem: Partial, params: jills.Params, keys: jax.Array):
    """The metrics of params `[H, S, …]`, the member (h, s) of key s."""
    one = lambda params, key: problem(key)[2](params)  # noqa: E731 vmapped at once
    return jax.vmap(jax.vmap(one), in_axes=(0, None))(params, keys)


def baselines(dataset: Dataset, loss: jills.Loss) -> dict[str, float]:
    """What needs no network: test losses, in scaled units; of classes, the accuracy on the test rows."""
    truth, linear = dataset.test.targets, linear_regression(dataset.train, dataset.test.inputs)
    if dataset.train.labels is not None:
        labels = dataset.test.labels
        majority = np.argmax(np.bincount(dataset.train.labels))
        return {
            "majority class": float(np.mean(majority == labels)),
            "least squares": float(np.mean(np.argmax(linear, axis=1) == labels)),
        }
    # The mean of the training targets is 0 in scaled units.
    known = {"mean": np.zeros_like(truth)} if dataset.persistence is None else {"persistence": dataset.persistence}
    known["linear regression"] = linear
    return {name: float(loss(jnp.asarray(guess), jnp.asarray(truth))) for name, guess in known.items()}


def linear_regression(train: Split, inputs: np.ndarray, block_rows: int = 4096) -> np.ndarray:
    """Predictions `(n, k)` for inputs `(n, d)` of the least-squares fit to the training rows, with an intercept."""
    width = train.inputs.shape[1] + 1
    reduced = np.empty((0, width + train.targets.shape[1]))
    # Block by block, R of the QR decomposition keeps all there is to know: 60000 images never stand there in float64.
    for start in range(0, len(train.inputs), block_rows):
        block = slice(start, start + block_rows)
        rows = np.column_stack([train.inputs[block], np.ones(len(train.inputs[block])), train.targets[block]])
        reduced = np.asarray(np.linalg.qr(np.concatenate([reduced, rows]), mode="r"))
    solved = np.linalg.lstsq(reduced[:, :width], reduced[:, width:], rcond=None)[0]
    return inputs @ solved[:-1] + solved[-1]
