"""H, its trace and determinant, gradient and objective against autodiff; variances and probabilities against others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills.evidence import curvature
from jills.evidence.factors import Dense, Kronecker
from jills.linalg import flatten, unflatten

N = 37
CASES = {
    "squared error": (jills.losses.squared_error, 2),
    "softmax": (jills.losses.softmax_cross_entropy, 3),
    "sigmoid": (jills.losses.sigmoid_cross_entropy, 2),
    "huber": (jills.losses.huber(1e6), 2),
    "one output": (jills.losses.squared_error, 1),
}


def setting(name, sizes=(3, 5, 2), **options):
    """An objective at some parameters, with α and β of no special value, and the same function for autodiff."""
    loss, outputs = CASES[name]
    network = jills.Network((*sizes, outputs), jills.activations.tanh)
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(N, 3)) * 3 + 1, rng.uniform(0, 2, N)
    targets = rng.normal(size=(N, outputs))
    if name == "softmax":
        targets = np.eye(3)[rng.integers(0, 3, N)]
    elif name == "sigmoid":
        targets = (targets > 0).astype(float)
    algorithm = jills.evidence.build(network, loss=loss, **options).alone()
    batch = jills.Batch(jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(weights))
    state = algorithm.init(network.init(jax.random.key(0), dtype="float64"), batch)
    objective, _ = algorithm.objective(
        jills.evidence.Hparams(2.5, 1.7), state.inner.course, algorithm.resume(state, batch)[1]
    )
    return objective, objective.enter(state.params), batch


def negative_log_likelihood(name, prediction, targets):
    """Of each row but for constants, `(n,)`, written independently; β = 1."""
    if name in ("squared error", "huber", "one output"):
        return 0.5 * jnp.sum((prediction - targets) ** 2, axis=1)
    if name == "softmax":
        return -jnp.sum(targets * jax.nn.log_softmax(prediction), axis=1)
    return -jnp.sum(jnp.log(jnp.where(targets > 0, jax.nn.sigmoid(prediction), jax.nn.sigmoid(-prediction))), axis=1)


def forward(objective, theta, like):
    values = objective.rows.scaled_inputs[:-1].T
    for matrix, activation in zip(unflatten(theta, like), objective.network.activations, strict=True):
        values = activation.forward(values @ matrix[:-1] + matrix[-1:])
    return values


def statistics_of(objective, matrices):
    return objective.statistics(matrices, objective.forward(matrices))


@pytest.mark.parametrize("few", [0, 512], ids=["by pairs of layers", "by the Jacobian"])
@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_curvature_are_those_of_autodiff(name, few, monkeypatch):
    monkeypatch.setattr(curvature, "FEW_ROWS", few)
    objective, matrices, batch = setting(name)
    theta, beta = flatten(matrices), objective.beta[0]
    targets = objective.rows.scaled_targets.T

    def value(theta):
        rows = negative_log_likelihood(name, forward(objective, theta, matrices), targets)
        return beta * jnp.sum(batch.weights * rows) + 0.5 * 2.5 * jnp.sum(theta**2)

    assert beta == (1.7 if name in ("squared error", "huber", "one output") else 1.0)
    statistics, current = statistics_of(objective, matrices), objective.forward(matrices)
    np.testing.assert_allclose(objective.value(matrices, current), value(theta), rtol=1e-12)
    np.testing.assert_allclose(objective.gradient(matrices, current), jax.grad(value)(theta), rtol=1e-9, atol=1e-12)
    settled, lower, there = objective.settled(matrices)
    np.testing.assert_allclose(there.prediction, objective.forward(settled).prediction, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lower, value(flatten(settled)), rtol=1e-12)
    if name in ("squared error", "one output"):
        slope = unflatten(jax.grad(value)(flatten(settled)), matrices)[-1]
        np.testing.assert_allclose(slope, 0.0, atol=1e-9)
    jacobian = jax.jacobian(lambda theta: forward(objective, theta, matrices))(theta)
    bend = jax.vmap(jax.hessian(lambda z, y: negative_log_likelihood(name, z[None], y[None])[0]))
    curved = bend(forward(objective, theta, matrices), targets) * (beta * batch.weights)[:, None, None]
    gram = jnp.einsum("nkp,nkl,nlq->pq", jacobian, curved, jacobian)
    layers = range(objective.network.num_layers)
    found = curvature.gram_of(statistics[0], objective.network, layers)
    np.testing.assert_allclose(np.triu(found), np.triu(gram), rtol=1e-9, atol=1e-12)


def test_of_a_linear_network_the_hessian_is_all_there_is():
    """H, its determinant and the trace of its inverse against `jax.hessian` of the objective."""
    objective, matrices, _ = setting("softmax", sizes=(3,))
    targets = objective.rows.scaled_targets.T
    weights = objective.rows.omega

    def value(theta):
        rows = negative_log_likelihood("softmax", forward(objective, theta, matrices), targets)
        return jnp.sum(weights * rows) + 0.5 * 2.5 * jnp.sum(theta**2)

    hessian = jax.hessian(value)(flatten(matrices))
    factored = objective.factor(statistics_of(objective, matrices))
    np.testing.assert_allclose(factored.log_det(), np.linalg.slogdet(hessian)[1], rtol=1e-10)
    np.testing.assert_allclose(factored.determined(), 1 - 2.5 * np.diag(np.linalg.inv(hessian)), rtol=1e-9)
    right = np.random.default_rng(1).normal(size=len(hessian))
    np.testing.assert_allclose(factored.solve(jnp.asarray(right)), np.linalg.solve(hessian, right), rtol=1e-9)


def test_blocks_of_rows_change_nothing(monkeypatch):
    objective, matrices, _ = setting("softmax")
    monkeypatch.setattr(curvature, "FEW_ROWS", 0)
    whole = statistics_of(objective, matrices)
    monkeypatch.setattr(curvature, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(curvature, "FEWEST_ROWS", 10)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(statistics_of(objective, matrices)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("choice", ["block_diagonal", "kronecker"])
def test_smaller_curvatures_are_blocks_of_the_whole(choice):
    """The blocks of each layer; as Kronecker products exactly so where inputs and sensitivities are independent."""
    objective, matrices, _ = setting("squared error")
    network = objective.network
    upper = np.triu(curvature.gram_of(statistics_of(objective, matrices)[0], network, range(network.num_layers)))
    whole = upper + np.triu(upper, 1).T
    small = objective._replace(blocks=getattr(jills.evidence, choice)(network))
    statistics = statistics_of(small, matrices)
    start = 0
    for layer, (block, sums) in enumerate(zip(small.blocks, statistics, strict=True)):
        m, q = matrices[layer].shape
        own = whole[start : start + m * q, start : start + m * q]
        start += m * q
        if choice == "block_diagonal":
            np.testing.assert_allclose(curvature.gram_of(sums, network, block.layers), own, rtol=1e-9, atol=1e-12)
        elif layer == network.num_layers - 1:  # a linear output layer: its sensitivities are the same in every row
            np.testing.assert_allclose(np.kron(*sums), own, rtol=1e-9, atol=1e-12)
    products = small.product(matrices, small.forward(matrices), jnp.ones(start))
    np.testing.assert_allclose(products, whole @ np.ones(start) + 2.5, rtol=1e-9)


def test_kronecker_factors_do_what_the_dense_matrix_does():
    rng = np.random.default_rng(2)
    a, g = (part @ part.T for part in (rng.normal(size=(4, 9)), rng.normal(size=(3, 7))))
    alpha = np.repeat(rng.uniform(0.5, 2.0, (4, 1)), 3, axis=1)
    below, sensitivity = rng.normal(size=(4, 5)), rng.normal(size=(2, 3, 5))
    dense = Dense.of(jnp.asarray(np.kron(a, g)), jnp.asarray(alpha.ravel()))
    quick = Kronecker.of(*map(jnp.asarray, (a, g, alpha)))
    right = jnp.asarray(rng.normal(size=12))
    np.testing.assert_allclose(quick.solve(right), dense.solve(right), rtol=1e-9)
    np.testing.assert_allclose(quick.log_det(), dense.log_det(), rtol=1e-9)
    np.testing.assert_allclose(quick.determined(), dense.determined(), rtol=1e-9)
    new = [[jnp.asarray(below)], [jnp.asarray(sensitivity)]]
    np.testing.assert_allclose(quick.variances(*new), dense.variances(*new), rtol=1e-9)
    inverse = np.linalg.inv(np.kron(a, g) + np.diag(alpha.ravel()))
    jacobian = np.einsum("in,kjn->knij", below, sensitivity).reshape(2, 5, 12)
    np.testing.assert_allclose(
        dense.variances(*new), np.einsum("kni,ij,knj->kn", jacobian, inverse, jacobian), rtol=1e-9
    )
