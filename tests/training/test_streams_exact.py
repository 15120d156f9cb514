"""One pass over blocks of rows gives what all rows at once give: least squares, and the evidence of a linear model."""

from typing import Any, cast

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import BayesianRidge

import jills
from jills.training import streams

N = 61
ROUNDING = {"float32": 1e-5, "float64": 1e-11}


def table(outputs=2, n=N, seed=0, scales=(1.0, 5.0, 0.1, 100.0, 1.0)):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 5)) * np.array(scales) + 3.0
    slopes = rng.normal(size=(5, outputs)) / np.array(scales)[:, None] * np.array([3, 3, 1, 0.3, 1])[:, None]
    return inputs, (inputs @ slopes + rng.normal(size=(n, outputs)) * np.linspace(0.3, 1.0, outputs)) * 7.0 + 20.0


def some_weights():
    return np.random.default_rng(1).integers(0, 4, N).astype(float)


def known(inputs, targets, weights=None, ridge=0.0):
    """Of `numpy.linalg.lstsq` on all rows, the ridge as further rows; the bias last."""
    design = np.column_stack([inputs, np.ones(len(inputs))]).astype(float)
    root = np.ones(len(inputs)) if weights is None else np.sqrt(weights)
    design, right = root[:, None] * design, root[:, None] * targets.astype(float)
    shrink = np.sqrt(ridge * np.sum(design**2) / design.shape[1]) * np.eye(design.shape[1])
    return np.linalg.lstsq(np.concatenate([design, shrink]), np.pad(right, ((0, len(shrink)), (0, 0))), rcond=None)[0]


def stacked(layer):
    return np.concatenate([layer.weight, layer.bias[None]])


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_is_that_of_numpy_on_all_rows(dtype, weighted, ridge):
    inputs, targets = (array.astype(dtype) for array in table())
    weights = some_weights() if weighted else None
    rows = streams.batches(inputs, targets, 8, weights, buffer_rows=20)
    found = streams.least_squares(rows, ridge)
    wanted = known(inputs, targets, weights, ridge)
    np.testing.assert_allclose(stacked(found.layer), wanted, rtol=ROUNDING[dtype])
    assert found.layer.weight.dtype == found.layer.bias.dtype == found.loss.dtype == dtype
    residual = np.square(targets - inputs @ wanted[:-1] - wanted[-1])
    np.testing.assert_allclose(found.loss, np.average(residual.mean(axis=1), weights=weights), rtol=ROUNDING[dtype])
    assert found.rank == 6
    assert found.num_rows == (N if weights is None else np.count_nonzero(weights))
    assert_equal = np.testing.assert_array_equal
    jax.tree.map(assert_equal, found, streams.least_squares(streams.triangle(streams.prefetch(rows)), ridge))


def test_the_ridge_means_what_it_means_in_the_solvers():
    inputs, targets = table()
    design = np.column_stack([inputs, np.ones(N)])
    wanted = jills.solvers.lstsq(design, targets, 0.01, some_weights())
    found = streams.least_squares(streams.batches(inputs, targets, 8, some_weights()), 0.01)
    np.testing.assert_allclose(stacked(found.layer), wanted, rtol=1e-10)


def test_columns_of_a_bad_condition_lose_no_more_digits_than_with_all_rows_at_once():
    """A sum of products would lose all digits at a condition of 1e9."""
    rng = np.random.default_rng(3)
    left, _ = np.linalg.qr(rng.normal(size=(4001, 6)))
    inputs = left @ np.diag(np.logspace(0, -9, 6)) @ np.linalg.qr(rng.normal(size=(6, 6)))[0] * 50.0
    truth = rng.normal(size=(7, 1))
    targets = inputs @ truth[:-1] + truth[-1]
    found = streams.least_squares(streams.batches(inputs, targets, 50, buffer_rows=300))
    at_once = np.linalg.norm(known(inputs, targets) - truth)
    assert np.linalg.norm(stacked(found.layer) - truth) < max(10 * at_once, 1e-6)
    assert found.rank == 7


@pytest.mark.parametrize("n", [3, N])
def test_of_several_answers_the_shortest_is_taken(n):
    inputs, targets = table(n=n)
    inputs = np.column_stack([inputs, inputs[:, :1] + inputs[:, 1:2]])
    found = streams.least_squares(streams.batches(inputs, targets, 8))
    np.testing.assert_allclose(stacked(found.layer), known(inputs, targets), rtol=1e-8)
    assert found.rank == min(n, 6)


