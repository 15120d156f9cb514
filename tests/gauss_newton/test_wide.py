"""Layers much wider than there are rows, and many outputs: no matrix of the one or the other size is formed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import jills
from jills import activations, gauss_newton, losses

WIDE = {
    "inputs": ((199, 5, 1), 11),
    "hidden": ((3, 199, 1), 11),
    "hidden, two outputs": ((3, 2100, 2), 5),
    "outputs": ((7, 5, 97), 11),
    "no hidden layer": ((199, 3), 11),
}


def draw(sizes, n, dtype="float64"):
    inputs, targets = (
        jax.random.normal(jax.random.key(seed), (n, k), dtype) for seed, k in ((1, sizes[0]), (2, sizes[-1]))
    )
    network = jills.Network(sizes, activations.tanh)
    return network, network.init(jax.random.key(0), dtype), jills.Batch(inputs, targets)


# Softmax where there are classes, and so other shapes.
LOSSES = [(case, losses.squared_error) for case in WIDE]
LOSSES += [(case, losses.softmax_cross_entropy) for case, (sizes, _) in WIDE.items() if sizes[-1] > 1]


@pytest.mark.parametrize(("case", "loss"), LOSSES, ids=[f"{case}-{loss.value.__name__}" for case, loss in LOSSES])
def test_no_array_is_of_the_square_of_a_width(case, loss):
    sizes, n = WIDE[case]
    network, params, batch = draw(sizes, n, "float32")
    batch = batch._replace(targets=jax.nn.softmax(batch.targets))
    largest = max(wide * max(n, *sizes[:index], *sizes[index + 1 :]) for index, wide in enumerate(sizes))
    for full_batch in (True, False):
        algorithm = gauss_newton.build(network, loss, full_batch=full_batch)
        program = jax.make_jaxpr(lambda params, batch, a=algorithm: jills.run(a, a.defaults, params, batch, 2))
        closed = program(params, batch)
        pairs = gauss_newton.QuasiNewton().pairs + 1  # of all parameters; one is pushed
        assert max(array.size for array in arrays(closed.jaxpr)) < max(4, pairs + 1) * largest < max(sizes) ** 2
        assert max((np.size(constant) for constant in closed.consts), default=0) < 1000


def arrays(jaxpr):
    """Of a program and of its inner programs: all that its equations make, and its constants."""
    for equation in jaxpr.eqns:
        yield from (var.aval for var in equation.outvars)
        yield from (np.asarray(var.val) for var in equation.invars if hasattr(var, "val"))
        for inner in jaxprs_in_params(equation.params):
            yield from arrays(inner)


@pytest.mark.parametrize("case", WIDE)
def test_wide_layers_train(case):
    """More parameters than residuals: nothing is left of the loss."""
    network, params, batch = draw(*WIDE[case])
    algorithm = gauss_newton.build(network)
    state, info = jills.run(algorithm, algorithm.defaults, params, batch, 30)
    assert state.loss < 1e-6 * info.loss[0] or case == "outputs"
    if case == "outputs":  # five hidden units leave what no five columns and a constant can tell
        targets = np.asarray(batch.targets)
        values = np.linalg.svd(targets - np.mean(targets, axis=0, keepdims=True), compute_uv=False)
        assert state.loss < 1.05 * np.sum(values[5:] ** 2) / batch.targets.size


def test_more_columns_than_rows_have_the_shortest_least_squares(dtype):
    """Without a hidden layer, from a start of zeros, with inputs on one scale: the minimum-norm solution of NumPy."""
    network, params, batch = draw((199, 3), 11, dtype)
    algorithm = gauss_newton.build(network)
    params = jax.tree.map(jnp.zeros_like, params)
    state, _ = jills.run(algorithm, algorithm.defaults, params, batch, 3)
    inputs, targets = (np.asarray(array, np.float64) for array in batch[:2])
    centred = inputs - np.mean(inputs, axis=0, keepdims=True)
    expected = np.linalg.lstsq(centred, targets - np.mean(targets, axis=0, keepdims=True))[0]
    atol = 1e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(state.params[0].weight, expected, rtol=0, atol=atol)
    assert state.loss < (1e-9 if dtype == "float32" else 1e-18)


TABLES = {
    "rare one-hot columns": lambda rng, n: np.hstack(
        [rng.standard_normal((n, 3)), np.eye(40)[np.minimum(rng.geometric(0.1, n), 40) - 1]]
    ),
    "collinear columns": lambda rng, n: (lambda x: np.hstack([x, x[:, :2] @ rng.standard_normal((2, 4))]))(
        rng.standard_normal((n, 5))
    ),
    "dead columns": lambda rng, n: np.hstack([rng.standard_normal((n, 4)), np.zeros((n, 2)), np.full((n, 1), 7.0)]),
    "columns of 1e6 and 1e-6": lambda rng, n: rng.standard_normal((n, 4)) * [1e6, 1e-6, 1.0, 1e3],
}


# Every pair of table, number of outputs and dtype, but not every three of them.
WAYS = itertools.cycle([[(1, "float32"), (3, "float64")], [(1, "float64"), (3, "float32")]])


@pytest.mark.parametrize(
    ("table", "k", "dtype"), [(table, *way) for table, ways in zip(TABLES, WAYS, strict=False) for way in ways]
)
def test_an_output_layer_is_least_squares_from_the_first_step_on(table, k, dtype):
    """On more rows than a preconditioner takes otherwise, some of weight zero."""
    rng, n = np.random.default_rng(0), 1500
    inputs = TABLES[table](rng, n)
    deviation = np.std(inputs, axis=0)
    targets = inputs / np.where(deviation > 1e-9, deviation, 1.0) @ rng.standard_normal((inputs.shape[1], k)) + 20
    targets = targets + 0.1 * rng.standard_normal((n, k))
    weights = rng.integers(0, 3, n).astype(np.float64)
    network = jills.Network((inputs.shape[1], k))
    algorithm = gauss_newton.build(network)
    batch = jills.Batch(*(jnp.asarray(array, dtype) for array in (inputs, targets, weights)))
    _, info = jills.run(algorithm, algorithm.defaults, network.init(jax.random.key(0), dtype), batch, 3)
    rows, root = np.hstack([inputs, np.ones((n, 1))]), np.sqrt(weights)[:, None]
    scale = np.maximum(np.max(np.abs(rows), axis=0), 1e-9)
    solved = np.linalg.lstsq(root * rows / scale, root * targets, rcond=1e-12)[0]
    best = np.average(np.mean((rows / scale @ solved - targets) ** 2, axis=1), weights=weights)
    np.testing.assert_allclose(info.loss[1], best, rtol=2e-3 if dtype == "float32" else 1e-6)
    np.testing.assert_allclose(info.loss[2], best, rtol=1e-4 if dtype == "float32" else 1e-9)
