import dataclasses
import math
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jills
from experiments.peers import PEERS, Budget, Problem, base, choose, epochs, stepped, with_optax, with_sklearn
from experiments.peers.base import Enough, Peer, Recorder, Trace, jacobian, residuals, start_loss, to_params, true_loss

NAMES = [peer.name for peer in PEERS]
# Of peers that differ in a number only, one is enough; the others would compile the same again.
ONE_OF_EACH = [
    peer
    for peer in PEERS
    if ("Adam" not in peer.name or peer.name in ("Optax Adam 0.03", "Optax Adam 0.03, batches of 128"))
    and "Classifier" not in peer.name  # on another problem, below
]


def make_problem(dtype="float64", rows=31, sizes=(3, 2, 2)):
    # More residuals than parameters, so that MINPACK takes it, and a minimum above zero.
    keys = jax.random.split(jax.random.key(7), 3)
    network = jills.Network(sizes, jills.activations.tanh)
    inputs = jax.random.normal(keys[0], (rows, sizes[0]), dtype)
    targets = jnp.sin(jnp.sum(inputs, axis=1, keepdims=True)) + jax.random.normal(keys[1], (rows, sizes[-1]), dtype)
    return Problem(network, jills.losses.squared_error, network.init(keys[2], dtype), jills.Batch(inputs, targets))


def run(peer: Peer, problem: Problem, budget: Budget) -> Trace:
    pytest.importorskip(peer.needs)
    if "batches" in peer.name:
        peer = dataclasses.replace(peer, run=partial(with_optax.minibatch_adam, learning_rate=0.03, batch_size=11))
    return peer.run(problem, budget)


def check(trace: Trace, problem: Problem):
    tolerance = 50 * float(np.finfo(problem.dtype).eps)
    assert trace.seconds.shape == trace.losses.shape
    assert trace.seconds[0] == 0
    assert np.all(np.diff(trace.seconds) > 0)
    assert np.all(np.isfinite(trace.losses))
    assert trace.losses[0] == start_loss(problem)
    assert trace.compile_seconds >= 0
    assert jax.tree.map(jnp.shape, trace.params) == jax.tree.map(jnp.shape, problem.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(trace.params)} == {problem.dtype}
    difference = problem.network.predict(trace.params, problem.batch.inputs) - problem.batch.targets
    np.testing.assert_allclose(np.mean(np.square(difference)), np.min(trace.losses), rtol=tolerance)


@pytest.mark.parametrize("peer", ONE_OF_EACH, ids=lambda peer: peer.name)
def test_a_trace_is_true_and_ends_at_the_steps(peer, dtype):
    if dtype == "float32" and ("normal" in peer.name or "Cholesky" in peer.name):
        pytest.skip("differs from its neighbour in the linear solver only")
    problem = make_problem(dtype)
    trace = run(peer, problem, Budget(max_seconds=30, max_steps=12))
    check(trace, problem)
    assert len(trace.losses) == 13
    assert "steps spent" in trace.note
    assert np.min(trace.losses) < trace.losses[0]


@pytest.mark.parametrize("peer", ONE_OF_EACH, ids=lambda peer: peer.name)
def test_it_stops_at_the_target_and_not_after(peer):
    problem = make_problem()
    target = 0.9 * start_loss(problem)
    trace = run(peer, problem, Budget(max_seconds=30, max_steps=500, target_loss=target))
    check(trace, problem)
    assert "target reached" in trace.note
    assert trace.losses[-1] <= target
    assert np.all(trace.losses[:-1] > target)
    assert trace.seconds_to(target) == trace.seconds[-1]
    assert trace.seconds_to(0.0) == math.inf


@pytest.mark.parametrize("peer", ONE_OF_EACH, ids=lambda peer: peer.name)
def test_it_stops_when_the_time_is_spent(peer):
    problem = make_problem()
    trace = run(peer, problem, Budget(max_seconds=1e-3))
    check(trace, problem)
    assert "time spent" in trace.note
    assert trace.seconds[-1] >= 1e-3
    assert np.all(trace.seconds[:-1] < 0.5)


@pytest.mark.parametrize("peer", [peer for peer in ONE_OF_EACH if "Optax" not in peer.name], ids=lambda peer: peer.name)
def test_second_order_peers_find_the_minimum_of_a_linear_network(peer):
    problem = make_problem(sizes=(3, 2))
    if not peer.applies(problem):
        pytest.skip("wants a hidden layer")
    trace = run(peer, problem, Budget(max_seconds=5, max_steps=200, target_loss=0.0))
    rows = np.c_[problem.batch.inputs, np.ones(31)]
    solution = np.linalg.lstsq(rows, np.asarray(problem.batch.targets), rcond=None)[0]
    least = np.mean(np.square(rows @ solution - np.asarray(problem.batch.targets)))
    np.testing.assert_allclose(np.min(trace.losses), least, rtol=1e-9)