@given(cuts=st.lists(st.integers(1, N - 1), max_size=6, unique=True), spoilt=st.booleans())
@settings(max_examples=30, deadline=None)
def test_how_rows_are_cut_into_batches_does_not_matter(cuts, spoilt):
    inputs, targets = table()
    weights = some_weights()
    if spoilt:
        inputs[weights == 0] = np.nan
    pieces = zip(*(np.split(array, sorted(cuts)) for array in (inputs, targets, weights)), strict=True)
    found = streams.least_squares(jills.Batch(*piece) for piece in pieces)
    np.testing.assert_allclose(stacked(found.layer), known(*table(), weights), rtol=1e-10)


def test_the_output_layer_of_a_network_is_solved_for_its_features():
    network = jills.Network((5, 4, 2), jills.activations.tanh)
    inputs, targets = table(scales=(1.0,) * 5)
    params = network.init(jax.random.key(0), "float64")
    rows = streams.batches(inputs, targets, 8)
    hidden = jax.jit(lambda inputs: network.forward(params, inputs)[-2])
    found = streams.least_squares(rows, features=hidden)
    np.testing.assert_allclose(stacked(found.layer), known(np.asarray(hidden(inputs)), targets), rtol=1e-9)
    solved = (*params[:-1], jax.tree.map(jax.numpy.asarray, found.layer))
    batch = jills.Batch(inputs, targets)
    np.testing.assert_allclose(jills.adam.build(network).loss_of(solved, batch), found.loss, rtol=1e-10)
    posterior = streams.evidence(rows, features=hidden)
    told = posterior.predict(hidden(inputs))
    assert np.mean((told.mean - targets) ** 2) >= found.loss
    np.testing.assert_allclose(
        told.mean, network.predict((*params[:-1], posterior.layer), jax.numpy.asarray(inputs)), rtol=1e-9
    )


def standardised(values, weights=None):
    mean = np.average(values, axis=0, weights=weights)
    scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return (values - mean) / scale, mean, scale


@pytest.mark.parametrize("weighted", [False, True])
def test_evidence_is_that_of_bayesian_ridge(weighted):
    inputs, targets = table(outputs=1)
    weights = some_weights() if weighted else None
    found = streams.evidence(streams.batches(inputs, targets, 8, weights, buffer_rows=20))
    scaled, mean, scale = standardised(inputs, weights)
    target, center, size = standardised(targets[:, 0], weights)
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0)
    ridge = BayesianRidge(max_iter=9999, tol=1e-15, fit_intercept=False, compute_score=True, **flat)
    ridge.fit(np.column_stack([scaled, np.ones(N)]), target, sample_weight=weights)
    np.testing.assert_allclose([found.alpha, found.beta], [ridge.lambda_, ridge.alpha_], rtol=1e-6)
    if weights is None:  # with weights scikit-learn's score counts rows in another way
        np.testing.assert_allclose(found.log_evidence + N * np.log(size), ridge.scores_[-1], rtol=1e-6)
    new = np.random.default_rng(2).normal(size=(7, 5)) * 3
    expected, deviation = ridge.predict(np.column_stack([(new - mean) / scale, np.ones(7)]), return_std=True)
    told = found.predict(new)
    np.testing.assert_allclose(told.mean[:, 0], expected * size + center, rtol=1e-6)
    np.testing.assert_allclose((told.variance + told.noise)[:, 0] ** 0.5, deviation * size, rtol=1e-6)


