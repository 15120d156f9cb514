"""Layerwise Gauss–Newton on a full batch: whole trainings. Its parts stand in the files beside this one."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import CASES, NETWORK, init, problem, step
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

import jills
from jills import activations, gauss_newton, losses, results
from jills.gauss_newton.damping import LARGEST_DAMPING

FULL = CASES["gauss_newton"].algorithm
STEPS = 60


def train(params, batch, stop=jills.Stop(), hparams=gauss_newton.Hparams()):
    """One compiled program for every test that trains `NETWORK` on 11 weighted rows."""
    if batch.weights is None:
        batch = batch._replace(weights=jnp.ones(len(batch.inputs), batch.inputs.dtype))
    return jills.run(FULL, hparams, params, batch, STEPS, stop=stop)


def noisy(key, dtype="float64", n=11):
    """Targets that no network of this size meets."""
    params, batch = problem(key, dtype, n)
    return params, batch._replace(targets=jax.random.normal(key, (n, 2), dtype))


# Losses and activations


KINDS = {
    "relu": (activations.relu, 2, losses.softmax_cross_entropy),
    "gelu": (activations.gelu, 1, losses.squared_error),
    "silu": (activations.silu, 1, losses.sigmoid_cross_entropy),
    "tanh": (activations.tanh, 2, losses.huber(0.3)),
}


@pytest.mark.parametrize(("activation", "k", "loss"), KINDS.values(), ids=KINDS)
def test_the_objective_never_rises(activation, k, loss, key):
    network = jills.Network((3, 5, k), activation)
    algorithm = gauss_newton.build(network, loss)
    hparams = gauss_newton.Hparams(weight_decay=1e-3)
    for seed in jax.random.split(key, 3):
        params = network.init(seed, "float64")
        inputs = jax.random.normal(seed, (11, 3), "float64")
        targets = jax.nn.softmax(3 * jax.random.normal(seed, (11, 2), "float64"))[:, :k]
        state, info = jills.run(algorithm, hparams, params, jills.Batch(inputs, targets), 50)
        squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(params))
        objective = info.detail.objective[~np.isnan(info.detail.objective)]  # NaN once it has stopped
        np.testing.assert_allclose(objective[0], info.loss[0] + 0.5e-3 * squares, rtol=1e-12)
        assert np.all(np.diff(objective) <= 1e-14 * objective[0])
        assert objective[-1] < 0.9 * objective[0]
        squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(state.params))
        assert state.loss + 0.5e-3 * squares <= objective[-1] * (1 + 1e-14)
        assert info.finite.all()


def test_an_output_layer_is_solved_exactly(key, dtype):
    """With squared error and identity the first solve is the least squares of NumPy."""
    network = jills.Network((3, 5, 2), activations.tanh)
    algorithm = gauss_newton.build(network, blocks=((1, 1),))
    params, batch = noisy(key, dtype)
    state, _ = step(algorithm, gauss_newton.Hparams(), init(algorithm, params, batch), batch)
    hidden = np.asarray(network.forward(params, batch.inputs)[0], np.float64)
    rows, targets = np.hstack([hidden, np.ones((11, 1))]), np.asarray(batch.targets, np.float64)
    expected = np.linalg.lstsq(rows, targets)[0]
    best = np.mean((rows @ expected - targets) ** 2)
    np.testing.assert_allclose(state.loss, best, rtol=1e-4 if dtype == "float32" else 1e-12)
    if dtype == "float64":
        error = np.linalg.norm(np.vstack(state.params[1]) - expected)
        assert error < 1e-9 * np.linalg.norm(expected)


def test_a_network_of_one_layer_is_linear_regression(key, dtype):
    network = jills.Network((3, 2))
    algorithm = gauss_newton.build(network)
    _, batch = noisy(key, dtype)
    batch = batch._replace(inputs=batch.inputs * 1e3 + 500)
    state, info = jills.run(algorithm, gauss_newton.Hparams(), network.init(key, dtype), batch, 3)
    rows = np.hstack([np.asarray(batch.inputs, np.float64), np.ones((11, 1))])
    targets = np.asarray(batch.targets, np.float64)
    best = np.mean((rows @ np.linalg.lstsq(rows, targets)[0] - targets) ** 2)
    # Predictions of the start are a thousand times the targets: in float32 the first step leaves a rest.
    np.testing.assert_allclose(info.loss[1], best, rtol=1e-2 if dtype == "float32" else 1e-9)
    np.testing.assert_allclose(state.loss, best, rtol=1e-4 if dtype == "float32" else 1e-12)
    assert info.detail.accepted[0] == 1


# Ends


def test_it_ends_at_the_target_loss_and_stays(key, dtype):
    params, batch = problem(key, dtype)
    whole, info = train(params, batch)
    target = info.loss[5] * 1.001
    state, info = train(params, batch, jills.Stop(target_loss=target))
    assert state.result == results.TARGET_REACHED
    assert state.step <= 5
    assert state.loss <= target
    assert whole.loss < state.loss
    np.testing.assert_array_equal(info.loss[int(state.step) :], state.loss)
    assert np.isnan(info.detail.damping[int(state.step) :]).all()
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.best_params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_ends_where_the_gradient_is_flat(key):
    params, batch = noisy(key)
    state, info = train(params, batch, jills.Stop(gradient_norm=1e-3))
    assert state.result == results.FLAT
    last = int(state.step) - 1
    assert info.detail.gradient_norm[last] <= 1e-3
    assert np.all(info.detail.gradient_norm[:last] > 1e-3)
    assert jills.diagnose(state, info).word == "converged"


def test_a_rejected_step_has_not_settled(key):
    params, batch = noisy(key)
    _, plain = train(params, batch)
    state, info = train(params, batch, jills.Stop(update_norm=1e-2))
    assert state.result == results.SETTLED
    last = int(state.step) - 1
    assert info.detail.accepted[last] > 0
    assert info.update_norm[last] <= 1e-2
    taken = (plain.update_norm <= 1e-2) & (plain.detail.accepted > 0)
    assert last == np.argmax(taken)
    assert jills.diagnose(state, info).word == "converged"
    code, full = jnp.asarray(results.SETTLED), jax.tree.map(lambda leaf: leaf[last], info)
    rejected = full._replace(detail=full.detail._replace(accepted=jnp.asarray(0), damping=jnp.asarray(1.0)))
    assert FULL.ended(full, code) == results.SETTLED
    assert FULL.ended(rejected, code) == results.RUNNING


def test_it_ends_at_a_minimum(key):
    """In float32, where rounding soon hides every further decrease."""
    params, batch = noisy(key, "float32")
    state, info = train(params, batch, hparams=gauss_newton.Hparams(weight_decay=3e-2))
    assert state.result == results.AT_MINIMUM
    assert state.step < STEPS
    last = int(state.step) - 1
    assert info.detail.accepted[last] == 0
    assert info.detail.damping[last] >= LARGEST_DAMPING
    told = jills.diagnose(state, info)
    assert told.word == "converged"
    assert "minimum" in str(told.why)


def test_bad_data_are_no_steps(key):
    """A start that is not finite ends at once."""
    params, batch = problem(key)
    params = (params[0]._replace(bias=params[0].bias.at[0].set(jnp.nan)), params[1])
    state, info = train(params, batch)
    assert state.result == results.NON_FINITE
    assert state.step == 0
    assert not info.finite.any()
    assert jills.diagnose(state, info).word == "diverged"


def test_a_sweep_ends_early(key):
    def easy(key):
        return noisy(key, "float32")

    seen = []
    result = jills.sweep(
        FULL,
        gauss_newton.Hparams(weight_decay=jnp.array([0.03, 0.1])),
        easy,
        jax.random.split(key, 2),
        1000,
        100,
        on_chunk=lambda *arrived: seen.append(arrived),
    )
    assert seen[-1][0] < 1000
    assert seen[-1][2].all()
    assert np.isin(result.state.result, [results.AT_MINIMUM, results.SETTLED, results.FLAT]).all()
    assert (jills.diagnose(result.state, result.info).word == "converged").all()


# Depth and width


def deep(layers, activation=activations.tanh):
    return jills.Network((3, *[7] * layers, 2), activation)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [activations.tanh, activations.relu], ids=["tanh", "relu"])
def test_twenty_hidden_layers_train(activation, key):
    network = deep(20, activation)
    algorithm = gauss_newton.build(network)
    assert algorithm == gauss_newton.build(network, blocks=((0, 20),))
    shares = []
    for seed in jax.random.split(key, 4):
        inputs = jax.random.normal(seed, (53, 3), "float32")
        targets = jnp.stack([jnp.sin(2 * inputs[:, 0]) + inputs[:, 1], inputs[:, 1] * inputs[:, 2]], axis=1)
        params = tuple(layer._replace(bias=0 * layer.bias) for layer in network.init(seed, "float32", scale=1.4))
        state, info = jills.run(algorithm, gauss_newton.Hparams(), params, jills.Batch(inputs, targets), 100)
        shares.append(float(state.loss / jnp.mean(jnp.var(targets, axis=0))))
        assert info.finite.all()
        assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(state.params)) < 1e5
    # ReLU units of so narrow a network die: not every start gets far.
    assert min(shares) < 0.5
    assert max(shares) < 1.0 + 1e-6  # where all units of a layer have died, the constant is left


def test_collinear_units_do_not_blow_up_the_output_layer(key, dtype):
    """Two units alike, one dead and one constant: what the rows do not decide stays where it is."""
    network = jills.Network((3, 5, 2), activations.relu)
    params, batch = noisy(key, dtype)
    weight = params[0].weight.at[:, 1].set(params[0].weight[:, 0]).at[:, 2:4].set(0.0)
    bias = jnp.asarray([0.1, 0.1, -1.0, 3.0, 0.2], dtype)
    algorithm = gauss_newton.build(network, blocks=((1, 1),))
    params = (jills.Layer(weight, bias), params[1])
    state, _ = jills.run(algorithm, gauss_newton.Hparams(), params, batch, 5)
    hidden = np.asarray(network.forward(params, batch.inputs)[0], np.float64)
    rows, targets = np.hstack([hidden, np.ones((11, 1))]), np.asarray(batch.targets, np.float64)
    expected = np.linalg.lstsq(rows, targets, rcond=1e-6)[0]
    np.testing.assert_allclose(state.loss, np.mean((rows @ expected - targets) ** 2), rtol=1e-4)
    assert np.linalg.norm(np.vstack(state.params[1])) < 10 * (
        np.linalg.norm(expected) + np.linalg.norm(params[1].weight)
    )


def equations(jaxpr):
    """All equations of a program, those of its inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def traced_step(network, **choices):
    algorithm = gauss_newton.build(network, **choices)

    def one_step(key):
        rows = [jnp.zeros((11, size), "float32") for size in (network.sizes[0], network.sizes[-1])]
        batch = jills.Batch(rows[0], rows[1])
        return algorithm.step(gauss_newton.Hparams(), algorithm.init(network.init(key, "float32"), batch), batch)

    return jax.make_jaxpr(one_step)(jax.random.key(0)).jaxpr


