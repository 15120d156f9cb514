"""The contract from a newcomer's side: the page in the docstring of `jills.algorithm`, and states on other rows."""

import inspect
import re
import textwrap
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, init, problem

import jills
from jills import algorithm, results

ADAM = CASES["adam"]


def test_the_page_on_own_algorithms_runs():
    """A complete gradient descent in under 30 lines, with 5 names of jills besides `Network`, `Batch` and `run`."""
    page = re.search(r"complete::\n\n(.*?)\n\nOptional", inspect.getdoc(algorithm) or "", re.DOTALL)
    assert page is not None
    code = textwrap.dedent(page[1])
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    names: dict = {"__name__": "page"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, "jills/algorithm.py", "exec"), names)
    state, info = names["state"], names["info"]
    assert state.loss < 0.2 * info.loss[0]
    assert jills.diagnose(state, info).word in ("improving", "converged")
    rates = names["Hparams"](jnp.array([0.1, 0.2]))
    start = lambda key: jills.Member(names["network"].init(key), names["batch"])  # noqa: E731
    swept = jills.sweep(names["algorithm"], rates, start, jax.random.split(jax.random.key(0), 2), 3)
    assert swept.info.loss.shape == (2, 2, 3)


def test_a_run_on_the_same_rows_goes_on_and_on_other_rows_starts_its_records_anew(key):
    params, batch = problem(key)
    _, other = problem(jax.random.key(1))
    stop = jills.Stop(update_norm=1e9)
    state, _ = jills.run(ADAM.algorithm, ADAM.hparams, params, batch, 3, stop=stop)
    assert state.result == results.SETTLED
    same, _ = jills.run(ADAM.algorithm, ADAM.hparams, state, batch, 3)
    assert same.step == state.step == 1
    again, info = jills.run(ADAM.algorithm, ADAM.hparams, state, other, 3)
    assert again.step == 4
    assert again.result == results.RUNNING
    loss = np.mean(np.square(np.array(NETWORK.predict(state.params, other.inputs)) - np.array(other.targets)))
    np.testing.assert_allclose(info.loss[0], loss, rtol=1e-10)
    np.testing.assert_allclose(again.best_loss, np.min(np.append(info.loss, again.loss)), rtol=1e-12)


@pytest.mark.parametrize("name", ["ills", "gauss_newton", "adam"])
def test_a_run_goes_on_with_more_rows(name, key):
    case = CASES[name]
    params, batch = problem(key)
    state, _ = jills.run(case.algorithm, case.hparams, params, batch, 2)
    _, more = problem(jax.random.key(1), n=17)
    state, info = jills.run(case.algorithm, case.hparams, state, more, 2)
    assert state.step == 4
    assert info.finite.all()
    loss = np.mean(np.square(np.array(NETWORK.predict(state.params, more.inputs)) - np.array(more.targets)))
    np.testing.assert_allclose(state.loss, loss, rtol=1e-8)


def test_minibatch_steps_belong_to_no_one_batch(key):
    """So a run that follows them keeps no best loss that another batch had."""
    algorithm = jills.adam.build(NETWORK, full_batch=False)
    params, batch = problem(key)
    state = algorithm.init(params, batch)
    assert state.fingerprint != 0
    state, _ = algorithm.step(jills.adam.Hparams(0.1), state, problem(jax.random.key(1), n=7)[1])
    assert state.fingerprint == 0
    state = state._replace(best_loss=jnp.asarray(0.0))
    again, info = jills.run(algorithm, jills.adam.Hparams(0.1), state, batch, 2)
    assert again.best_loss == min(info.loss)


def test_a_blank_state_has_the_shape_of_a_start(key):
    for case in CASES.values():
        params, batch = problem(key)
        blank, start = case.algorithm.blank(params, batch), init(case.algorithm, params, batch)
        assert jax.tree.structure(blank) == jax.tree.structure(start)
        for one, other in zip(jax.tree.leaves(blank), jax.tree.leaves(start), strict=True):
            assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, other.weak_type)


def test_a_detail_without_its_blank_is_refused_in_words(key):
    class Talkative(type(CASES["own"].algorithm)):
        def update(self, hparams, state, batch):
            return super().update(hparams, state, batch)[0], (state.loss,)

    with pytest.raises(ValueError, match=r"Talkative\.update tells .* as its detail, but blank_detail is \(\)"):
        jills.run(Talkative(network=NETWORK), CASES["own"].hparams, *problem(key), 2)


def test_parameters_that_are_not_finite_are_never_the_best(key):
    """An infinite bias under tanh leaves the loss finite."""
    params, batch = problem(key)
    state = init(ADAM.algorithm, params, batch)
    bad = state._replace(params=(params[0]._replace(bias=params[0].bias.at[0].set(jnp.inf)), params[1]))
    bad = bad._replace(best_loss=jnp.asarray(1e9))
    seen = ADAM.algorithm.observe(bad, batch)
    assert np.isfinite(seen.loss)
    assert seen.best_loss == 1e9