def test_evidence_is_that_of_jills_evidence_without_hidden_layers():
    inputs, targets = table()
    network = jills.Network((5, 2))
    algorithm, batch = jills.evidence.build(network), jills.Batch(inputs, targets, some_weights())
    state, _ = jills.run(algorithm, algorithm.defaults, network.init(jax.random.key(0), "float64"), batch, 300)
    found, course = streams.evidence([batch]), state.inner.course
    np.testing.assert_allclose(found.alpha, course.alpha[0], rtol=1e-5)
    np.testing.assert_allclose(found.beta, course.beta[0], rtol=1e-5)
    np.testing.assert_allclose(found.effective_parameters, course.effective[0], rtol=1e-6)
    np.testing.assert_allclose(found.log_evidence, course.log_evidence, rtol=1e-8)
    for one, other in zip(found.predict(inputs), jills.evidence.predict(algorithm, state, batch, inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_log_evidence_is_the_density_of_the_targets_and_highest():
    """With the parameters integrated out; weights that are counts stand for as many rows."""
    inputs, targets = table(3)
    counts = some_weights().astype(int)
    found = streams.evidence(streams.batches(inputs, targets, 8, counts.astype(float)))
    scaled, *_ = standardised(np.repeat(inputs, counts, axis=0))
    target, _, size = standardised(np.repeat(targets, counts, axis=0))
    design = np.column_stack([scaled, np.ones(len(scaled))])

    def density(alpha, beta):
        covariance = np.eye(len(design)) / beta + design @ design.T / alpha
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        lengths = np.sum(target * np.linalg.solve(covariance, target))
        return -0.5 * (3 * log_det + lengths) - len(design) * np.sum(np.log(size))

    np.testing.assert_allclose(found.log_evidence, density(found.alpha, found.beta), rtol=1e-10)
    for alpha, beta in ((1.01, 1.0), (0.99, 1.0), (1.0, 1.01), (1.0, 0.99)):
        assert density(alpha * found.alpha, beta * found.beta) < found.log_evidence
    values = np.linalg.eigvalsh(found.beta * design.T @ design)
    np.testing.assert_allclose(found.effective_parameters, 3 * np.sum(values / (values + found.alpha)), rtol=1e-9)


def test_evidence_holds_where_the_data_are_odd():
    inputs, targets = table()
    constant = np.column_stack([inputs, np.full(N, 7.0), inputs[:, 0]])  # and one twice
    found, plain = (streams.evidence(streams.batches(each, targets, 8)) for each in (constant, inputs))
    assert abs(found.layer.weight[5]).max() < 1e-6
    np.testing.assert_allclose(found.layer.weight[0], found.layer.weight[6], rtol=1e-6)
    np.testing.assert_allclose(found.predict(constant).mean, plain.predict(inputs).mean, atol=0.5)
    exact = streams.evidence(streams.batches(inputs, inputs @ np.ones((5, 1)), 8))
    np.testing.assert_allclose(exact.layer.weight, 1.0, rtol=1e-6)
    for unit in (1e-9, 1e9):
        other = streams.evidence(streams.batches(inputs / unit, targets * unit, 8))
        np.testing.assert_allclose([other.alpha, other.beta], [plain.alpha, plain.beta], rtol=1e-6)
        np.testing.assert_allclose(other.predict(inputs / unit).mean / unit, plain.predict(inputs).mean, rtol=1e-6)
    still = streams.evidence(streams.batches(inputs, np.full((N, 1), 4.0), 8))
    np.testing.assert_allclose(still.predict(inputs).mean, 4.0, rtol=1e-6)


def test_what_cannot_be_solved_is_refused():
    inputs, targets = table()
    batch, solve = jills.Batch(inputs, targets), cast(Any, streams.least_squares)
    spoilt = batch._replace(inputs=np.where(np.arange(N)[:, None] == 4, np.nan, inputs))
    for rows, options, words in (
        ([batch], {"ridge": -1.0}, "ridge is -1.0, but must be a finite number ≥ 0"),
        ([batch, spoilt], {}, "batch 1 holds NaN or inf in 1 rows, first in row 4"),
        ([], {}, "no rows of positive weight"),
        ([batch._replace(weights=np.zeros(N))], {}, "no rows of positive weight"),
        ([batch._replace(weights=np.full(N, -1.0))], {}, "batch 0: weights hold negative"),
        ([batch._replace(targets=targets[:, 0])], {}, r"targets \(61,\).*targets\[:, None\]"),
        ([batch, batch._replace(targets=targets[:, :1])], {}, r"batch 1 has \(p, k, dtype\) = \(5, 1, 'float64'\)"),
        ([(inputs, targets)], {}, "batch 0 is .*must be a jills.Batch"),
        (batch, {}, "single jills.Batch"),
        (streams.triangle([batch]), {"features": np.sin}, "features are given with a Triangle"),
    ):
        with pytest.raises(ValueError, match=words):
            solve(rows, **options)