def test_the_line_search_tells_the_loss_of_the_params():
    problem = make_problem()
    method, hparams = with_optax.Lbfgs(problem.network, problem.loss), with_optax.NoHparams()
    state = stepped.programs("full")[0](method, hparams, problem.params, problem.batch)
    for _ in range(20):
        state, _, _ = stepped.programs("full")[1](method, hparams, problem.batch, jnp.zeros(()), state, 1)
        expected = true_loss(problem.network, problem.loss, state.params, problem.batch)
        np.testing.assert_allclose(state.loss, expected, rtol=1e-13)


def test_full_batch_adam_is_adam_of_jills():
    problem = make_problem()
    trace = with_optax.adam(problem, Budget(max_seconds=30, max_steps=10), 0.03)
    algorithm = jills.adam.build(problem.network)
    state, info = jills.run(algorithm, jills.adam.Hparams(0.03), problem.params, problem.batch, 10)
    np.testing.assert_allclose(trace.losses, [*info.loss, state.loss], rtol=1e-12)


def test_one_batch_of_all_rows_is_full_batch_adam():
    problem, budget = make_problem(), Budget(max_seconds=30, max_steps=10)
    full = with_optax.adam(problem, budget, 0.03)
    epochs = with_optax.minibatch_adam(problem, budget, 0.03, 31)
    np.testing.assert_allclose(epochs.losses, full.losses, rtol=1e-9)


