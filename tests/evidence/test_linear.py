"""Of a linear model everything is known in closed form: BayesianRidge of scikit-learn, Bayesian linear regression."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

import jills

SCALES = np.array([1.0, 5.0, 0.1, 1.0, 1.0, 1.0, 100.0])
N = 61


def table(seed=0, outputs=1):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(N, 7)) * SCALES + 3.0
    slopes = rng.normal(size=(7, outputs)) / SCALES[:, None] * np.array([1, 1, 1, 0, 0, 0.1, 0.2])[:, None]
    noise = rng.normal(size=(N, outputs)) * np.linspace(0.3, 1.0, outputs)
    return inputs, (inputs @ slopes + noise) * 7.0 + 20.0


def standardised(values, weights=None):
    mean = np.average(values, axis=0, weights=weights)
    scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return (values - mean) / scale, mean, scale


def trained(inputs, targets, weights=None, **options):
    network = jills.Network((inputs.shape[1], targets.shape[1]))
    algorithm = jills.evidence.build(network, **options)
    batch = jills.Batch(inputs, targets, weights)
    start = network.init(jax.random.key(0), dtype="float64")
    state, info = jills.run(algorithm, algorithm.defaults, start, batch, 300)
    return algorithm, state, info, batch


def bayesian_ridge(inputs, target, weights=None):
    """With a column of ones in place of an intercept, so that it is one more parameter with the same prior."""
    ridge = BayesianRidge(
        max_iter=9999, tol=1e-15, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, fit_intercept=False, compute_score=True
    )
    return ridge.fit(np.column_stack([inputs, np.ones(len(inputs))]), target, sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_precisions_evidence_and_predictions_are_those_of_bayesian_ridge(weighted):
    inputs, targets = table()
    weights = np.random.default_rng(1).integers(0, 4, N).astype(float) if weighted else None
    algorithm, state, _, batch = trained(inputs, targets, weights)
    scaled, mean, scale = standardised(inputs, weights)
    target, center, size = standardised(targets[:, 0], weights)
    known = bayesian_ridge(scaled, target, weights)
    np.testing.assert_allclose(state.inner.course.alpha[0], known.lambda_, rtol=1e-6)
    np.testing.assert_allclose(state.inner.course.beta[0], known.alpha_, rtol=1e-6)
    rows = N if weights is None else weights.sum()
    evidence = state.inner.course.log_evidence + rows * np.log(size)
    if weights is None:  # with weights scikit-learn's score counts rows in another way
        np.testing.assert_allclose(evidence, known.scores_[-1], rtol=1e-7)
    new = np.random.default_rng(2).normal(size=(5, 7)) * 3
    expected, deviation = known.predict(np.column_stack([(new - mean) / scale, np.ones(5)]), return_std=True)
    found = jills.evidence.predict(algorithm, state, batch, new)
    np.testing.assert_allclose(found.mean[:, 0], expected * size + center, rtol=1e-6)
    np.testing.assert_allclose((found.variance[:, 0] + found.noise) ** 0.5, deviation * size, rtol=1e-6)
    assert state.result == jills.results.AT_REST


def test_precisions_come_to_rest_where_noise_prevails():
    """By the parameters before a step, α would swing between two values for ever."""
    rng, scales = np.random.default_rng(0), np.array([1, 5, 0.1, 100, 1.0])
    inputs = rng.normal(size=(N, 5)) * scales + 3
    slopes = rng.normal(size=(5, 3)) / scales[:, None] * np.array([1, 1, 0.1, 0, 0.2])[:, None]
    targets = (inputs @ slopes + rng.normal(size=(N, 3)) * np.linspace(0.3, 1, 3)) * 7 + 20
    _, state, *_ = trained(inputs, targets)
    design, target = np.column_stack([standardised(inputs)[0], np.ones(N)]), standardised(targets)[0]
    values, alpha, beta = np.linalg.eigvalsh(design.T @ design), 10.0, 1.0
    for _ in range(500):  # MacKay's fixed point, each time at the minimum
        theta = np.linalg.solve(beta * design.T @ design + alpha * np.eye(6), beta * design.T @ target)
        effective = 3 * np.sum(beta * values / (beta * values + alpha))
        alpha = effective / np.sum(theta**2)
        beta = (3 * N - effective) / np.sum((target - design @ theta) ** 2)
    assert state.result == jills.results.AT_REST
    np.testing.assert_allclose(state.inner.course.alpha[0], alpha, rtol=0.01)
    np.testing.assert_allclose(state.inner.course.beta[0], beta, rtol=0.01)


def test_effective_parameters_and_evidence_in_closed_form():
    """From the eigenvalues of the Gram matrix, and the density of the targets with the parameters integrated out."""
    inputs, targets = table()
    _, state, info, _ = trained(inputs, targets)
    scaled, *_ = standardised(inputs)
    target, _, size = standardised(targets[:, 0])
    design = np.column_stack([scaled, np.ones(N)])
    alpha, beta = float(state.inner.course.alpha[0]), float(state.inner.course.beta[0])
    values = np.linalg.eigvalsh(beta * design.T @ design)
    np.testing.assert_allclose(state.inner.course.effective[0], np.sum(values / (values + alpha)), rtol=1e-6)
    covariance = np.eye(N) / beta + design @ design.T / alpha
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    density = -0.5 * (log_det + target @ np.linalg.solve(covariance, target)) - N * np.log(size)
    np.testing.assert_allclose(state.inner.course.log_evidence, density, rtol=1e-7)
    steps = int(state.step)
    assert np.isnan(info.detail.log_evidence[steps:]).all()
    assert not np.isnan(info.detail.log_evidence[:steps]).any()


def test_an_alpha_for_every_input_prunes_what_tells_nothing():
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(200, 4))
    targets = inputs[:, :1] - 2 * inputs[:, 1:2] + 0.1 * rng.normal(size=(200, 1))
    algorithm, state, _, batch = trained(inputs, targets, prior=jills.evidence.by_input)
    used, idle = state.inner.course.alpha[:2], state.inner.course.alpha[2:4]
    assert idle.min() > 100 * used.max()
    np.testing.assert_allclose(state.inner.course.effective[:2], 1.0, atol=0.01)
    assert abs(state.params[0].weight[2:]).max() < 0.01
    assert jills.evidence.predict(algorithm, state, batch, inputs).noise[0] == pytest.approx(0.01, rel=0.2)


def test_noise_of_each_output():
    """Without a prior to speak of, β of an output is `(N − p) / ‖r‖²` of its least squares."""
    inputs, targets = table(outputs=3)
    algorithm, state, _, batch = trained(inputs, targets, noise_per_output=True)
    found = jills.evidence.predict(algorithm, state, batch, inputs)
    design = np.column_stack([inputs, np.ones(N)])
    residual = targets - design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    np.testing.assert_allclose(found.noise, np.sum(residual**2, axis=0) / (N - 8), rtol=0.05)
    assert state.inner.course.beta.shape == (3,)


def test_units_change_nothing_but_the_units():
    inputs, targets = table()
    _, plain, *_ = trained(inputs, targets)
    for unit in (1e-9, 1e9):
        algorithm, state, _, batch = trained(inputs / unit, targets * unit)
        np.testing.assert_allclose(state.inner.course.alpha, plain.inner.course.alpha, rtol=1e-6)
        np.testing.assert_allclose(state.inner.course.beta, plain.inner.course.beta, rtol=1e-6)
        found = jills.evidence.predict(algorithm, state, batch, inputs / unit)
        expected = inputs @ np.array(plain.params[0].weight) + np.array(plain.params[0].bias)
        np.testing.assert_allclose(found.mean / unit, expected, rtol=1e-5)
