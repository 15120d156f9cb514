"""Losses against closed forms and autodiff; weights; the convention of the mean; targets that are refused."""

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import jills
from jills import activations
from jills.losses import Loss, huber, sigmoid_cross_entropy, softmax_cross_entropy, squared_error


# The example of a loss of one's own in the docstring of `Loss`.
def poisson(predictions, targets):
    return jnp.mean(jnp.exp(predictions) - targets * predictions, axis=1)


def poisson_gradient(predictions, targets):
    return (jnp.exp(predictions) - targets) / predictions.shape[1]


def poisson_curvature(predictions, targets):
    return jax.vmap(jnp.diag)(jnp.exp(predictions) / predictions.shape[1])


POISSON = Loss(poisson, poisson_gradient, poisson_curvature)
LOSSES = {
    "squared_error": squared_error,
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "huber": huber(0.7),
    "poisson": POISSON,
}
CLOSED_FORMS = {
    "softmax": lambda z, y: np.mean(np.sum(-special.xlogy(y, special.softmax(z, axis=1)), axis=1)),
    "sigmoid": lambda z, y: np.mean(-special.xlogy(y, special.expit(z)) - special.xlog1py(1 - y, -special.expit(z))),
    "huber": lambda z, y: np.mean(2 * special.huber(0.7, z - y)),
    "poisson": lambda z, y: np.mean(np.exp(z) - y * z),
}
COMPILED = {loss: jax.jit(loss) for loss in LOSSES.values()}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(seed, dtype="float64", k=2) -> Any:
    """Predictions and targets `(11, k)`, the latter distributions over the outputs, which every loss allows."""
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.ones(k), 11)
    return (2 * rng.standard_normal((11, k))).astype(dtype), targets.astype(dtype)


def changed(array, place, value) -> Any:
    array = array.copy()
    array[place] = value
    return array


def assert_near(actual, expected, dtype):
    rtol, atol = (1e-5, 1e-6) if dtype == "float32" else (1e-12, 1e-13)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def test_squared_error_is_a_mean_without_a_half():
    predictions, targets = jnp.asarray([[3.0, 0.0], [1.0, 1.0]]), jnp.asarray([[1.0, 0.0], [1.0, 7.0]])
    np.testing.assert_array_equal(squared_error.value(predictions, targets), [(4 + 0) / 2, (0 + 36) / 2])
    assert squared_error(predictions, targets) == (4 + 36) / 4
    assert squared_error(predictions[:1, :1], targets[:1, :1]) == 4


def test_squared_error_is_that_of_numpy(dtype):
    predictions, targets = draw(1, dtype)
    value = jax.jit(squared_error)(predictions, targets)
    assert value.shape == ()
    assert value.dtype == dtype
    assert_near(value, np.mean((predictions - targets) ** 2), dtype)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_values_are_those_of_the_closed_form(name, dtype):
    predictions, targets = draw(1, dtype, k=3)
    assert np.max(np.abs(predictions - targets)) > 1.4  # beyond Huber's delta, and within
    assert np.min(np.abs(predictions - targets)) < 0.3
    value = COMPILED[LOSSES[name]](predictions, targets)
    assert value.dtype == dtype
    assert_near(value, CLOSED_FORMS[name](predictions.astype("float64"), targets.astype("float64")), dtype)


@every
def test_gradient_and_curvature_are_those_of_autodiff(loss, dtype):
    def both(predictions, targets):
        def value(z, y):
            return loss.value(z[None], y[None])[0]

        given = loss.gradient(predictions, targets), loss.curvature(predictions, targets)
        return given, [jax.vmap(derive(value))(predictions, targets) for derive in (jax.grad, jax.hessian)]

    (gradient, curvature), expected = jax.jit(both)(*draw(2, dtype))
    assert gradient.dtype == curvature.dtype == dtype
    assert curvature.shape == (11, 2, 2)
    assert_near(gradient, expected[0], dtype)
    if loss != LOSSES["huber"]:  # its curvature is no Hessian, see below
        assert_near(curvature, expected[1], dtype)


