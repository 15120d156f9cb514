"""Networks with hidden layers: they learn what is there and not the noise, in all units, sizes and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jills
from jills import results

NETWORK = jills.Network((3, 7, 1), jills.activations.tanh)
EVIDENCE = jills.evidence.build(NETWORK)


def waves(n, noise, seed=0, frequency=3.0):
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (n, 3))
    return inputs, np.sin(frequency * inputs[:, :1]) + noise * rng.normal(size=(n, 1))


def sweep(inputs, targets, weights=None, dtype="float64", algorithm=EVIDENCE, members=3, num_steps=60, **options):
    start = jax.tree_util.Partial(lambda key: algorithm.network.init(key, dtype=dtype))
    batches = jills.Batch(inputs, targets, weights)
    keys = jax.random.split(jax.random.key(0), members)
    return jills.sweep(algorithm, algorithm.defaults, start, keys, num_steps, batches=batches, **options)


def errors(result, inputs, truth):
    """Mean square over the variance of the truth, of each member."""
    params = jax.tree.map(lambda leaf: leaf[0], result.state.params)
    predicted = np.array(
        jax.vmap(NETWORK.predict, in_axes=(0, None))(params, jnp.asarray(inputs, result.state.loss.dtype))
    )
    return np.mean((predicted - truth[None]) ** 2, axis=(1, 2)) / np.var(truth)


def test_it_learns_the_waves_and_says_how_noisy_they_are(dtype):
    inputs, targets = waves(100, 0.2)
    result = sweep(inputs, targets, dtype=dtype)
    new, truth = waves(300, 0.0, seed=1)
    assert errors(result, new, truth).max() < 0.1
    assert 0.1**2 < np.var(targets) / float(result.state.inner.course.beta.max()) < 0.3**2
    taken = np.arange(60) < np.array(result.state.step)[..., None]
    assert not np.isnan(result.info.detail.log_evidence[taken]).any()


def test_a_network_that_rests_at_a_constant_is_started_again_with_less_prior():
    inputs, targets = waves(100, 0.1, frequency=8.0)
    targets = targets + 0 * inputs[:, :1]
    algorithm = jills.evidence.build(jills.Network((1, 10, 1), jills.activations.tanh))
    result = sweep(inputs[:, :1], targets, algorithm=algorithm)
    variance = np.var(targets)
    assert (result.info.loss[0, :, 6] > 0.5 * variance).all()  # the strong prior of the start holds it down
    assert (result.state.loss[0] < 0.05 * variance).all()
    assert (result.state.inner.phase == 2).all()


def test_pure_noise_has_few_effective_parameters_and_predicts_the_mean(dtype):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(200, 3)), rng.normal(size=(200, 1))
    result = sweep(inputs, targets, dtype=dtype)
    assert result.state.inner.course.effective.max() < 8
    assert (np.array(result.state.loss) > 0.9 * np.var(targets)).all()
    assert (result.state.result == results.AT_REST).all()
    word, why = (column[0, 0] for column in jills.diagnose(result.state, result.info))
    assert word == "converged"
    assert "of 36 parameters are determined by the data" in why


def test_groups_share_an_alpha_at_first_and_none_lies_below_the_common_one():
    inputs, targets = waves(100, 0.2)
    algorithm = jills.evidence.build(NETWORK, prior=jills.evidence.by_input)
    result = sweep(inputs, targets, algorithm=algorithm)
    alpha, gamma = (getattr(result.info.detail, name)[0] for name in ("alpha", "effective_parameters"))
    assert np.ptp(alpha[:, :12], axis=2).max() == 0.0
    last = np.asarray(result.state.step[0]) - 1  # a member that has come to rest records nothing more
    alpha, gamma = (np.stack([one[at] for one, at in zip(each, last, strict=True)]) for each in (alpha, gamma))
    assert alpha[:, 1:3].min() > 10 * alpha[:, 0].max()  # the waves are those of the first column
    assert (gamma[:, 1:3] < 0.7 * gamma[:, :1]).all()
    for member in range(3):
        course = jax.tree.map(lambda leaf, at=member: np.array(leaf[0, at]), result.state.inner.course)
        scale, unit = np.std(inputs, axis=0), np.std(targets)
        first, second = jax.tree.map(lambda leaf, at=member: np.array(leaf[0, at]), result.state.params)
        weights = first.weight * scale[:, None]
        biases = first.bias + np.mean(inputs, axis=0) @ first.weight
        last = np.append(second.weight / unit, (second.bias - np.mean(targets)) / unit)
        size = np.sum(weights**2) + np.sum(biases**2) + np.sum(last**2)
        assert course.alpha.min() == pytest.approx(course.effective.sum() / size, rel=0.05)


def test_low_noise_in_float32_leaves_no_prediction_without_a_variance():
    """There Cholesky fails of rounding, unless more is added."""
    inputs, targets = waves(300, 1e-3)
    algorithm = jills.evidence.build(jills.Network((3, 50, 1), jills.activations.tanh))
    result = sweep(inputs, targets, dtype="float32", algorithm=algorithm, num_steps=40)
    state = jax.tree.map(lambda leaf: leaf[0, 0], result.state)
    batch = jills.Batch(inputs.astype("float32"), targets.astype("float32"))
    found = jills.evidence.predict(algorithm, state, batch, batch.inputs)
    assert (np.array(found.variance) > 0).all()
    assert np.sqrt(found.noise) == pytest.approx(1e-3, rel=0.5)


def test_the_noise_that_is_told_is_that_of_the_residuals(dtype):
    """`Σ r² / (N − γ)`, though training takes it for larger."""
    inputs, targets = (each.astype(dtype) for each in waves(100, 0.2))
    result = sweep(inputs, targets, dtype=dtype, members=1)
    state = jax.tree.map(lambda leaf: leaf[0, 0], result.state)
    found = jills.evidence.predict(EVIDENCE, state, jills.Batch(inputs, targets), inputs)
    residual = np.sum((np.array(found.mean) - targets) ** 2)
    freedom = 100 - np.array(state.inner.course.effective)[0]
    np.testing.assert_allclose(found.noise[0], residual / freedom, rtol=0.02)
    assert found.noise[0] < 0.99 * np.var(targets) / state.inner.course.beta[0]


@pytest.mark.parametrize("trained", [True, False])
def test_a_start_for_other_units_is_taken_for_standardised_data_unless_it_is_trained(trained):
    """Rows far from size one: what was drawn saturates every unit there; what was trained on them is kept."""
    inputs, targets = waves(100, 0.05)
    inputs, targets = 1e3 * inputs + 1e4, 1e-3 * targets
    batch, start = jills.Batch(inputs, targets), NETWORK.init(jax.random.key(0), dtype="float64")
    if trained:
        start = jills.run(EVIDENCE, EVIDENCE.defaults, start, batch, 60)[0].params
    state, _ = jills.run(EVIDENCE, EVIDENCE.defaults, start, batch, 2)
    assert bool(state.inner.drawn) is not trained
    if trained:
        assert state.loss < 0.5 * np.var(targets)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.0, 0.1, 3.0]),
    used=st.integers(1, 20),
    unit=st.sampled_from([1e-9, 1.0, 1e9]),
    kind=st.sampled_from(["plain", "constant", "collinear", "dead", "saturated"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_no_data_lead_to_nan_or_to_worse_than_a_constant(seed, noise, used, unit, kind, dtype):
    """On the training rows, all of which may have weight zero but one."""
    inputs, targets = waves(20, noise, seed)
    if kind == "constant":
        targets = np.full_like(targets, 3.0)
    elif kind == "collinear":
        inputs[:, 1] = 2 * inputs[:, 0]
    elif kind == "dead":
        inputs[:, 2] = 1900.0
    elif kind == "saturated":
        inputs = 1e4 * inputs + 1e6
    weights = np.tile((np.arange(20) < used).astype(float), (3, 1))
    result = sweep(inputs * unit, targets / unit, weights, dtype, num_steps=30)
    told = jax.tree.leaves((result.state.inner.course, result.state.params))
    assert all(np.isfinite(leaf).all() for leaf in told)
    constant = np.var(targets[:used] / unit)
    size = np.max(np.abs(targets[:used] / unit))
    assert (np.array(result.state.loss, np.float64) <= 1.05 * constant + (1e-3 * size) ** 2).all()


def test_weights_count_rows_and_folds_leave_some_out():
    """Weight two is a row twice; and members of a fold ensemble do not know the rows that they leave out."""
    inputs, targets = waves(40, 0.3)
    weights = np.array(jills.folds(jax.random.key(1), 40, 4))
    result = sweep(inputs, targets, weights, members=4, num_steps=10)
    states = jax.tree.map(lambda leaf: leaf[0], result.state)
    for member in (0, 3):
        some = weights[member] > 0
        keys = jax.random.split(jax.random.key(0), 4)
        alone, _ = jills.run(
            EVIDENCE,
            EVIDENCE.defaults,
            NETWORK.init(keys[member], dtype="float64"),
            jills.Batch(inputs[some], targets[some]),
            10,
        )
        np.testing.assert_allclose(states.inner.course.beta[member], alone.inner.course.beta, rtol=1e-5)
    batch = [jills.Batch(jnp.asarray(inputs), jnp.asarray(targets), weight) for weight in jnp.asarray(weights)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
    predict = jax.jit(jax.vmap(lambda state, batch: jills.evidence.predict(EVIDENCE, state, batch, batch.inputs)))
    unseen = jills.out_of_fold(predict(states, stacked), jnp.asarray(weights))
    error = np.mean((np.array(unseen.mean) - targets) ** 2)
    assert error > np.mean(np.array(states.loss))
    factor = jills.calibration(unseen, jnp.asarray(targets))
    calibrated = unseen.calibrated(factor)
    np.testing.assert_allclose(jnp.mean(jnp.square(targets - calibrated.mean) / calibrated.variance), 1.0, rtol=1e-6)


@pytest.mark.parametrize("curvature", ["block_diagonal", "kronecker"])
def test_cheaper_curvatures_learn_too(curvature):
    inputs, targets = waves(100, 0.2)
    algorithm = jills.evidence.build(NETWORK, curvature=getattr(jills.evidence, curvature))
    result = sweep(inputs, targets, algorithm=algorithm)
    new, truth = waves(300, 0.0, seed=1)
    assert np.median(errors(result, new, truth)) < 0.15
    batch = jills.Batch(inputs, targets)
    state = jax.tree.map(lambda leaf: leaf[0, 0], result.state)
    found = jills.evidence.predict(algorithm, state, batch, new)
    assert (found.variance > 0).all()


def test_classes_are_probabilities_and_moderated_towards_less_sure_ones():
    """Against the mean over draws of logits from their variance."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 3))
    targets = np.eye(2)[(inputs[:, 0] + 0.5 * rng.normal(size=60) > 0).astype(int)]
    network = jills.Network((3, 5, 2), jills.activations.tanh)
    algorithm = jills.evidence.build(network, loss=jills.losses.softmax_cross_entropy)
    batch = jills.Batch(inputs, targets)
    start = network.init(jax.random.key(0), dtype="float64")
    state, _ = jills.run(algorithm, algorithm.defaults, start, batch, 30)
    found = jills.evidence.predict(algorithm, state, batch, inputs * 2)
    np.testing.assert_allclose(jnp.sum(found.mean, axis=1), 1.0)
    logits = network.predict(state.params, jnp.asarray(inputs * 2))
    draws = logits[None] + jnp.sqrt(found.variance)[None] * jax.random.normal(jax.random.key(1), (4000, 60, 2))
    np.testing.assert_allclose(jnp.mean(jax.nn.softmax(draws, axis=2), axis=0), found.moderated, atol=0.05)
    assert (jnp.max(found.moderated, axis=1) <= jnp.max(found.mean, axis=1)).all()
    assert state.inner.course.effective < network.num_params


def test_outliers_pull_less_with_huber():
    inputs, targets = waves(100, 0.1)
    targets[::10] += 30.0
    robust = jills.evidence.build(NETWORK, loss=jills.losses.huber(0.3))
    new, truth = waves(300, 0.0, seed=1)
    assert np.median(errors(sweep(inputs, targets, algorithm=robust), new, truth)) < 0.4
    assert np.median(errors(sweep(inputs, targets), new, truth)) > 1.0


BAD = {
    "prior that is no function": ({"prior": "ard"}, "prior is 'ard'"),
    "noise of a loss without any": (
        {"loss": jills.losses.softmax_cross_entropy, "noise_per_output": True},
        "no noise to learn",
    ),
    "groups with gaps": (
        {"prior": lambda network: tuple(jills.Layer(2 * w, 2 * b) for w, b in jills.evidence.by_layer(network))},
        "0, 1, 2",
    ),
    "groups of other shapes": ({"prior": lambda network: jills.evidence.by_layer(network)[:1]}, "shaped like"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_built_is_refused(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        jills.evidence.build(NETWORK, **options)
