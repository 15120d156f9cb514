"""Each word of a diagnosis, on made-up histories and on real runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import Batch, Info, Layer, Network, State, diagnose, results

T = 20  # steps, so that the last fifth are 4


def array(values, dtype=float) -> Any:
    return np.asarray(values, dtype)


def history(losses, moved=0.1, code=results.RUNNING, norm=1.0, rcond=None, missing=0):
    """State and `Info` of one member whose loss went as told; its parameters have the given norm."""
    losses = array(losses)
    steps = len(losses) - 1
    params = (Layer(array(np.full((3, 5), norm / np.sqrt(20.0))), array(np.full(5, norm / np.sqrt(20.0)))),)
    state = State(params, (), (), array(steps, int), losses[-1], params, array(np.nanmin(losses)), array(code, int))
    ones = array(np.ones(steps))
    detail = () if rcond is None else jills.ills.Detail(ones, array(rcond) * ones, missing * ones.astype(int))
    return state, Info(losses[:-1], moved * norm * ones, np.isfinite(losses[1:]), detail)


FALLING = np.geomspace(1.0, 1e-3, T + 1)
FLAT = np.concatenate([np.geomspace(1.0, 0.1, T - 4), np.full(5, 0.1)])
LATE_NAN = np.concatenate([FALLING[:-3], np.full(3, np.nan)])
HALF_BAD = np.where(np.arange(T) < T - 2, 1.0, 1e-9)  # ill-conditioned in the last 2 of the last 4 steps

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
        "reached the target loss, at loss 0.001",
    ),
    "settled": (history(FALLING, code=results.SETTLED), "converged", "update fell below the tolerance"),
    "flat but moving": (history(FLAT), "stalled", "try a lower learning rate, or more ridge"),
    "flat, moving, small parameters": (history(FLAT, moved=1.1e-3, norm=1e-3), "stalled", "updates are 0.001"),
    "flat, well conditioned": (history(FLAT, rcond=1e-3), "stalled", "updates are 0.1"),
    "below its start, bouncing": (history([1.0, *[0.1, 0.3] * 10]), "stalled", "fell by 0.00%"),
    "falls, but was lower before": (history([1.0, 0.1, *np.geomspace(0.9, 0.3, 19)]), "stalled", "fell by 0.00%"),
    "flat, badly conditioned": (history(FLAT, rcond=1e-9), "ill-conditioned", "in 100% of them a layer solve was"),
    "badly conditioned in half": (history(FLAT, rcond=HALF_BAD), "ill-conditioned", "in 50% of them"),
    "badly conditioned once": (history(FLAT, rcond=np.where(np.arange(T) < T - 1, 1.0, 1e-9)), "stalled", "updates"),
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
        "NaN or inf after 18 steps; best_params holds the last good ones; try a lower",
    ),
    "NaN at the start": (history([np.nan, *FALLING[1:]]), "diverged", "after 0 steps"),
    "infinite": (history([*FALLING[:-1], np.inf]), "diverged", "NaN or inf after 20 steps"),
    "stopped with NaN parameters": (
        history(FALLING, code=results.NON_FINITE),
        "diverged",
        "NaN or inf in the parameters",
    ),
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
    }


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 5), (1, 1)])
def test_diagnoses_have_the_shape_of_the_members(shape):
    count = int(np.prod(shape))
    names = [name for name in CASES if CASES[name][0][1].detail == ()]
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