def test_the_program_grows_no_faster_than_the_depth():
    counts = [len(list(equations(traced_step(deep(layers))))) for layers in (10, 20)]
    assert counts[1] < 2.3 * counts[0]


def test_a_wide_layer_has_no_square_matrix():
    """No array of p × p, of 1554 parameters, in a step of a layer of 41 × 37; a dense one has it."""
    network, p = jills.Network((3, 41, 37, 2), activations.tanh), 42 * 37
    largest = [
        max(
            var.aval.size
            for eqn in equations(traced_step(network, blocks=((1, 1),), linear_solver=solver))
            for var in eqn.outvars
        )
        for solver in (gauss_newton.Automatic(limit=200), gauss_newton.Dense())
    ]
    assert largest[0] < p * p <= largest[1]


# Rows in any units


def test_the_units_of_the_inputs_do_not_matter(key):
    """Inputs times 1000 plus 500, and a start that predicts the same: the same losses."""
    params, batch = noisy(key)
    _, expected = train(params, batch)
    first = params[0]
    weight = first.weight / 1e3
    moved = (jills.Layer(weight, first.bias - 500 * weight.sum(axis=0)), params[1])
    _, info = train(moved, batch._replace(inputs=batch.inputs * 1e3 + 500))
    np.testing.assert_allclose(info.loss[:15], expected.loss[:15], rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.squared_error, losses.softmax_cross_entropy], ids=["squared", "softmax"])