def test_the_curvature_of_huber_is_gradient_over_residual_and_bounds_the_loss(dtype):
    loss, (predictions, targets) = huber(0.7), draw(2, dtype, k=3)
    curvature = np.asarray(loss.curvature(predictions, targets))
    residual = predictions - targets
    weights = np.diagonal(curvature, axis1=1, axis2=2)
    assert_near(weights * residual, loss.gradient(predictions, targets), dtype)
    assert np.all(weights > 0)
    np.testing.assert_array_equal(curvature, weights[:, :, None] * np.eye(3))
    # Where the residual is nothing the weight is that of squared error, not 0/0.
    np.testing.assert_allclose(loss.curvature(targets, targets)[0], np.eye(3) * 2 / 3, rtol=1e-6)
    # The quadratic with this curvature lies nowhere below the loss.
    for seed in range(10):
        other, _ = draw(seed, dtype, k=3)
        change = other - predictions
        model = loss.value(predictions, targets) + np.sum(
            loss.gradient(predictions, targets) * change + weights * change**2 / 2, axis=1
        )
        assert np.all(loss.value(other, targets) <= model + 1e-5)


@every
@pytest.mark.parametrize("k", [1, 3])
def test_the_product_is_that_of_the_curvature(loss, k, dtype):
    predictions, targets = draw(3, dtype, k)
    vectors, _ = draw(13, dtype, k)

    @jax.jit
    def both():
        default = dataclasses.replace(loss, product=None)
        return [each.curvature_product(predictions, targets, vectors) for each in (loss, default)]

    curvature = np.asarray(loss.curvature(predictions, targets), "float64")
    expected = [matrix @ vector for matrix, vector in zip(curvature, vectors.astype("float64"), strict=True)]
    for product in both():
        assert product.dtype == dtype
        assert_near(product, expected, dtype)


@every
def test_curvature_is_symmetric_positive_semidefinite_and_within_its_bound(loss):
    largest = []
    for seed in range(8):
        predictions, targets = draw(seed, k=3)
        curvature = np.asarray(loss.curvature((seed % 3) * predictions, targets))
        np.testing.assert_array_equal(curvature, curvature.transpose(0, 2, 1))
        eigenvalues = np.linalg.eigvalsh(curvature)
        assert np.all(eigenvalues > -1e-15)
        largest.append(np.max(eigenvalues))
    if loss.bound is not None:
        bound = loss.bound(3)
        assert 0.9 * bound < max(largest) <= bound * (1 + 1e-12)  # as low as it can be, or nearly


@every
def test_what_is_called_quadratic_is(loss):
    (predictions, targets), (change, _) = draw(4), draw(5)
    taylor = loss.value(predictions, targets) + np.sum(
        change * (loss.gradient(predictions, targets) + loss.curvature_product(predictions, targets, change) / 2),
        axis=1,
    )
    exact = np.allclose(loss.value(predictions + change, targets), taylor, rtol=1e-12)
    assert exact == loss.quadratic


EXTREME: Any = np.array(
    [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [1e-4, 1e4, 9999.0], [60.0, -1e4, 88.0]]
)


@pytest.mark.parametrize("name", ["squared_error", "softmax", "sigmoid", "huber"])
def test_extreme_predictions_give_finite_numbers(name, dtype):
    loss, predictions = LOSSES[name], EXTREME.astype(dtype)

    @jax.jit
    def everything(targets):
        functions = (loss.value, loss.gradient, loss.curvature, jax.grad(loss))
        product = loss.curvature_product(predictions, targets, jnp.ones_like(targets))
        return [product, *(function(predictions, targets) for function in functions)]

    for targets in (np.eye(3)[[0, 1, 2, 0, 1]], np.eye(3)[[1, 1, 2, 1, 2]], np.full((5, 3), 1 / 3)):
        for array in everything(targets.astype(dtype)):
            assert array.dtype == dtype
            assert np.all(np.isfinite(array))