def test_the_order_of_minibatches_depends_on_the_seed_alone():
    problem, budget = make_problem(), Budget(max_seconds=30, max_steps=5)
    one, same, other = (
        with_optax.minibatch_adam(each, budget, 0.03, 11).losses
        for each in (problem, problem, problem._replace(seed=1))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@dataclasses.dataclass(frozen=True)
class Visits:
    """A method that counts how often it sees each row, which knows its number."""

    num_rows: int

    def start(self, hparams, params, batch):
        return jnp.zeros(self.num_rows, jnp.int32)

    def step(self, hparams, state, batch):
        return state.at[batch.inputs[:, 0]].add(1)


def test_each_epoch_sees_each_row_at_most_once_wherever_calls_end():
    batch, key = jills.Batch(jnp.arange(31)[:, None], jnp.zeros((31, 1))), jax.random.key(0)
    method, advance = Visits(31), jax.jit(epochs.advance, static_argnums=(0, 1))
    begun = epochs.begin(method, 5, (), (), batch)
    whole = advance(method, 5, batch, key, (), begun, 0, 12)
    assert whole.state.sum() == 2 * 30
    assert whole.state.max() == 2
    assert advance(method, 5, batch, key, (), begun, 0, 6).state.max() == 1
    parts = begun
    for first, last in ((0, 2), (2, 7), (7, 7), (7, 12)):
        parts = advance(method, 5, batch, key, (), parts, first, last)
    np.testing.assert_array_equal(parts.state, whole.state)
    np.testing.assert_array_equal(advance(method, None, batch, key, (), begun, 0, 3).state, 3)


def test_divergence_ends_a_trace():
    problem = make_problem(sizes=(3, 2))
    problem = problem._replace(batch=problem.batch._replace(inputs=problem.batch.inputs * 1e200))
    trace = with_optax.adam(problem, Budget(max_seconds=30, max_steps=50), 1e100)
    assert trace.note == "not finite"
    assert len(trace.losses) < 51


def test_the_fast_tier_takes_the_same_steps():
    problem, budget = make_problem(), Budget(max_steps=5)
    full, fast = (with_optax.adam(problem, budget, 0.03, tier) for tier in ("full", "fast"))
    np.testing.assert_allclose(fast.losses, full.losses, rtol=1e-10)


def test_other_numbers_and_data_do_not_compile_again():
    problem = make_problem()
    with_optax.adam(problem, Budget(max_steps=3), 0.03)
    count = stepped.programs("full")[1]._cache_size
    size = count()
    with_optax.adam(problem, Budget(max_steps=4, target_loss=0.1), 0.1)
    other = problem._replace(batch=problem.batch._replace(targets=problem.batch.targets + 1))
    with_optax.adam(other, Budget(max_steps=4), 0.01)
    assert count() == size


def test_the_jacobian_is_that_of_the_residuals():
    problem = make_problem()
    flat, unravel = ravel_pytree(problem.params)
    expected = jax.jit(jax.jacfwd(lambda flat: residuals(problem.network, unravel(flat), problem.batch)))(flat)
    actual = jax.jit(jacobian, static_argnums=0)(problem.network, flat, problem.params, problem.batch)
    np.testing.assert_allclose(actual, expected, atol=1e-14)
    np.testing.assert_array_equal(to_params(np.asarray(flat), problem)[1].weight, problem.params[1].weight)


@pytest.mark.parametrize(("classes", "cores"), [(1, 2), (3, 1)])
def test_the_classifier_of_sklearn_has_our_cross_entropy(classes, cores, monkeypatch):
    monkeypatch.setattr(base, "num_cores", lambda: cores)
    loss = with_sklearn.SIGMOID if classes == 1 else with_sklearn.SOFTMAX
    problem = make_problem(sizes=(3, 5, classes))
    best = jnp.argmax(problem.batch.targets, axis=1) if classes > 1 else problem.batch.targets[:, 0] > 0
    targets = jax.nn.one_hot(best, 3, dtype="float64") if classes > 1 else best[:, None].astype("float64")
    problem = problem._replace(loss=loss, batch=problem.batch._replace(targets=targets))
    peer = next(peer for peer in PEERS if peer.name == "scikit-learn MLPClassifier")
    assert peer.applies(problem)
    trace = peer.run(problem, Budget(max_seconds=10, max_steps=20))
    assert np.min(trace.losses) < 0.8 * trace.losses[0]
    recomputed = true_loss(problem.network, loss, trace.params, problem.batch)
    np.testing.assert_allclose(recomputed, np.min(trace.losses), rtol=1e-12)


def test_each_peer_says_what_it_applies_to():
    problem = make_problem()
    names = {peer.name for peer in PEERS if peer.applies(problem)}
    assert {"Optax L-BFGS", "SciPy LM", "Optimistix LM", "torch LM, QR", "scikit-learn MLPRegressor"} <= names
    assert not any("batches" in name or "Classifier" in name for name in names)
    weighted = problem._replace(batch=problem.batch._replace(weights=jnp.ones(31)))
    assert {peer.needs for peer in PEERS if peer.applies(weighted)} == {"optax", "scipy"}
    wide = make_problem(rows=3, sizes=(3, 11, 2))
    assert "SciPy LM" not in {peer.name for peer in PEERS if peer.applies(wide)}
    huge = problem._replace(network=jills.Network((3, 20_000, 2), jills.activations.tanh))
    assert not any("LM" in peer.name or "Dogleg" in peer.name for peer in PEERS if peer.applies(huge))


def test_what_is_not_installed_is_told_and_left_out():
    absent = Peer("Absent", with_optax.lbfgs, needs="no_such_module", package="no-such-package")
    chosen, lines = choose(make_problem(), (absent, PEERS[0]))
    assert chosen == [PEERS[0]]
    assert lines == [
        "Absent is skipped: there is no module no_such_module; get it with: pip install no-such-package",
    ]


@pytest.mark.parametrize(("gain", "expected"), [(0.5, 1), (3.0, 3)])
def test_more_threads_are_taken_where_they_clearly_help(gain, expected, monkeypatch):
    monkeypatch.setattr(base, "num_cores", lambda: 3)
    monkeypatch.setattr(base, "TRIAL_SECONDS", 0.05)
    assert base.fastest_threads(lambda threads: time.sleep(0.01 if threads == 1 else 0.01 / gain)) == expected


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)


def test_the_recorder_leaves_its_own_work_out(monkeypatch):
    now = iter(range(100))
    problem = make_problem()
    recorder = Recorder(problem, Budget(max_seconds=1e9, max_steps=3))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    recorder.begin()  # 0
    recorder.note(lambda: next(now) * 0.0 + 0.5, lambda: problem.params)  # enters at 1, computes at 2, leaves at 3
    recorder.note(9.0, lambda: problem.params)  # enters at 4
    with pytest.raises(Enough, match="steps spent"):
        recorder.note(0.25, lambda: problem.params)  # enters at 6, after leaving at 5
    trace = recorder.trace("end")
    np.testing.assert_array_equal(trace.seconds, [0, 1, 2, 3])
    np.testing.assert_array_equal(trace.losses[1:], [0.5, 0.5, 0.25])