def test_some_of_many_rows_make_the_preconditioner(loss, key):
    """Three outputs and more rows than its factors are taken from: the step is as good as any."""
    network = jills.Network((3, 5, 3), activations.tanh)
    inputs = jax.random.normal(key, (1500, 3), "float32")
    targets = jax.nn.softmax(3 * network.predict(network.init(jax.random.key(1), "float32"), inputs))
    algorithm = gauss_newton.build(network, loss, jills.ConjugateGradients(30, 1e-3))
    params, batch = network.init(key, "float32"), jills.Batch(inputs, targets)
    state, info = jills.run(algorithm, gauss_newton.Hparams(), params, batch, 10)
    least = loss(jnp.log(targets) if loss is losses.softmax_cross_entropy else targets, targets)
    assert state.loss - least < 0.05 * (info.loss[0] - least)


@pytest.mark.parametrize("power", [-40, 40])
def test_nor_do_they_with_outliers(power, key):
    """Huber's loss with δ in the same units: the same steps, bit for bit."""
    params, batch = noisy(key, "float32")
    batch = batch._replace(targets=batch.targets.at[3, 0].set(1e3))
    found = []
    for unit in (np.float32(1.0), np.float32(2.0**power)):
        algorithm = gauss_newton.build(NETWORK, losses.huber(float(0.5 * unit)))
        moved = (params[0], jills.Layer(params[1].weight * unit, params[1].bias * unit))
        scaled = batch._replace(targets=batch.targets * unit)
        state, info = jills.run(algorithm, gauss_newton.Hparams(), moved, scaled, STEPS)
        found.append((state.params[0].weight, info.loss / unit**2))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert found[0][1][-1] < 0.9 * found[0][1][0]