@pytest.mark.parametrize("name", ["ills", "gauss_newton", "adam", "adam_minibatch"])
def test_rows_without_usable_weights_are_a_result_inside_a_trace(name, key):
    """Zero, negative and infinite, as empty folds of a sweep: not trained, and never of the lowest best loss."""
    case, keys = CASES[name], jax.random.split(key, 4)
    spoilt = jnp.ones((4, 11)).at[1].set(0.0).at[2, 3].set(-1.0).at[3, 3].set(jnp.inf)

    def fold(key):
        params, batch = problem(key)
        number = jnp.argmax(jnp.all(jax.random.key_data(keys) == jax.random.key_data(key)[None], axis=1))
        return jills.Member(params, batch._replace(weights=spoilt[number]))

    hparams = jax.tree.map(lambda leaf: leaf[:1] if np.ndim(leaf) else leaf, case.grids[0])
    result = jills.sweep(case.algorithm, hparams, fold, keys, 3, 3)
    assert result.state.result[0, 0] == results.RUNNING
    assert np.isin(result.state.result[0, 1:], results.FAILED).all()
    assert (result.state.step[0, 1:] == 0).all()
    assert np.isinf(result.state.best_loss[0, 1:]).all()
    assert (jills.diagnose(result.state, result.info).word[0, 1:] == "diverged").all()


def test_a_stopped_state_goes_on_once_its_result_is_zero(key):
    params, batch = problem(key)
    state, _ = jills.run(ADAM.algorithm, ADAM.hparams, params, batch, 3, stop=jills.Stop(update_norm=1e9))
    again, _ = jills.run(ADAM.algorithm, ADAM.hparams, state._replace(result=0), batch, 2)
    assert again.step == 3


def test_data_of_64_bits_mean_the_same_where_jax_has_32(key):
    """Weights of 1e-46 and 1e300 as ones, integers beyond 2³¹ as they are, and one fingerprint for init and run."""
    inputs, targets = (np.asarray(leaf, np.float64) for leaf in problem(key, "float32")[1][:2])
    with jax.enable_x64(False):
        params = NETWORK.init(key, "float32")

        def train(*arrays: Any):
            batch = jills.Batch(*arrays)
            state, info = jills.run(ADAM.algorithm, ADAM.hparams, params, batch, 2)
            assert state.fingerprint == ADAM.algorithm.init(params, batch).fingerprint
            return np.asarray(info.loss)

        plain = train(inputs, targets)
        for size in (1e-46, 1e300):
            np.testing.assert_allclose(train(inputs, targets, np.full(11, size)), plain, rtol=1e-5)
        large = (inputs * 1e10).astype(np.int64)
        np.testing.assert_allclose(train(large, targets), train(large.astype(float), targets))
        train(inputs, np.where(np.arange(22).reshape(11, 2) == 3, 1e-41, targets))


@pytest.mark.parametrize("name", ["ills", "gauss_newton", "adam"])
def test_a_sweep_goes_on_with_other_rows_even_if_all_had_stopped(name, key):
    case, keys = CASES[name], jax.random.split(key, 3)

    def start(shift, key):
        params, batch = problem(key, n=11 + 6 * shift)
        return jills.Member(params, batch)

    old, new = (jax.tree_util.Partial(partial(start, shift)) for shift in (0, 1))
    first = jills.sweep(case.algorithm, case.grids[0], old, keys, 2, 2, stop=jills.Stop(update_norm=1e9))
    assert (first.state.step == 1).all()
    result = jills.sweep(case.algorithm, case.grids[0], new, keys, 6, 2, state=first.state)
    assert (result.state.step == 7).all()
    assert (result.state.best_loss <= result.info.loss.min(axis=-1)).all()
    same = jills.sweep(case.algorithm, case.grids[0], old, keys, 6, 2, state=first.state)
    assert (same.state.step == 1).all()
    going = jills.sweep(case.algorithm, case.grids[0], old, keys, 6, 2, state=first.state._replace(result=0))
    assert (going.state.step == 7).all()


def test_rows_that_differ_by_rounding_or_order_only_keep_the_records(key):
    params, batch = problem(key)
    stop = jills.Stop(update_norm=1e9)
    state, _ = jills.run(ADAM.algorithm, ADAM.hparams, params, batch, 3, stop=stop)
    state = state._replace(best_loss=state.best_loss / 2)
    rounded = batch._replace(inputs=batch.inputs * (1 + 1e-16 * jnp.arange(11.0)[:, None]))
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch)
    for other in (rounded, turned):
        after, _ = jills.run(ADAM.algorithm, ADAM.hparams, state, other, 3)
        assert after.step == 1
        assert after.result == results.SETTLED
        assert after.best_loss == state.best_loss
