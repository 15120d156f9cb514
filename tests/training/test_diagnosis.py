"""Each word of a diagnosis, on made-up histories and on real runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import Batch, Info, Layer, Network, State, diagnose, results

T = 20  # steps, so that the last fifth are 4


def array(values, dtype=float) -> Any:
    return np.asarray(values, dtype)


def history(
    losses,
    moved=0.1,
    code=results.RUNNING,
    norm=1.0,
    rcond=None,
    missing=0,
    slopes=None,
    relative=None,
    metrics: Any = (),
    saturated=0.0,
):
    """State and `Info` of one member whose loss went as told; its parameters have the given norm."""
    losses = array(losses)
    steps = len(losses) - 1
    params = (Layer(array(np.full((3, 5), norm / np.sqrt(20.0))), array(np.full(5, norm / np.sqrt(20.0)))),)
    best = array(np.min(np.where(np.isfinite(losses), losses, np.inf)))
    state = State(params, (), (), array(steps, int), losses[-1], params, best, array(code, int))
    ones, detail = array(np.ones(steps)), ()
    if rcond is not None:
        detail = jills.ills.Detail(ones, array(rcond) * ones, missing * ones.astype(int))
    if slopes is not None:
        detail = jills.adam.Detail(array(slopes) * ones)
    if relative is not None:
        detail = jills.gauss_newton.Detail(relative_gradient=array(relative) * ones)
    info = Info(losses[:-1], moved * norm * ones, np.isfinite(losses[1:]), detail, metrics)
    return state._replace(saturated=np.float32(saturated)), info


FALLING = np.geomspace(1.0, 1e-3, T + 1)
FLAT = np.concatenate([np.geomspace(1.0, 0.1, T - 4), np.full(5, 0.1)])
LATE_NAN = np.concatenate([FALLING[:-3], np.full(3, np.nan)])
HALF_BAD = np.where(np.arange(T) < T - 2, 1.0, 1e-9)  # ill-conditioned in the last 2 of the last 4 steps

RISING = [*np.geomspace(1.0, 0.2, T - 5), *np.linspace(0.21, 0.3, 5)]  # T numbers, lowest after 14 steps
NOISE = 0.2 * (1 + 0.04 * np.cos(np.arange(T)))  # never more than 5 % from its best


class Recorded(NamedTuple):
    validation_loss: Any
    accuracy: Any


def going_on_after_nan():
    state, info = history(np.full(T + 1, np.nan), code=results.NON_FINITE)
    return state._replace(best_loss=array(0.1)), info


CASES = {
    "falls": (history(FALLING), "improving", "more steps would help"),
    "falls by just over 1 %": (history([*FLAT[:-1], 0.0989]), "improving", "1.10%"),
    "falls by just under 1 %": (history([*FLAT[:-1], 0.0991]), "stalled", "0.90%"),
    "falls, though badly conditioned": (history(FALLING, rcond=1e-12), "improving", "more steps"),
    "flat and at rest": (
        history(FLAT, moved=1e-5),
        "converged",
        "in the last 4 steps, to 0.1; the last update was 1e-05",
    ),
    "flat, at rest, large parameters": (history(FLAT, moved=9e-4, norm=1e3), "converged", "last update"),
    "flat, at rest, badly conditioned": (history(FLAT, moved=1e-5, rcond=1e-12), "converged", "last update"),
    "zero from the start": (history(np.zeros(T + 1), moved=0.0), "converged", "to 0"),
    "target reached": (
        history(FALLING, code=results.TARGET_REACHED),
        "converged",
        "reached the target loss; its loss is 0.001",
    ),
    "settled": (history(FALLING, code=results.SETTLED), "converged", "update fell below the tolerance"),
    "flat but moving": (history(FLAT), "stalled", "try a lower learning rate"),
    "flat, moving, small parameters": (history(FLAT, moved=1.1e-3, norm=1e-3), "stalled", "last update was 0.001"),
    "flat, well conditioned": (history(FLAT, rcond=1e-3), "stalled", "was 0.1 of the parameters' norm; try a lower "),
    "flat, of ILLS": (history(FLAT, rcond=1e-3), "stalled", "try a lower learning rate, or more ridge"),
    "below its start, bouncing": (history([1.0, *[0.1, 0.3] * 10]), "stalled", "fell by 0.00%"),
    "falls, but was lower before": (history([1.0, 0.1, *np.geomspace(0.9, 0.3, 19)]), "stalled", "fell by 0.00%"),
    "flat, badly conditioned": (history(FLAT, rcond=1e-9), "ill-conditioned", "in 100% of them a layer solve was"),
    "badly conditioned in half": (history(FLAT, rcond=HALF_BAD), "ill-conditioned", "in 50% of them"),
    "badly conditioned once": (history(FLAT, rcond=np.where(np.arange(T) < T - 1, 1.0, 1e-9)), "stalled", "update"),
    "flat, ranks missing": (
        history(FLAT, rcond=0.5, missing=2),
        "ill-conditioned",
        "add ridge, or take fewer hidden units",
    ),
    "below zero and falling": (history(-np.linspace(24.0, 180.0, T + 1)), "improving", "20.00%"),
    "below zero and flat": (
        history(-np.append(np.linspace(24.0, 180.0, T - 4), np.full(5, 180.0))),
        "stalled",
        "0.00%",
    ),
    "from above zero to below": (history(np.linspace(1.0, -1.0, T + 1)), "improving", "more steps"),
    "risen from below zero": (history(np.linspace(-1.0, 9.0, T + 1)), "diverged", "the loss rose from -1 to 9"),
    "NaN": (
        history(LATE_NAN),
        "diverged",
        "NaN or inf after 18 steps; best_params holds the best before; try a lower learning rate",
    ),
    "NaN at the start": (
        history(np.full(T + 1, np.nan)),
        "diverged",
        "NaN or inf at the start; look at the parameters",
    ),
    "infinite at the start": (history(np.full(T + 1, np.inf)), "diverged", "NaN or inf at the start; look at the par"),
    "going on after NaN": (going_on_after_nan(), "diverged", "NaN or inf after 0 steps; best_params holds the best"),
    "infinite": (history([*FALLING[:-1], np.inf]), "diverged", "NaN or inf after 20 steps"),
    "stopped with NaN parameters": (
        history(FALLING, code=results.NON_FINITE),
        "diverged",
        "NaN or inf in the parameters",
    ),
    "NaN, of Gauss–Newton": (history(LATE_NAN, relative=0.5), "diverged", "try more weight decay or damping, or an"),
    "weights that leave nothing": (history(FLAT, code=results.BAD_WEIGHTS), "diverged", "not trained: the weights"),
    # A gradient, beside its scale
    "flat, small gradient": (
        history(FLAT, relative=0.009),
        "converged",
        "its gradient is 0.009 of its scale, where 0.01",
    ),
    "flat, gradient not small": (
        history(FLAT, relative=0.3),
        "stalled",
        "though its gradient is 0.3 of its scale, where 0.01 is small; rounding, an outlier or a bend of ReLU may hide",
    ),
    "flat, at rest, gradient not small": (history(FLAT, moved=0.0, relative=0.3), "stalled", "take more steps"),
    "falls, gradient small": (history(FALLING, relative=1e-5), "improving", "more steps would help"),
    "ended at a minimum": (
        history(FLAT, moved=0.0, code=results.AT_MINIMUM, relative=np.append(np.ones(T - 1), 1e-6)),
        "converged",
        "a minimum, or a plateau; another start may end lower; its loss is 0.1",
    ),
    "was at a minimum before": (
        history(FLAT, code=results.AT_MINIMUM, relative=np.nan),
        "converged",
        "its loss is 0.1",
    ),
    "stuck": (
        history(FLAT, moved=0.0, code=results.STUCK, relative=0.3),
        "stalled",
        "though its gradient is not small beside its terms: rounding hides what a step would gain",
    ),
    "stuck at zero": (history([1.0, *np.full(T, 1e-32)], code=results.STUCK, relative=0.3), "converged", "to rounding"),
    "settled too early": (
        history(FALLING, code=results.SETTLED, relative=0.3),
        "stalled",
        "its update fell below the tolerance; its loss is 0.001, though its gradient is 0.3 of its scale, where 0.01",
    ),
    "flat by an absolute tolerance": (
        history(FALLING, code=results.FLAT, slopes=1e-9, norm=1e9),
        "stalled",
        "though its gradient is 1 of its scale, where 0.1 is small; ask for a smaller tolerance",
    ),
    "settled above its best": (
        history([1.0, 0.1, *np.full(T - 1, 0.5)], code=results.SETTLED),
        "stalled",
        "its loss is 0.5, while its lowest was 0.1",
    ),
    "tiny steps": (
        history(np.linspace(1.0, 0.999, T + 1), moved=1e-6, slopes=1.0),
        "stalled",
        "its gradient is 1 of its scale, where 0.1 is small; its last update was 1e-06 of the parameters' norm",
    ),
    "no steps at all": (history(FLAT, moved=0.0, slopes=1.0), "stalled", "it does not move any more"),
    "at rest, gradient fallen": (history(FLAT, moved=1e-5, slopes=np.geomspace(1, 0.09, T)), "converged", "is 0.09 of"),
    "at rest from the start": (
        history(np.full(T + 1, 5.0), moved=1e-5, slopes=0.1),
        "converged",
        "gradient is 0.02 of",
    ),
    "gradient zero": (history(np.zeros(T + 1), moved=0.0, slopes=0.0), "converged", "zero to rounding"),
    # Losses below zero, or zero
    "from below zero to zero": (history(np.linspace(-24.0, 0.0, T + 1)), "stalled", "to -24 (it ends at 0)"),
    "risen ninefold below zero": (history(np.linspace(-1.0, 7.9, T + 1)), "stalled", "to -1 (it ends at 7.9)"),
    "from zero to below": (history(np.linspace(0.0, -3.0, T + 1)), "improving", "to -3"),
    "from zero up": (history(np.linspace(0.0, 3.0, T + 1)), "diverged", "the loss rose from 0 to 3"),
    "from zero up by rounding": (history([0.0, *np.full(T, 1e-31)], moved=0.0), "converged", "last update was 0"),
    "rounding that comes and goes": (
        history(1e-31 * np.exp(np.cos(np.arange(T + 1))), moved=1e-9),
        "converged",
        "fell by 0.00%",
    ),
    "rounding that falls": (history(1e-31 * FALLING, moved=1e-9), "converged", "fell by 0.00%"),
    "huge parameters that move": (history(np.geomspace(1e-2, 1.0, T + 1), norm=1e16), "diverged", "the loss rose"),
    "huge parameters at rest": (history(FLAT, moved=0.0, norm=1e16, rcond=1e-9), "converged", "last update was 0"),
    "going on at rest below zero": (history(-180 - 1e-4 * np.arange(T + 1), moved=1e-5), "converged", "to -180"),
    "worse than its best": (history([1.0, 0.1, *np.full(T - 1, 0.5)], moved=0.0), "stalled", "to 0.1 (it ends at 0.5)"),
    # A validation loss
    "overfitted": (
        history(FALLING, metrics=array(RISING)),
        "overfitted",
        "the validation loss was lowest after 14 steps, 0.2, and is 0.3 now, while the training loss went from 0.00794 "
        "to 0.001; stop there",
    ),
    "overfitted by name": (history(FALLING, metrics=Recorded(array(RISING), array(FALLING[1:]))), "overfitted", "14"),
    "overfitted at a minimum": (
        history(FLAT, code=results.AT_MINIMUM, metrics={"val_loss": array(RISING), "size": np.ones((T, 3))}),
        "overfitted",
        "stop there, or take more ridge or weight decay",
    ),
    "overfitted at its target": (
        history(FALLING, code=results.TARGET_REACHED, metrics=array(RISING)),
        "overfitted",
        "",
    ),
    "overfitted to infinity": (history(FALLING, metrics=array([*FALLING[:-2], np.nan])), "improving", "of validation"),
    "both risen": (history([1.0, *np.geomspace(0.1, 0.5, T)], metrics=array(RISING)), "stalled", "(it ends at 0.5)"),
    "validation falls, training flat": (
        history(FLAT, moved=1e-5, metrics=array(FALLING[1:])),
        "improving",
        "that of validation by 74.88%, to 0.001; more steps would help",
    ),
    "validation flat, training falls": (
        history(FALLING, metrics=NOISE),
        "converged",
        "more steps would fit nothing but the training rows",
    ),
    "validation flat, training stalls": (history(FLAT, metrics=NOISE), "stalled", "that of validation by 0.0"),
    "validation NaN": (history(FALLING, metrics=np.full(T, np.nan)), "improving", "to 0.001; more steps"),
    "an accuracy by name": (history(FALLING, metrics={"accuracy": array(RISING)}), "improving", "to 0.001; more steps"),
    "predictions": (history(FALLING, metrics=np.ones((T, 11, 2))), "improving", "to 0.001; more steps"),
    "counts": (history(FALLING, metrics=np.arange(T)), "improving", "to 0.001; more steps"),
    # Saturated starts
    "saturated, flat": (
        history(FLAT, moved=1e-5, saturated=1.0),
        "stalled",
        "100% of the first layer's units were saturated at the start (or dead, as ReLUs are): standardise the inputs",
    ),
    "saturated, at a minimum": (
        history(FLAT, code=results.AT_MINIMUM, saturated=0.95),
        "stalled",
        "95% of the first layer's units",
    ),
    "saturated, badly conditioned": (history(FLAT, rcond=1e-9, saturated=0.95), "stalled", "standardise the inputs"),
    "saturated, falling": (history(FALLING, saturated=1.0), "improving", "standardise the inputs"),
    "saturated, exact": (history([1.0, *np.zeros(T)], moved=1.0, saturated=1.0), "converged", "zero to rounding"),
    "half saturated": (history(FLAT, moved=1e-5, saturated=0.5), "converged", "50% of the first layer's units"),
    "rises": (history(FALLING[::-1]), "diverged", "the loss rose from 0.001 to 1"),
    "rises and is badly conditioned": (history(FALLING[::-1], rcond=1e-12), "diverged", "the loss rose"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_history_has_its_word(name):
    (state, info), word, why = CASES[name]
    diagnosis = diagnose(state, info)
    assert diagnosis.word.shape == diagnosis.why.shape == ()
    assert diagnosis.word == word
    assert why in str(diagnosis.why)


def test_all_words_are_met():
    assert {word for _, word, _ in CASES.values()} == {
        "converged",
        "improving",
        "stalled",
        "diverged",
        "ill-conditioned",
        "overfitted",
    }


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 5), (1, 1)])
def test_diagnoses_have_the_shape_of_the_members(shape):
    count = int(np.prod(shape))
    names = [name for name in CASES if CASES[name][0][1].detail == () and type(CASES[name][0][1].metrics) is tuple]
    chosen = [CASES[names[i % len(names)]] for i in range(count)]
    state, info = jax.tree.map(
        lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *[c[0] for c in chosen]
    )
    diagnosis = diagnose(state, info)
    assert diagnosis.word.shape == diagnosis.why.shape == shape
    assert diagnosis.word.ravel().tolist() == [word for _, word, _ in chosen]
    for reason, (_, _, why) in zip(diagnosis.why.ravel(), chosen, strict=True):
        assert why in reason


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 7])
def test_short_histories_have_a_word_too(steps):
    assert diagnose(*history(np.geomspace(1.0, 0.1, steps + 1))).word == "improving"
    assert diagnose(*history(np.ones(steps + 1), moved=0.0)).word == "converged"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_broken_parameters_raise_no_warning(value):
    state, info = history(LATE_NAN, code=results.NON_FINITE)
    params = jax.tree.map(lambda leaf: np.full_like(leaf, value), state.params)
    diagnosis = diagnose(state._replace(params=params), info._replace(update_norm=array(np.full(T, value))))
    assert diagnosis.word == "diverged"


def test_noise_in_the_last_digit_is_no_divergence():
    start = 0.123456789
    wobble = [start, *[start, np.nextafter(start, 1.0)] * (T // 2)]
    assert diagnose(*history(wobble, moved=1e-9)).word == "converged"


# Real runs

NETWORK = Network((3, 2))
ILLS = jills.ills.build(NETWORK)


def linear_batch(noise):
    rng = np.random.default_rng(11)
    inputs = rng.standard_normal((11, 3))
    targets = inputs @ rng.standard_normal((3, 2)) + 0.5 + noise * rng.standard_normal((11, 2))
    return Batch(jnp.asarray(inputs), jnp.asarray(targets))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_linear_network_converges_in_one_solve(noise, key):
    params, batch = NETWORK.init(key), linear_batch(noise)
    state, info = jills.run(ILLS, jills.ills.Hparams(), params, batch, T)
    assert diagnose(state, info).word == "converged"
    again = diagnose(*jills.run(ILLS, jills.ills.Hparams(), state, batch, T))
    assert again.word == "converged", again.why


def test_a_sweep_is_diagnosed_member_by_member(key):
    adam = jills.adam.build(NETWORK)
    batch = linear_batch(0.0)
    hparams = jills.adam.Hparams(jnp.array([0.01, 3e5]))
    result = jills.sweep(adam, hparams, lambda key: (NETWORK.init(key), batch), jax.random.split(key, 3), T)
    assert diagnose(result.state, result.info).word.tolist() == [["improving"] * 3, ["diverged"] * 3]


def years(network, key):
    inputs = array(np.arange(1700.0, 1731.0)[:, None])
    return network.init(key, "float32"), Batch(inputs, array(np.sin(inputs)))


def test_raw_years_are_named_as_such(key):
    """The variance of a sine is what a constant leaves. (Gauss–Newton takes such a start for scaled inputs.)"""
    network = Network((1, 4, 1), jills.activations.tanh)
    algorithm = jills.adam.build(network)
    params, batch = years(network, key)
    params = params[0]._replace(weight=jnp.full((1, 4), 0.5, "float32")), params[1]
    state, info = jills.run(algorithm, jills.adam.Hparams(0.1), params, batch, 40)
    told = diagnose(state, info)
    assert float(state.loss) > 0.9 * np.var(np.asarray(batch.targets))
    assert told.word == "stalled"
    assert "100% of the first layer's units were saturated at the start" in str(told.why)
    assert str(told.why).endswith("standardise the inputs")
    assert "float64" not in str(told.why)


def test_a_learning_rate_that_is_far_too_low_does_not_converge(key):
    params, batch = NETWORK.init(key), linear_batch(0.3)
    adam = jills.adam.build(NETWORK)
    for rate in (1e-9, 1e-5):
        told = diagnose(*jills.run(adam, jills.adam.Hparams(rate), params, batch, T))
        assert told.word == "stalled", told.why
        assert "try a higher learning rate" in str(told.why)


def poisson(predictions, targets):
    return jnp.mean(jnp.exp(predictions) - targets * predictions, axis=1)


def poisson_gradient(predictions, targets):
    return (jnp.exp(predictions) - targets) / predictions.shape[1]


def poisson_curvature(predictions, targets):
    return jax.vmap(jnp.diag)(jnp.exp(predictions) / predictions.shape[1])


def test_a_loss_below_zero_that_falls_has_not_diverged(key):
    """The example of `jills.Loss`: counts, from a start below zero as well."""
    network = Network((3, 1))
    algorithm = jills.gauss_newton.build(network, jills.Loss(poisson, poisson_gradient, poisson_curvature))
    inputs = array(np.random.default_rng(7).standard_normal((11, 3)))
    batch = Batch(inputs, np.rint(np.exp(3.0 + inputs[:, :1])))
    params = (Layer(jnp.zeros((3, 1)), jnp.ones(1)),)
    state, info = jills.run(algorithm, jills.gauss_newton.Hparams(), params, batch, 2)
    assert state.loss < 2 * info.loss[0] < 0
    assert diagnose(state, info).word == "improving"
    for _ in range(2):
        state, info = jills.run(algorithm, jills.gauss_newton.Hparams(), state, batch, T)
    assert diagnose(state, info).word == "converged"


def test_a_validation_loss_of_a_sweep_is_judged_member_by_member(key):
    def problem(key):
        batch = linear_batch(0.0)
        aim = jnp.where(jax.random.key_data(key)[-1] % 2 == 0, 1.0, -1.0)  # every other one is led away from its data
        other = batch._replace(targets=aim * batch.targets)

        def metrics(params):
            return {"validation_loss": jnp.mean(jnp.square(NETWORK.predict(params, other.inputs) - other.targets))}

        return jills.Member(jax.tree.map(jnp.zeros_like, NETWORK.init(key)), batch, metrics)

    keys = jax.random.wrap_key_data(jnp.array([[0, 0], [0, 1]], jnp.uint32))
    result = jills.sweep(jills.adam.build(NETWORK), jills.adam.Hparams(jnp.array([0.01, 0.02])), problem, keys, T)
    told = diagnose(result.state, result.info)
    assert told.word.tolist() == [["improving", "overfitted"]] * 2
    assert "the validation loss was lowest after 0 steps" in str(told.why[0, 1])


@pytest.mark.parametrize("full_batch", [True, False])
def test_the_loss_of_minibatches_lags_one_step_behind(full_batch, key):
    adam = jills.adam.build(NETWORK, full_batch=full_batch)
    batch = linear_batch(0.0)
    for steps in (1, 3, 7):
        told = diagnose(*jills.run(adam, jills.adam.Hparams(0.01), NETWORK.init(key), batch, steps))
        assert told.word == "improving", told.why