@pytest.mark.parametrize("power", [-50, -20, 20, 50])
def test_the_units_of_the_targets_do_not_matter(power, key, dtype):
    """Targets and the start's output layer times a power of two: the same steps, bit for bit, decay and all."""
    params, batch = noisy(key, dtype)
    unit = jnp.asarray(2.0**power, dtype)
    hparams = gauss_newton.Hparams(weight_decay=1e-3)
    expected, plain = train(params, batch, hparams=hparams._replace(weight_decay=0.0))
    moved = (params[0], jills.Layer(params[1].weight * unit, params[1].bias * unit))
    scaled = batch._replace(targets=batch.targets * unit)
    state, info = train(moved, scaled, hparams=hparams._replace(weight_decay=0.0))
    np.testing.assert_array_equal(info.loss, plain.loss * unit**2)
    np.testing.assert_array_equal(state.params[0].weight, expected.params[0].weight)
    np.testing.assert_array_equal(state.params[1].weight, expected.params[1].weight * unit)
    taken = np.arange(STEPS) < int(state.step)
    np.testing.assert_allclose(info.detail.objective[taken], info.loss[taken], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-15, 1e-6, 1e6, 1e15])
@pytest.mark.parametrize("which", ["inputs", "targets"])
def test_a_start_in_other_units_trains_as_well(which, size, key):
    """In float32, with the start of a network for inputs and targets of size one."""
    params, batch = noisy(key, "float32", n=53)
    shares = []
    for unit in (1.0, size):
        scaled = batch._replace(**{which: jnp.asarray(np.asarray(getattr(batch, which), np.float64) * unit, "float32")})
        state, info = train(params, scaled)
        assert info.finite.all()
        assert state.loss <= info.loss[0]
        predicted = np.asarray(NETWORK.predict(state.params, scaled.inputs), np.float64)
        targets = np.asarray(scaled.targets, np.float64)
        shares.append(np.mean((predicted - targets) ** 2) / np.var(targets))
    assert shares[1] < 1.3 * shares[0]


