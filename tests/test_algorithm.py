"""The contract from a newcomer's side: the page in the docstring of `jills.algorithm`, and states on other rows."""

import inspect
import re
import textwrap

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
