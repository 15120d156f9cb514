"""Gauss–Newton on minibatches: Optax follows its direction, a step that raises its own loss is not taken."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import NETWORK, init, problem, step

import jills
from jills import gauss_newton, losses

SMALL = gauss_newton.build(NETWORK, full_batch=False)
ITERATED = gauss_newton.build(NETWORK, linear_solver=jills.ConjugateGradients(), full_batch=False)


def minibatches(key, steps, hparams, poison=-1, algorithm=SMALL):
    params, batch = problem(key, n=55)
    state = init(algorithm, params, jax.tree.map(lambda leaf: leaf[:11], batch))
    states = [state]
    for index in range(steps):
        rows = np.random.default_rng(index).permutation(55)[:11]
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
        if index == poison:
            part = part._replace(targets=part.targets.at[0, 0].set(jnp.nan))
        state, _ = step(algorithm, hparams, state, part)
        states.append(state)
    loss = [losses.squared_error(NETWORK.predict(s.params, batch.inputs), batch.targets) for s in (states[0], state)]
    return states, loss


def change(one, other):
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    return np.concatenate([np.ravel(a - b) for a, b in pairs])


def test_changing_batches_lower_the_loss_of_all_rows(key):
    _, loss = minibatches(key, 60, gauss_newton.MinibatchHparams(learning_rate=0.3, momentum=0.5))
    assert loss[1] < 0.05 * loss[0]


def test_momentum_adds_a_share_of_the_last_change(key):
    plain, _ = minibatches(key, 2, gauss_newton.MinibatchHparams(learning_rate=0.2))
    heavy, _ = minibatches(key, 2, gauss_newton.MinibatchHparams(learning_rate=0.2, momentum=0.7))
    first = change(plain[1], plain[0])
    np.testing.assert_allclose(change(heavy[1], heavy[0]), first, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(change(heavy[2], plain[2]), 0.7 * first, rtol=1e-7, atol=1e-12)


def falling(hparams):
    return optax.sgd(optax.linear_schedule(hparams.learning_rate, 0.0, 4), hparams.momentum)


def test_any_optimizer_follows_the_direction_and_its_schedule_goes_on(key):
    """A rate that falls to zero in four steps, one of which is not taken."""
    hparams = gauss_newton.MinibatchHparams(learning_rate=0.2)
    constant, _ = minibatches(key, 1, hparams)
    states, _ = minibatches(key, 6, hparams, 2, gauss_newton.build(NETWORK, full_batch=False, optimizer=falling))
    np.testing.assert_allclose(change(states[1], states[0]), change(constant[1], constant[0]), rtol=1e-9)
    assert np.linalg.norm(change(states[4], states[3])) > 0
    np.testing.assert_array_equal(change(states[6], states[4]), 0)


def adam(hparams):
    return optax.adam(hparams.learning_rate)


def test_an_optimizer_with_moments_takes_no_long_step_after_a_bad_batch(key):
    """Its moments and its count stay in step, so that no change exceeds a few times the rate."""
    algorithm = gauss_newton.build(NETWORK, full_batch=False, optimizer=adam)
    states, _ = minibatches(key, 30, gauss_newton.MinibatchHparams(learning_rate=1e-3), 20, algorithm)
    steps = [np.max(np.abs(change(new, old))) for old, new in itertools.pairwise(states)]
    assert steps[20] == 0
    assert max(steps[21:]) < 2e-3


def test_defaults_without_its_own_hyperparameters_are_refused():
    with pytest.raises(ValueError, match="must have weight_decay and damping among them"):
        gauss_newton.build(NETWORK, full_batch=False, defaults=jills.adam.Hparams())


def test_a_bad_batch_is_not_taken(key):
    """It moves nothing, the velocity fades by the momentum, and the next one trains on."""
    states, loss = minibatches(key, 6, gauss_newton.MinibatchHparams(learning_rate=0.2, momentum=0.5), poison=2)
    velocities = [jax.tree.leaves(state.inner.optimizer) for state in states]
    for faded, before in zip(velocities[3], velocities[2], strict=True):
        np.testing.assert_allclose(faded, 0.5 * before, rtol=1e-12)
    np.testing.assert_array_equal(change(states[3], states[2]), 0)
    assert np.linalg.norm(change(states[4], states[3])) > 0
    assert np.isfinite(loss[1])
    assert loss[1] < loss[0]


def test_a_preconditioner_serves_some_steps_or_until_one_is_not_taken(key):
    states, _ = minibatches(key, 12, gauss_newton.MinibatchHparams(learning_rate=0.2), 6, ITERATED)
    traces = [float(state.inner.preconditioners[0].trace) for state in states]
    renewed = [index for index in range(12) if traces[index + 1] != traces[index]]
    assert renewed == [0, 5, 7]
    assert [int(state.inner.left) for state in states] == [0, 4, 3, 2, 1, 0, 4, 0, 4, 3, 2, 1, 0]


def test_a_bad_batch_leaves_no_trace_in_the_preconditioner(key):
    """It arrives where a preconditioner is due, with inputs of NaN; the next batch takes one anew."""
    params, batch = problem(key, n=11)
    bad = batch._replace(inputs=batch.inputs.at[0, 0].set(jnp.nan))
    hparams = gauss_newton.MinibatchHparams(learning_rate=0.2)
    state, _ = step(ITERATED, hparams, init(ITERATED, params, batch), bad)
    after, _ = step(ITERATED, hparams, state, batch)
    np.testing.assert_array_equal(change(state, init(ITERATED, params, batch)), 0)
    assert np.linalg.norm(change(after, state)) > 0


@pytest.mark.parametrize("power", [-50, 50])
def test_the_units_of_the_targets_do_not_matter(power, key):
    """That of the first batch is kept; a bad first batch has none. A power of two: the same steps, bit for bit."""
    params, batch = problem(key, "float32", n=11)
    hparams = gauss_newton.MinibatchHparams(learning_rate=0.5, momentum=0.5)
    unit, found = np.float32(2.0**power), []
    for one in (np.float32(1.0), unit):
        moved = (params[0], jills.Layer(params[1].weight * one, params[1].bias * one))
        scaled = batch._replace(targets=batch.targets * one)
        state = init(ITERATED, moved, scaled)
        state, _ = step(ITERATED, hparams, state, scaled._replace(targets=scaled.targets * jnp.nan))
        assert state.inner.unit == 0
        for factor in (1.0, 1.5, 3.0):
            state, info = step(ITERATED, hparams, state, scaled._replace(targets=scaled.targets * factor))
        assert np.log2(state.inner.unit / one) in (-2, -1, 0, 1)
        found.append((state.params[0].weight, info.loss / one**2))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_minibatch_steps_agree_under_vmap(key):
    """Where members renew at different steps: one of them begins later."""
    params, batch = problem(key, n=11)
    hparams = gauss_newton.MinibatchHparams(learning_rate=0.2, momentum=0.5)
    states = [init(ITERATED, params, batch)] * 2
    states[1], _ = step(ITERATED, hparams, states[1], batch)
    both = jax.tree.map(lambda one, other: jnp.stack([one, other]), *states)
    many = jax.jit(jax.vmap(lambda state: ITERATED.step(hparams, state, batch)[0]))
    for _ in range(6):
        both = many(both)
        states = [step(ITERATED, hparams, state, batch)[0] for state in states]
    for index, state in enumerate(states):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], both)
        np.testing.assert_allclose(
            change(own, init(ITERATED, params, batch)),
            change(state, init(ITERATED, params, batch)),
            rtol=1e-7,
            atol=1e-10,
        )


def test_numbers_for_minibatches_damp_more_the_scarcer_residuals_are():
    network = jills.Network((8, 10, 1))  # 101 parameters
    assert gauss_newton.minibatch_hparams(network, 101) == gauss_newton.MinibatchHparams(
        damping=0.03, learning_rate=0.5, momentum=0.5
    )
    rows = (5000, 101, 10, 1)
    values = np.array([gauss_newton.minibatch_hparams(network, each).damping for each in rows])
    np.testing.assert_allclose(values, [0.03, 0.03, 0.303, 3.03], rtol=1e-12)
    classes = jills.Network((8, 10, 3))  # 123 parameters
    losses = (jills.losses.softmax_cross_entropy, jills.losses.huber(1.0))
    values = np.array([gauss_newton.minibatch_hparams(classes, 41, loss).damping for loss in losses])
    np.testing.assert_allclose(values, [10.03, 0.03], rtol=1e-12)
    with pytest.raises(ValueError, match="num_rows is 0"):
        gauss_newton.minibatch_hparams(network, 0)