def test_raw_years_train_as_standardised_ones_do(key):
    """From a start that they saturate: every unit of it is constant over the rows."""
    years = jnp.linspace(1700, 2000, 53, dtype="float32")[:, None]
    targets = jnp.sin((years - 1850) / 40) * jnp.ones((1, 2), "float32")
    network = jills.Network((1, 7, 2), activations.tanh)
    params = network.init(key, "float32", scale=3.0)
    losses_of = []
    for inputs in (years, (years - years.mean()) / years.std()):
        algorithm = gauss_newton.build(network)
        state, _ = jills.run(algorithm, gauss_newton.Hparams(), params, jills.Batch(inputs, targets), STEPS)
        losses_of.append(float(state.loss))
    slopes = 1 - np.square(network.forward(params, years)[0])
    assert np.mean(slopes) < 0.02
    assert losses_of[0] < 0.05 * np.var(targets)


def test_a_trained_start_is_not_taken_for_one_in_other_units(key):
    """Steep units that fit better than the rescaled start: the step keeps them."""
    params, batch = problem(key)
    steep = (jills.Layer(1e3 * params[0].weight, 1e3 * params[0].bias), params[1])
    batch = batch._replace(targets=NETWORK.predict(steep, batch.inputs))
    state, info = train(steep, batch)
    assert info.loss[0] == 0
    assert state.loss < 1e-25
    np.testing.assert_allclose(state.params[0].weight, steep[0].weight, rtol=1e-6)


def test_the_gradient_norm_is_that_of_autodiff_in_any_units(key):
    params, batch = problem(key)
    batch = batch._replace(targets=100.0 * batch.targets)

    def objective(params):
        loss = losses.squared_error(NETWORK.predict(params, batch.inputs), batch.targets)
        return loss + 0.5e-3 * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))

    state = init(FULL, params, batch)
    _, info = step(FULL, gauss_newton.Hparams(weight_decay=1e-3), state, batch)
    gradient = jax.tree.leaves(jax.grad(objective)(params))
    expected = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient))
    np.testing.assert_allclose(info.detail.gradient_norm, expected, rtol=1e-9)
    np.testing.assert_allclose(info.detail.objective, objective(params), rtol=1e-12)


def relative_gradient(params, batch, decay):
    """By NumPy, for tanh, the identity and squared error: each layer's gradient over the product of its factors' norms.

    In inputs that are centred and divided by the geometric mean of their deviations, and targets over the power of two
    next to their deviation.
    """
    (weight, bias), (top, top_bias) = [[np.asarray(leaf, np.float64) for leaf in layer] for layer in params]
    used = np.asarray(batch.weights) > 0
    inputs, targets, omega = (np.asarray(array, np.float64)[used] for array in batch)
    omega = (omega / omega.sum())[:, None]
    unit = 2.0 ** np.round(
        np.log2(np.sqrt(np.sum(omega * np.mean((targets - np.sum(omega * targets, 0)) ** 2, 1)[:, None])))
    )
    mean = np.sum(omega * inputs, 0)
    scale = np.exp(np.mean(np.log(np.sqrt(np.sum(omega * (inputs - mean) ** 2, 0)))))
    hidden = np.tanh(inputs @ weight + bias)
    slope = 2 / 2 * ((hidden @ top + top_bias) - targets) / unit  # of two outputs, per row
    first = np.column_stack([(inputs - mean) / scale, np.ones(len(inputs))])
    second = np.column_stack([hidden, np.ones(len(inputs))])
    below = (slope @ (top / unit).T) * (1 - hidden**2)
    # θ^1 in those inputs: its slopes are those of the penalty ½ δ/unit² ‖W‖² + ½ δ/unit² ‖b‖².
    own = decay / unit**2 * np.vstack([(weight - np.outer(mean, bias)) / scale, bias])
    upper = decay * np.vstack([top, top_bias]) / unit
    shares = []
    for rows, sensitive, penalty in ((first, below, own), (second, slope, upper)):
        gradient = rows.T @ (omega * sensitive) + penalty
        whole = np.sum(omega * rows**2) * np.sum(omega * sensitive**2) + np.sum(penalty**2)
        shares.append(np.sum(gradient**2) / whole)
    one = np.sum(omega * slope**2)
    return np.sqrt(max(shares) * one / (one + 2.0))  # an error of one unit has the slope 1 in each of two outputs


