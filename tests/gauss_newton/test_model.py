"""The model of a block and its solvers against autodiff's Jacobian and NumPy, see `gauss_newton_reference`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gauss_newton_reference import flat, model

import jills
from jills import activations, gauss_newton, linearization, losses, solvers
from jills.batches import prepare
from jills.gauss_newton.model import Model, Objective, Rows
from jills.gauss_newton.solve import as_automatic, propose

BLOCKS = ((1, 1), (0, 0), (0, 1))
DEEP = ((2, 2), (1, 1), (1, 2), (0, 2))
CONVERGED = jills.ConjugateGradients(200, 1e-13)
HUBER = losses.huber(0.3)
# Sizes, loss, blocks; one and more outputs take other ways.
PROBLEMS = {
    "squared-1": ((3, 5, 1), losses.squared_error, BLOCKS),
    "squared-2": ((3, 5, 3, 2), losses.squared_error, DEEP),
    "softmax-2": ((3, 5, 2), losses.softmax_cross_entropy, BLOCKS),
    "sigmoid-2": ((3, 5, 2), losses.sigmoid_cross_entropy, BLOCKS),
    "huber-1": ((3, 5, 1), HUBER, BLOCKS),
}


def problems(*names):
    return pytest.mark.parametrize(("sizes", "loss", "blocks"), [PROBLEMS[name] for name in names], ids=names)


def draw(sizes):
    """A network, 13 rows in uneven units and by uneven weights, two of them zero."""
    network = jills.Network(sizes, activations.tanh)
    data, noise, start = jax.random.split(jax.random.key(sum(sizes)), 3)
    inputs = jax.random.normal(data, (13, 3), "float64") * jnp.array([[1.0, 30.0, 0.2]]) + jnp.array([[0.5, 20.0, 0.0]])
    targets = jax.nn.softmax(2 * jax.random.normal(noise, (13, 2), "float64"))[:, : sizes[-1]]
    weights = jnp.linspace(0.2, 2.0, 13, dtype="float64").at[4].set(0).at[9].set(0)
    params = network.init(start, "float64")
    params = (params[0]._replace(weight=params[0].weight / jnp.array([[1.0], [30.0], [0.2]])), *params[1:])
    return network, params, jills.Batch(inputs, targets, weights)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def proposals(network, loss, blocks, linear_solver, params, batch, decay, damping):
    """What each block would do from the same parameters, and its gradient in them."""
    objective = Objective(network, loss, Rows.of(prepare(batch, "float64")), decay)
    matrices = linearization.stack(params)
    models = [Model.of(objective, block, matrices, objective.forward(matrices)) for block in blocks]
    solver = as_automatic(linear_solver)
    gradients = [model.linear.gradient_in_params(model.gradient) for model in models]
    return [(propose(solver, model, damping), each) for model, each in zip(models, gradients, strict=True)]


def is_quadratic(network, loss, block):
    return loss is losses.squared_error and block == (network.num_layers - 1,) * 2


def assert_steps(network, loss, blocks, found, params, batch, numbers, iterative, tolerance=1e-8):
    decay, damping = numbers
    for block, (proposal, gradient) in zip(blocks, found, strict=True):
        quadratic = model(network, loss, params, batch, decay, block)
        exact = is_quadratic(network, loss, block)
        expected = quadratic.step(0.0 if exact else damping, iterative)
        change = flat(proposal.change)
        assert np.linalg.norm(change - expected) <= tolerance * np.linalg.norm(expected), block
        np.testing.assert_allclose(proposal.decrease, quadratic.decrease(change), rtol=1e-8)
        wanted = np.linalg.solve(quadratic.back.T, quadratic.gradient)
        np.testing.assert_allclose(flat(gradient), wanted, rtol=1e-7, atol=1e-10)


@problems(*PROBLEMS)
def test_a_dense_step_is_that_of_the_whole_jacobian(sizes, loss, blocks):
    network, params, batch = draw(sizes)
    for numbers in ((0.0, 0.1), (1e-3, 1e-2)):
        found = proposals(network, loss, blocks, gauss_newton.Dense(), params, batch, *map(jnp.asarray, numbers))
        assert_steps(network, loss, blocks, found, params, batch, numbers, iterative=False)


@problems("squared-2", "softmax-2", "huber-1")
def test_conjugate_gradients_end_at_the_same_step(sizes, loss, blocks):
    network, params, batch = draw(sizes)
    for numbers in ((0.0, 0.1), (1e-3, 1e-2)):
        found = proposals(network, loss, blocks, CONVERGED, params, batch, *map(jnp.asarray, numbers))
        assert_steps(network, loss, blocks, found, params, batch, numbers, iterative=True)


def test_a_truncated_step_knows_its_decrease():
    """Less than that of the converged step, never negative."""
    sizes, loss, blocks = (3, 5, 2), losses.squared_error, BLOCKS
    network, params, batch = draw(sizes)
    three = jills.ConjugateGradients(3, 0.0)
    found = proposals(network, loss, blocks, three, params, batch, jnp.asarray(1e-3), jnp.asarray(1e-2))
    for block, (proposal, _) in zip(blocks, found, strict=True):
        quadratic = model(network, loss, params, batch, 1e-3, block)
        np.testing.assert_allclose(proposal.decrease, quadratic.decrease(flat(proposal.change)), rtol=1e-8)
        assert 0 < proposal.decrease <= quadratic.decrease(quadratic.step(0.0)) * (1 + 1e-8)
        if not is_quadratic(network, loss, block):
            assert proposal.products == 3


@pytest.mark.parametrize("name", ["lstsq", "qr", "cholesky"])
def test_a_least_squares_solver_on_the_rows_gives_the_same_step(name):
    network, params, batch = draw((3, 5, 2))
    solver, blocks, numbers = getattr(solvers, name), ((0, 0), (0, 1)), (1e-3, 1e-2)
    found = proposals(network, losses.squared_error, blocks, solver, params, batch, *map(jnp.asarray, numbers))
    assert_steps(network, losses.squared_error, blocks, found, params, batch, numbers, iterative=False)


@pytest.mark.parametrize("solver", [gauss_newton.Dense(), CONVERGED], ids=["dense", "iterative"])
def test_a_step_takes_its_blocks_in_order(solver):
    """Each from the parameters that the one before left, and only where the objective falls.

    Conjugate gradients take D where they first meet a block in the step. The targets are of size one, so that the
    step has their unit.
    """
    network, params, batch = draw((3, 5, 2))
    batch = batch._replace(targets=batch.targets / jnp.std(batch.targets))
    algorithm: Any = gauss_newton.build(network, linear_solver=solver)
    dense = solver != CONVERGED
    hparams = gauss_newton.Hparams(weight_decay=1e-3, damping=1e-3)

    def objective(params):
        loss = losses.squared_error(network.predict(params, batch.inputs), batch.targets, batch.weights)
        return float(loss) + 0.5e-3 * sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(params))

    state = jax.jit(algorithm.init)(params, batch)
    after, info = jax.jit(algorithm.step)(hparams, state, batch)
    accepted, value, met = 0, objective(params), None
    for first, last in algorithm.blocks:
        exact = first == last == 1
        quadratic = model(network, losses.squared_error, params, batch, 1e-3, (first, last))
        met = params if met is None and not exact else met
        where = quadratic if dense or exact else model(network, losses.squared_error, met, batch, 1e-3, (first, last))
        step = quadratic.step(0.0 if exact else 1e-3, not dense, where.scale)
        for share in 0.25 ** np.arange(6):
            moved, place = list(params), 0
            for index in range(first, last + 1):
                rows, columns = params[index].weight.shape
                part = share * step[place : place + (rows + 1) * columns]
                matrix = jnp.asarray(part.reshape(rows + 1, columns))
                moved[index] = jills.Layer(params[index].weight + matrix[:-1], params[index].bias + matrix[-1])
                place += matrix.size
            if objective(tuple(moved)) < value:
                params, value, accepted = tuple(moved), objective(tuple(moved)), accepted + 1
                break
    assert info.detail.accepted == accepted
    assert accepted > 0
    np.testing.assert_allclose(objective(after.params), value, rtol=1e-8)
    np.testing.assert_allclose(flat(after.params), flat(params), rtol=1e-6, atol=1e-8)
