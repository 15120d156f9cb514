"""`run`: one network, one scan, and the rules for stopping."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CASES, NETWORK, Rate, problem, step

import jills
from jills import results

ADAM, HPARAMS = CASES["adam"].algorithm, CASES["adam"].hparams


def test_run_is_the_step_repeated(key):
    params, batch = problem(key)
    state, info = jills.run(ADAM, HPARAMS, params, batch, 4)
    by_hand, losses = ADAM.init(params, batch), []
    for _ in range(4):
        by_hand, told = step(ADAM, HPARAMS, by_hand, batch)
        losses.append(told.loss)
    chex.assert_trees_all_close(state, by_hand, rtol=1e-12)
    np.testing.assert_allclose(info.loss, losses, rtol=1e-12)


def test_going_on_from_a_state_is_one_longer_run(key):
    params, batch = problem(key)
    state, first = jills.run(ADAM, HPARAMS, params, batch, 3)
    state, second = jills.run(ADAM, HPARAMS, state, batch, 4)
    whole, info = jills.run(ADAM, HPARAMS, params, batch, 7)
    chex.assert_trees_all_close(state, whole, rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([first.loss, second.loss]), info.loss, rtol=1e-12)


def test_going_on_with_other_rows(key):
    """The state is brought up to date with the batch it goes on with."""
    params, batch = problem(key)
    state, _ = jills.run(ADAM, HPARAMS, params, batch, 3)
    _, other = problem(jax.random.key(1))
    _, info = jills.run(ADAM, HPARAMS, state, other, 1)
    expected = np.mean(np.square(np.array(NETWORK.predict(state.params, other.inputs)) - np.array(other.targets)))
    np.testing.assert_allclose(info.loss[0], expected, rtol=1e-10)


def test_run_under_jit_and_vmap(key):
    """Pure: wrapped in vmap over keys it gives what single runs give."""

    def train(key):
        return jills.run(ADAM, HPARAMS, *problem(key), 5)[0].loss

    keys = jax.random.split(key, 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(train))(keys), [train(k) for k in keys], rtol=1e-10)


def test_a_target_stops_and_freezes(key):
    params, batch = problem(key)
    free, info = jills.run(ADAM, HPARAMS, params, batch, 40)
    target = float(info.loss[10])
    state, told = jills.run(ADAM, HPARAMS, params, batch, 40, stop=jills.Stop(target_loss=target))
    assert state.result == results.TARGET_REACHED
    assert state.step <= 10
    assert state.loss <= target
    assert (told.loss[int(state.step) :] == state.loss).all()
    assert (told.update_norm[int(state.step) :] == 0).all()
    assert jnp.isnan(told.detail.gradient_norm[int(state.step) :]).all()
    assert free.result == results.RUNNING


def test_a_small_update_stops(key):
    params, batch = problem(key)
    state, _ = jills.run(ADAM, HPARAMS, params, batch, 40, stop=jills.Stop(update_norm=1e9))
    assert state.result == results.SETTLED
    assert state.step == 1


def test_divergence_keeps_the_best_parameters(key):
    params, batch = problem(key)
    state, info = jills.run(ADAM, jills.adam.Hparams(1e300), params, batch, 20)
    assert state.result == results.NON_FINITE
    assert not info.finite[-1]
    assert jnp.isfinite(state.best_loss)
    assert jnp.isfinite(NETWORK.predict(state.best_params, batch.inputs)).all()
    assert set(results.MESSAGES) == set(results.Code)


def test_metrics_are_of_the_parameters_received(key):
    params, batch = problem(key)
    metrics = partial(NETWORK.predict, inputs=batch.inputs)
    _, info = jills.run(ADAM, HPARAMS, params, batch, 3, metrics=metrics)
    np.testing.assert_allclose(info.metrics[0], NETWORK.predict(params, batch.inputs), rtol=1e-12)
    assert info.metrics.shape == (3, 11, 2)


def test_other_rows_and_numbers_do_not_compile_again(key, monkeypatch):
    chex.clear_trace_counter()
    kind = type(ADAM)
    monkeypatch.setattr(kind, "update", chex.assert_max_traces(1)(kind.update))
    for number, seed in enumerate(jax.random.split(key, 3)):
        params, batch = problem(seed, n=13)
        jills.run(ADAM, jills.adam.Hparams(0.1 * (number + 1)), params, batch, 2)


def made_anew(power, shift):
    """An algorithm and metrics of functions that were made just now."""
    activation = jills.Activation(lambda x: jnp.tanh(x) + shift, lambda x: 1.0 - jnp.tanh(x) ** 2)
    loss = jills.Loss(
        lambda z, y: jnp.mean(jnp.abs(z - y) ** power, axis=1),
        lambda z, y: power * jnp.sign(z - y) * jnp.abs(z - y) ** (power - 1) / z.shape[1],
        lambda z, y: jax.vmap(jnp.diag)(jnp.ones_like(z)),
    )
    network = jills.Network((3, 5, 2), activation)
    rows: Any = np.full((2, 3), shift)
    sgd = lambda hparams: optax.sgd(hparams.learning_rate * shift)  # noqa: E731 as users write them
    return jills.adam.build(network, loss, sgd, Rate()), lambda params: network.predict(params, rows)


def test_functions_made_anew_do_not_compile_again(key, monkeypatch):
    """Equal ones do not; those with other contents give their own numbers, whatever was compiled before."""
    chex.clear_trace_counter()
    params, batch = problem(key)
    monkeypatch.setattr(type(ADAM), "update", chex.assert_max_traces(3)(type(ADAM).update))
    told = {}
    for choice in 3 * [(2, 0.5), (4, 0.5), (2, 0.25)]:
        algorithm, metrics = made_anew(*choice)
        state, info = jills.run(algorithm, Rate(0.1), params, batch, 3, metrics=metrics)
        rows = np.full((2, 3), choice[1])
        (weight, bias), (last, end) = jax.tree.map(np.asarray, params)
        expected = (np.tanh(rows @ weight + bias) + choice[1]) @ last + end
        np.testing.assert_allclose(info.metrics[0], expected, rtol=1e-10)
        inner = np.tanh(np.asarray(batch.inputs) @ weight + bias) + choice[1]
        loss = np.mean(np.abs(inner @ last + end - batch.targets) ** choice[0])
        np.testing.assert_allclose(info.loss[0], loss, rtol=1e-10)
        np.testing.assert_array_equal(state.loss, told.setdefault(choice, state.loss))
    assert len({float(loss) for loss in told.values()}) == 3


def test_a_helper_that_is_defined_anew_is_seen(key):
    """By metrics that are the same function as before, as in a notebook."""
    space = {"helper": lambda params: params[0].bias}
    exec("def metrics(params): return helper(params)", space)
    params, batch = problem(key)
    for scale in (1.0, 2.0, 1.0):
        space["helper"] = lambda params, scale=scale: scale * params[0].bias
        _, info = jills.run(ADAM, HPARAMS, params, batch, 1, metrics=space["metrics"])
        np.testing.assert_array_equal(info.metrics[0], scale * params[0].bias)


def test_metrics_may_close_over_tracers(key):
    params, batch = problem(key)

    def train(scale):
        return jills.run(ADAM, HPARAMS, params, batch, 1, metrics=lambda params: scale * params[0].bias)[1].metrics[0]

    expected = np.array([1.0, 2.0])[:, None] * np.asarray(params[0].bias)
    np.testing.assert_array_equal(jax.jit(jax.vmap(train))(jnp.array([1.0, 2.0])), expected)


@pytest.mark.parametrize("number", [1, 1.0, np.float64(1.0), np.float32(1.0), np.int64(1), True, "jax"])
def test_numbers_of_any_type_share_a_program(number, key, monkeypatch):
    """Rates and stops come in the dtype of the parameters, and not as they were given."""
    params, batch = problem(key, n=17)
    jills.run(ADAM, jills.adam.Hparams(0.5), params, batch, 2, stop=jills.Stop(0.0))
    chex.clear_trace_counter()
    monkeypatch.setattr(type(ADAM), "update", chex.assert_max_traces(0)(type(ADAM).update))
    number = jnp.float32(1.0) if number == "jax" else number
    state, _ = jills.run(ADAM, jills.adam.Hparams(number), params, batch, 2, stop=jills.Stop(number - 1))
    assert state.loss.dtype == "float64"


def test_no_steps_are_refused(key):
    with pytest.raises(ValueError, match="num_steps is 0, but must be at least 1"):
        jills.run(ADAM, HPARAMS, *problem(key), 0)