@pytest.mark.parametrize(("decay", "size"), [(0.0, 1.0), (0.0, 2.0**60), (3e-2, 1.0), (1.0, 1.0)])
def test_the_relative_gradient_is_that_of_numpy_in_any_units(decay, size, key):
    params, batch = noisy(key)
    weights = jnp.arange(11.0).at[3].set(0.0)
    batch = batch._replace(
        inputs=(7.0 + 3.0 * batch.inputs).at[3].set(jnp.nan), targets=batch.targets + 0.5, weights=weights
    )
    expected = relative_gradient(params, batch, decay)
    assert 0.01 < expected < 1
    batch = batch._replace(targets=size * batch.targets)
    params = params[0], jax.tree.map(lambda leaf: size * leaf, params[1])
    state = init(FULL, params, batch)
    _, info = step(FULL, gauss_newton.Hparams(weight_decay=decay), state, batch)
    np.testing.assert_allclose(info.detail.relative_gradient, expected, rtol=1e-9)


@pytest.mark.parametrize("size", [2.0**-50, 2.0**50])
def test_the_relative_gradient_has_no_units_in_float32_for_other_losses_too(size, key):
    told = []
    for unit in (1.0, size):
        algorithm = gauss_newton.build(jills.Network((3, 2)), losses.huber(unit))
        params, batch = algorithm.network.init(key, "float32"), noisy(key, "float32")[1]
        params, targets = jax.tree.map(lambda leaf, unit=unit: jnp.float32(unit) * leaf, (params, batch.targets))
        batch = batch._replace(targets=targets)
        told.append(step(algorithm, gauss_newton.Hparams(), init(algorithm, params, batch), batch)[1])
    one, other = (info.detail.relative_gradient for info in told)
    assert 0.01 < one < 1
    np.testing.assert_allclose(other, one, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e6])
def test_a_constant_input_is_harmless(value, key, dtype):
    params, batch = noisy(key, dtype)
    batch = batch._replace(inputs=batch.inputs.at[:, 1].set(value))
    # The start must not be saturated by the column itself.
    params = (params[0]._replace(weight=params[0].weight.at[1].multiply(1 / max(1.0, abs(value)))), params[1])
    state, info = train(params, batch)
    assert info.finite.all()
    zero = batch._replace(inputs=batch.inputs.at[:, 1].set(0.0))
    reference, _ = train(params, zero)
    assert state.loss < 1.5 * reference.loss + 1e-6