def test_extreme_logits_cost_what_they_should(dtype):
    sure = jnp.asarray(EXTREME[:1], dtype)
    right, wrong = jnp.asarray([[1.0, 0.0, 0.0]], dtype), jnp.asarray([[0.0, 1.0, 0.0]], dtype)
    assert softmax_cross_entropy(sure, right) == 0
    assert softmax_cross_entropy(sure, wrong) == 2e4
    np.testing.assert_allclose(sigmoid_cross_entropy(sure, right), np.log(2) / 3, rtol=1e-6)
    np.testing.assert_allclose(sigmoid_cross_entropy(sure, wrong), (2e4 + np.log(2)) / 3, rtol=1e-6)
    # A nearly certain output keeps the digits of what is left: p - 1 and softplus(z) - z would be nothing in float32.
    one = jnp.ones((1, 1), dtype)
    np.testing.assert_allclose(sigmoid_cross_entropy.value(20 * one, one), np.exp(-20.0), rtol=1e-6)
    np.testing.assert_allclose(sigmoid_cross_entropy.gradient(20 * one, one), [[-np.exp(-20.0)]], rtol=1e-6)


def test_a_shift_of_all_logits_changes_nothing_for_the_softmax():
    predictions, targets = draw(9, k=3)
    for function in (softmax_cross_entropy.value, softmax_cross_entropy.gradient, softmax_cross_entropy.curvature):
        np.testing.assert_allclose(
            function(predictions + 5.0, targets), function(predictions, targets), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy], ids=["softmax", "sigmoid"])
def test_logits_are_the_inverse_of_probabilities(loss, dtype):
    _, targets = draw(10, dtype, k=3)
    assert loss.logits is not None
    assert loss.probabilities is not None
    np.testing.assert_allclose(loss.probabilities(loss.logits(targets)), targets, rtol=1e-4)
    certain = loss.logits(jnp.eye(3, dtype=dtype))
    assert certain.dtype == dtype
    assert np.all(np.isfinite(certain))
    np.testing.assert_allclose(loss.probabilities(certain), np.eye(3), atol=2e-5)


@every
@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_weights_are_those_of_a_weighted_mean(loss, seed, scale):
    mean, (predictions, targets) = COMPILED[loss], draw(seed)
    weights = scale * np.random.default_rng(seed).random(11)
    expected = np.average(np.asarray(loss.value(predictions, targets)), weights=weights)
    np.testing.assert_allclose(mean(predictions, targets, weights), expected, rtol=1e-12)
    # A weight of two is a row given twice.
    twice = [np.concatenate([array, array[:1]]) for array in (predictions, targets)]
    np.testing.assert_allclose(mean(predictions, targets, changed(np.ones(11), 0, 2.0)), mean(*twice), rtol=1e-12)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_of_weight_zero_may_hold_anything(loss, bad, dtype):
    mean, (predictions, targets) = COMPILED[loss], draw(4, dtype)
    weights = changed(np.linspace(0.5, 2.0, 11).astype(dtype), 3, 0.0)
    healthy = mean(predictions, targets, weights)
    assert np.isfinite(healthy)
    assert mean(changed(predictions, 3, bad), targets, weights) == healthy
    assert mean(predictions, changed(targets, (3, 1), bad), weights) == healthy
    used = np.arange(11) != 3
    assert_near(healthy, mean(predictions[used], targets[used], weights[used]), dtype)
    assert np.isnan(mean(predictions, changed(targets, 2, np.nan), weights))


@every
def test_no_weight_at_all_gives_zero(loss, dtype):
    predictions, targets = draw(5, dtype)
    value = COMPILED[loss](changed(predictions, 0, np.nan), targets, np.zeros(11, dtype))
    assert value == 0.0
    assert value.dtype == dtype


@every
def test_autodiff_of_the_mean_is_the_weighted_gradient(loss):
    predictions, targets = draw(6)
    weights = np.linspace(0.0, 2.0, 11)
    expected = weights[:, None] * loss.gradient(predictions, targets) / np.sum(weights)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(predictions, targets, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["identity", "tanh", "sigmoid", "softplus", "arcsinh"])
