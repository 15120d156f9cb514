"""Where ILLS aims: each target against its closed form, the loss that cannot rise, and classes that are learned."""

import pickle
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import init, step
from jax import lax
from scipy import special

import jills
from jills import activations, ills
from jills.losses import huber, sigmoid_cross_entropy, softmax_cross_entropy, squared_error

TARGETS = {
    "ideal": ills.ideal,
    "working_response": ills.working_response,
    "softened": ills.softened(0.2),
    "scaled": ills.scaled(2.5),
}


def aim(target, loss, targets, predictions=None):
    predictions = jnp.zeros_like(targets) if predictions is None else predictions
    return target(loss, activations.identity, None, jnp.asarray(targets), jnp.asarray(predictions))


def classes(n, k, dtype) -> Any:
    return np.eye(k, dtype=dtype)[np.random.default_rng(1).integers(0, k, n)]


def test_softened_targets_are_the_logits_of_smoothed_labels(dtype):
    y = classes(11, 3, dtype)
    smooth = np.log(np.where(y == 1, 0.8 + 0.2 / 3, 0.2 / 3))
    for loss, expected in (
        (softmax_cross_entropy, smooth - smooth.mean(axis=1, keepdims=True)),
        (sigmoid_cross_entropy, special.logit(np.where(y == 1, 0.9, 0.1))),
    ):
        given = aim(ills.softened(0.2), loss, y)
        assert given.dtype == dtype
        np.testing.assert_allclose(given, expected, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_scaled_targets_are_two_logits(dtype):
    y = classes(11, 3, dtype)
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        given = aim(ills.scaled(2.5), loss, y)
        assert given.dtype == dtype
        np.testing.assert_array_equal(given, np.where(y == 1, 2.5, -2.5))


def test_working_responses_are_those_of_the_closed_forms(dtype):
    y, z = classes(11, 3, dtype), np.random.default_rng(2).standard_normal((11, 3)).astype(dtype)
    expected = {
        softmax_cross_entropy: z + 2 * (y - special.softmax(z, axis=1)),
        sigmoid_cross_entropy: z + 4 * (y - special.expit(z)),
        huber(0.5): z + np.clip(y - z, -0.5, 0.5),
        squared_error: y,
    }
    for loss, response in expected.items():
        given = aim(ills.working_response, loss, y, z)
        assert given.dtype == dtype
        np.testing.assert_allclose(given, response, rtol=1e-5, atol=1e-6)


HEADS = (softmax_cross_entropy, sigmoid_cross_entropy, huber(0.5))


def random_cases(n, dtype):
    """`n` starts of any size, so logits of one or of hundreds, and their batches; five outputs for each head."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(-3, 3, (n, 1, 1)))
    weight, bias = size * rng.standard_normal((n, 3, 15)), size[:, 0] * rng.standard_normal((n, 15))
    soft = rng.dirichlet(0.3 * np.ones(5), (n, 11))
    hard = np.eye(5)[rng.integers(0, 5, (n, 11))]
    distribution = np.where(rng.random((n, 1, 1)) < 0.5, soft, hard)
    targets = np.concatenate([distribution, distribution, size * rng.standard_t(2, (n, 11, 5))], axis=2)
    weights = rng.uniform(0, 1, (n, 11)) * (rng.random((n, 11)) < 0.7) + (np.arange(11) == 0)
    inputs = rng.standard_normal((n, 11, 3))
    weight, bias, inputs, targets, weights = (
        jnp.asarray(array, dtype) for array in (weight, bias, inputs, targets, weights)
    )
    return (jills.Layer(weight, bias),), jills.Batch(inputs, targets, weights)


def test_the_output_solve_for_the_working_response_never_raises_the_loss(dtype):
    """3000 cases for each loss; all heads of a case share its rows, so one solve serves the three."""
    network = jills.Network((3, 15))

    def heads(function, predictions, batch):
        parts = [jnp.split(array, 3, axis=1) for array in (predictions, batch.targets)]
        return [function(loss, z, y) for loss, z, y in zip(HEADS, *parts, strict=True)]

    def one(case):
        params, batch = case
        before = network.predict(params, batch.inputs)
        aims = heads(lambda loss, z, y: aim(ills.working_response, loss, y, z), before, batch)
        solved = ills.solve_params(params, (), batch, 0, jnp.concatenate(aims, axis=1))
        after = network.predict(solved, batch.inputs)
        parts = zip(jnp.split(before, 3, axis=1), jnp.split(after, 3, axis=1), strict=True)
        moved = [squared_error(new, old, batch.weights) for old, new in parts]
        losses = [jnp.stack(heads(lambda loss, z, y: loss(z, y, batch.weights), z, batch)) for z in (before, after)]
        return *losses, jnp.stack(moved)

    # A batch of LAPACK calls could hang on two cores, so the cases go one by one.
    tell = jax.jit(partial(lax.map, one))
    before, after, moved = (np.asarray(array, "float64") for array in tell(random_cases(3000, dtype)))
    rounding = 1e-5 if dtype == "float32" else 1e-12
    assert np.all(np.isfinite(after))
    # It falls by ½ β times the squared distance moved, at least: the minimum of the quadratic above it.
    promised = 0.5 * 5 * moved * np.array([1 / 2, 1 / (4 * 5), 2 / 5])
    assert np.all(after <= before * (1 + rounding) + rounding - (1 - 1e-3) * promised)
    assert np.all(np.mean(after < 0.99 * before, axis=0) > 0.9)


def ring(n=101) -> Any:
    """Three classes by the distance from the middle: no straight line separates them."""
    inputs = np.random.default_rng(3).standard_normal((n, 2))
    labels = np.digitize(np.linalg.norm(inputs, axis=1), [0.8, 1.5])
    return inputs, labels


def train(algorithm, params, batch, num_steps):
    state = start = init(algorithm, params, batch)
    for _ in range(num_steps):
        state, _ = step(algorithm, ills.Hparams(0.5, 1e-6), state, batch)
    return start, state


# What the target is and how hidden layers step do not know of each other: each target, then each way to step.
LEARNING = [("working_response", "tanh"), ("softened", "tanh"), ("scaled", "tanh")]
LEARNING += [("working_response", "relu"), ("softened", "gelu"), ("scaled", "silu")]


@pytest.mark.parametrize(("target", "hidden"), LEARNING)
def test_classes_are_learned(hidden, target, key):
    inputs, labels = ring()
    network = jills.Network((2, 7, 3), getattr(activations, hidden))
    algorithm = ills.build(network, softmax_cross_entropy, target=TARGETS[target])
    batch = jills.Batch(inputs, jax.nn.one_hot(labels, 3, dtype="float64"))
    start, state = train(algorithm, network.init(key, "float64"), batch, 20)
    accuracy = np.mean(np.argmax(network.predict(state.best_params, inputs), axis=1) == labels)
    most_frequent = np.max(np.bincount(labels)) / len(labels)
    assert state.best_loss < 0.5 * start.loss
    assert most_frequent < 0.5
    assert accuracy > 0.75
    np.testing.assert_allclose(
        state.loss, np.mean(-np.log(special.softmax(np.array(state.activations[-1]), axis=1)[np.arange(101), labels]))
    )


def test_independent_outputs_and_outliers_are_learned(key):
    inputs, labels = ring()
    network = jills.Network((2, 7, 3), activations.tanh)
    several: Any = np.arange(3)[None] <= labels[:, None]  # every output up to the label is on
    start, state = train(
        ills.build(network, sigmoid_cross_entropy), network.init(key, "float64"), jills.Batch(inputs, several), 20
    )
    assert state.best_loss < 0.5 * start.loss
    clean = np.sin(inputs @ np.ones((2, 3)))
    spoiled: Any = np.where(np.arange(101)[:, None] % 10 == 0, 30.0, clean)
    errors = {}
    for loss in (huber(0.1), squared_error):
        _, state = train(ills.build(network, loss), network.init(key, "float64"), jills.Batch(inputs, spoiled), 20)
        errors[loss] = np.median(np.abs(network.predict(state.params, inputs) - clean))
    assert errors[huber(0.1)] < 0.3 * errors[squared_error]


def test_a_row_of_weight_zero_may_hold_anything(key):
    inputs, labels = ring()
    network = jills.Network((2, 7, 3), activations.tanh)
    algorithm = ills.build(network, softmax_cross_entropy)
    weights: Any = np.where(np.arange(101) == 5, 0.0, 1.0)
    batch = jills.Batch(inputs, jax.nn.one_hot(labels, 3, dtype="float64"), weights)
    spoiled = batch._replace(inputs=batch.inputs.copy(), targets=batch.targets.at[5].set(np.nan))
    spoiled.inputs[5] = np.inf
    states = [train(algorithm, network.init(key, "float64"), each, 1)[1] for each in (batch, spoiled)]
    assert np.isfinite(states[0].loss)
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)


def test_the_default_follows_the_loss():
    network = jills.Network((3, 2))
    assert ills.build(network).target == ills.ideal
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy, huber()):
        assert ills.build(network, loss).target == ills.working_response
    own = jills.Loss(squared_error.value, squared_error.gradient, squared_error.curvature, squared_error.ideal_input)
    assert ills.build(network, own).target == ills.ideal
    assert ills.build(network, huber(), target=ills.ideal).target == ills.ideal


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_values(name):
    target = TARGETS[name]
    again = pickle.loads(pickle.dumps(target))
    assert again == target
    assert hash(again) == hash(target)
    assert [each for each in TARGETS.values() if each == target] == [target]
    assert ills.softened(0.2) != ills.softened(0.3)


REFUSED = {
    "ideal, softmax": (softmax_cross_entropy, "identity", "ideal", "no ideal total input.*working_response, softened"),
    "softened, squared": (squared_error, "identity", "softened", "softened targets need a loss whose targets are prob"),
    "scaled, huber": (huber(), "identity", "scaled", "scaled logits need a loss whose targets are probabilities"),
    "softened, sigmoid": (sigmoid_cross_entropy, "sigmoid", "softened", "softened targets are logits, so the output"),
    "scaled, tanh": (softmax_cross_entropy, "tanh", "scaled", "scaled targets are logits, so the output"),
    "working, relu": (huber(), "relu", "working_response", r"must be jills\.activations\.identity"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_build_refuses_a_loss_or_an_output_that_does_not_fit(name):
    loss, output, target, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ills.build(jills.Network((3, 2), output=getattr(activations, output)), loss, target=TARGETS[target])


def test_build_refuses_what_is_no_target():
    maker: Any = ills.softened  # not called
    with pytest.raises(ValueError, match=r"target is <function softened.*must be .* softened\(epsilon\)"):
        ills.build(jills.Network((3, 2)), softmax_cross_entropy, target=maker)


def test_a_loss_without_a_bound_has_no_working_response():
    loss = jills.Loss(squared_error.value, squared_error.gradient, squared_error.curvature)
    with pytest.raises(ValueError, match="needs a bound on the curvature, and this loss has none"):
        ills.build(jills.Network((3, 2)), loss, target=ills.working_response)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, np.nan])
def test_softened_refuses_what_is_not_between_nothing_and_all(epsilon):
    with pytest.raises(ValueError, match=rf"softened: epsilon is {epsilon}, but must lie in \(0, 1\)"):
        ills.softened(epsilon)


@pytest.mark.parametrize("logit", [0.0, -1.0, np.inf, np.nan])
def test_scaled_refuses_what_is_not_positive_and_finite(logit):
    with pytest.raises(ValueError, match=f"scaled: logit is {logit}, but must be positive and finite"):
        ills.scaled(logit)