def hard_problem(seed, units, twins, constant_targets, one_row, saturated):
    """11 rows in float32 in bad units."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((11, 3)) * 10.0 ** np.asarray(units[:3])
    targets = rng.standard_normal((11, 2)) * 10.0 ** np.asarray(units[3:])
    if twins:
        inputs[:, 2] = inputs[:, 1]
    if constant_targets:
        targets[:] = targets[:1]
    weights = np.ones(11)
    if one_row:
        weights[1:] = 0
    params = NETWORK.init(jax.random.key(seed), "float32", scale=30.0 if saturated else 1.0)
    return params, jills.Batch(*(jnp.asarray(array, "float32") for array in (inputs, targets, weights)))


def constant_loss(batch):
    targets, weights = np.asarray(batch.targets, np.float64), np.asarray(batch.weights, np.float64)
    mean = np.average(targets, axis=0, weights=weights)
    return np.average(np.mean((targets - mean) ** 2, axis=1), weights=weights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    units=st.lists(st.integers(-6, 6), min_size=5, max_size=5),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_no_problem_makes_it_worse(seed, units, flags):
    params, batch = hard_problem(seed, units, *flags)
    state, info = train(params, batch)
    assert np.isfinite(state.loss)
    assert state.loss <= info.loss[0] * (1 + 1e-5)
    assert info.finite.all()


def test_most_hard_problems_are_solved_better_than_by_a_constant():
    rng = np.random.default_rng(3)
    reached = []
    for seed, flags in enumerate(itertools.product([False, True], repeat=4)):
        for turn in range(3):
            params, batch = hard_problem(100 * turn + seed, rng.integers(-6, 7, 5), *flags)
            state, info = train(params, batch)
            # float32 forgets what is 1e-6 of the predictions of the start.
            reached.append(float(state.loss) <= constant_loss(batch) * (1 + 1e-4) + 1e-11 * float(info.loss[0]))
    assert np.mean(reached) >= 0.95


# Build


@pytest.mark.parametrize("blocks", [(), ((1, 0),), ((0, 2),), ((-1, 0),)])
def test_bad_blocks_are_refused(blocks):
    with pytest.raises(ValueError, match=r"0 <= first <= last <= 1"):
        gauss_newton.build(NETWORK, blocks=blocks)


def test_linear_solvers_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="limit is -1, but must be at least 0"):
        gauss_newton.Automatic(limit=-1)
    with pytest.raises(ValueError, match=r"linear_solver is 'qr', but must be gauss_newton\.Automatic"):
        gauss_newton.build(NETWORK, linear_solver="qr")  # pyright: ignore[reportArgumentType] on purpose


def test_one_solver_for_all_blocks_is_the_automatic_one_at_its_limits():
    method = jills.ConjugateGradients(7, 0.1)
    automatic = gauss_newton.Automatic(iterative=method, limit=0, quasi_newton=None)
    assert gauss_newton.build(NETWORK, linear_solver=method) == gauss_newton.build(NETWORK, linear_solver=automatic)
    rows = gauss_newton.build(NETWORK, linear_solver=jills.solvers.qr)
    assert rows == gauss_newton.build(NETWORK, linear_solver=gauss_newton.Dense(jills.solvers.qr))


@pytest.mark.parametrize(
    "choices", [{"optimizer": lambda hparams: None}, {"defaults": ()}, {"full_batch": False, "blocks": ((0, 1),)}]
)
def test_what_belongs_to_the_other_kind_of_step_is_refused(choices):
    with pytest.raises(ValueError, match=r"(optimizer|defaults|blocks) does not apply with full_batch="):
        gauss_newton.build(NETWORK, **choices)
    with pytest.raises(TypeError, match=r"gauss_newton.Hparams\(learning_rate=0.1\): its hyperparameters are"):
        gauss_newton.Hparams(learning_rate=0.1)  # pyright: ignore[reportCallIssue] on purpose
    with pytest.raises(TypeError, match=r"gauss_newton.Hparams\(0.1\): .* each given by keyword; a full-batch step"):
        gauss_newton.Hparams(0.1)
    with pytest.raises(TypeError, match=r"MinibatchHparams\(rate_decay=0.1\).* give build an Optax schedule"):
        gauss_newton.MinibatchHparams(rate_decay=0.1)  # pyright: ignore[reportCallIssue] on purpose
    numbers = gauss_newton.Hparams(weight_decay=0.1)._replace(damping=0.2)
    assert numbers == pickle.loads(pickle.dumps(numbers)) == jax.tree.map(lambda leaf: leaf, numbers) == (0.1, 0.2)


def test_blocks():
    assert gauss_newton.default_blocks(jills.Network((3, 2))) == ((0, 0),)
    assert gauss_newton.default_blocks(NETWORK) == ((1, 1), (0, 0), (0, 1))
    assert gauss_newton.default_blocks(deep(3)) == ((3, 3), (2, 2), (1, 1), (0, 0), (0, 3))
    # With squared error an output layer that is solved by itself slows deep networks down, and those with kinks.
    assert gauss_newton.default_blocks(deep(4)) == ((0, 4),)
    assert gauss_newton.default_blocks(deep(2, activations.relu)) == ((1, 1), (0, 0), (0, 2))
    softmax = losses.softmax_cross_entropy
    assert gauss_newton.default_blocks(deep(4), softmax) == gauss_newton.together(deep(4)) == ((4, 4), (0, 4))
    assert len(gauss_newton.default_blocks(deep(2, activations.relu), softmax)) == 4
    assert gauss_newton.one_by_one(deep(2)) == ((2, 2), (1, 1), (0, 0))


@pytest.mark.parametrize("numbers", [{"damping": 0.0}, {"weight_decay": -1.0}])
def test_hyperparameters_out_of_range_are_refused(numbers, key):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        jills.run(FULL, gauss_newton.Hparams(**numbers), *problem(key), 2)