@pytest.mark.parametrize("margin", [None, 0.05])
def test_the_ideal_input_gives_the_target_or_the_nearest_value(name, margin, dtype):
    activation = getattr(activations, name)
    _, targets = draw(7, dtype)
    assert squared_error.ideal_input is not None
    ideal = squared_error.ideal_input(jnp.asarray(targets), activation, margin)
    assert ideal.dtype == dtype
    low, high = activation.range
    kept = max(1e-6, 100 * float(np.finfo(dtype).eps)) if margin is None else margin
    nearest = np.clip(np.asarray(targets), low + kept, high - kept)
    np.testing.assert_allclose(activation.forward(ideal), nearest, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(ideal))


def test_the_ideal_input_of_the_identity_is_the_target_itself():
    _, targets = draw(8)
    assert squared_error.ideal_input is not None
    np.testing.assert_array_equal(squared_error.ideal_input(jnp.asarray(targets), activations.identity, None), targets)


@every
def test_losses_compare_hash_and_pickle_by_value(loss):
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert loss != Loss(loss.value, loss.gradient, loss.gradient)


def test_two_hubers_are_equal_where_their_deltas_are():
    assert huber() == huber(1)
    assert hash(huber()) == hash(huber(1))
    assert huber(2.0) != huber(1.0)


@pytest.mark.parametrize("delta", [0.0, -1.0, np.inf, np.nan])
def test_huber_refuses_a_delta_that_is_not_positive_and_finite(delta):
    with pytest.raises(ValueError, match=f"huber: delta is {delta}, but must be positive and finite"):
        huber(delta)


NETWORK = jills.Network((3, 3))
ROWS, SOFT = np.ones((11, 3)), draw(0, k=3)[1]
BAD_TARGETS = {
    "negative": (
        softmax_cross_entropy,
        changed(SOFT, 4, [1.5, -0.5, 0.0]),
        r"1 of 11 rows .* row 4: \[ 1.5 -0.5",
    ),
    "sum": (softmax_cross_entropy, changed(SOFT, slice(2, 5), 0.5), r"sum 1 in each row.* 3 of 11 rows .* first row 2"),
    "all classes": (softmax_cross_entropy, np.ones((11, 3), int), r"jax.nn.one_hot\(labels, k\).* 11 of 11 rows"),
    "above": (sigmoid_cross_entropy, changed(SOFT, (7, 1), 1.01), r"lie in \[0, 1\].* first row 7"),
    "below": (sigmoid_cross_entropy, changed(SOFT, (7, 1), -0.01), r"lie in \[0, 1\].* first row 7"),
    "labels": (softmax_cross_entropy, np.arange(11) % 3, r"give labels of 3 classes as jax.nn.one_hot\(labels, 3\)"),
    "column": (softmax_cross_entropy, np.ones((11, 1)), r"give labels of 3 classes as jax.nn.one_hot\(labels, 3\)"),
}


def check(loss, targets, weights=None):
    params = NETWORK.init(jax.random.key(0))
    jills.adam.build(NETWORK, loss).check_problem(params, jills.Batch(jnp.asarray(ROWS), targets, weights))


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_targets_that_a_loss_does_not_allow_are_refused(name):
    loss, targets, message = BAD_TARGETS[name]
    with pytest.raises(ValueError, match=message):
        check(loss, targets)
    if targets.shape == (11, 3):
        check(squared_error, targets)


def test_allowed_targets_pass_and_so_does_anything_in_a_row_of_weight_zero():
    for targets in (SOFT, SOFT.astype("float32"), np.eye(3)[np.arange(11) % 3], np.eye(3, dtype=bool)[[0] * 11]):
        check(softmax_cross_entropy, targets)
        check(sigmoid_cross_entropy, targets)
    check(sigmoid_cross_entropy, np.ones((11, 3), int))  # several outputs may be on
    weights = changed(np.ones(11), 4, 0.0)
    check(softmax_cross_entropy, changed(SOFT, 4, np.nan), weights)
    with pytest.raises(ValueError, match=r"1 of 11 rows .* first row 6"):
        check(softmax_cross_entropy, changed(SOFT, [4, 6], 7.0), weights)


def test_targets_in_a_trace_are_not_looked_at():
    jax.eval_shape(lambda targets: check(softmax_cross_entropy, targets), np.full((11, 3), 7.0))
