"""Ensembles, folds and calibration against SciPy and plain loops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import jills

MEMBERS, N, K = 3, 5, 2


def predictions(seed=0, members=MEMBERS, n=N):
    rng = np.random.default_rng(seed)
    mean, variance = rng.normal(size=(members, n, K)), rng.uniform(0.1, 2, (members, n, K))
    noise = np.tile(rng.uniform(0.1, 2, K), (members, 1))
    return jills.Prediction(*map(jnp.asarray, (mean, variance, noise, mean)))


def mixture_cdf(one, at, row, output):
    deviation = np.sqrt(one.variance[:, row, output] + one.noise[:, output])
    return np.mean(stats.norm.cdf((at - np.array(one.mean[:, row, output])) / deviation))


def test_an_ensemble_is_the_mixture_of_its_members():
    each = predictions()
    together = jills.ensemble(each)
    np.testing.assert_allclose(together.mean, np.mean(each.mean, axis=0))
    mean, variance, noise = (np.array(leaf) for leaf in (each.mean, each.variance, each.noise))
    draws = np.mean(variance, axis=0) + np.var(mean, axis=0) + np.mean(noise, axis=0)
    np.testing.assert_allclose(together.variance, draws)
    targets = np.random.default_rng(1).normal(size=(N, K))
    deviation = np.sqrt(np.array(each.variance) + np.array(each.noise)[:, None])
    density = np.mean(stats.norm.pdf(targets, each.mean, deviation), axis=0)
    np.testing.assert_allclose(together.log_density(jnp.asarray(targets)), np.log(density), rtol=1e-10)
    levels = [0.05, 0.5, 0.95]
    found = together.quantiles(levels)
    assert found.shape == (3, N, K)
    for place, level in enumerate(levels):
        expected: Any = optimize.brentq(
            lambda at, level=level: mixture_cdf(each, at, 1, 0) - level, -50, 50, xtol=1e-12
        )
        np.testing.assert_allclose(found[place, 1, 0], expected, rtol=1e-8)


def test_single_predictions_make_the_same_ensemble():
    each = predictions()
    singles = [jax.tree.map(lambda leaf, at=at: leaf[at], each) for at in range(MEMBERS)]
    for one, other in zip(jax.tree.leaves(jills.ensemble(each)), jax.tree.leaves(jills.ensemble(singles)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "bad", [[], [1, 2], predictions()._replace(mean=jnp.zeros((2, 3)))], ids=["none", "no", "flat"]
)
def test_what_is_no_ensemble_is_refused(bad):
    with pytest.raises(ValueError, match="ensemble"):
        jills.ensemble(bad)


def test_folds_leave_every_row_out_once():
    weights = np.array(jills.folds(jax.random.key(0), 23, 5))
    assert weights.shape == (5, 23)
    np.testing.assert_array_equal(np.sum(weights == 0, axis=0), 1)
    assert set(np.sum(weights == 0, axis=1)) <= {4, 5}
    with pytest.raises(ValueError, match="num_folds is 1"):
        jills.folds(jax.random.key(0), 23, 1)


@pytest.mark.parametrize("repeats", [1, 2])
def test_out_of_fold_takes_only_members_that_did_not_see_the_row(repeats):
    weights = np.tile(np.array(jills.folds(jax.random.key(1), 11, 3)), (repeats, 1))
    each = predictions(members=3 * repeats, n=11)
    found = jills.out_of_fold(each, jnp.asarray(weights), repeats)
    for row in range(11):
        unseen = weights[:, row] == 0
        np.testing.assert_allclose(found.mean[row], np.mean(each.mean[unseen, row], axis=0))
        np.testing.assert_allclose(found.within[row], np.mean(each.variance[unseen, row], axis=0))


def test_calibration_is_the_likeliest_factor():
    one = jills.ensemble(predictions(members=1, n=200))
    rng = np.random.default_rng(2)
    targets = np.array(one.mean) + 1.7 * np.sqrt(np.array(one.variance)) * rng.normal(size=(200, K))
    factor = jills.calibration(one, jnp.asarray(targets))
    np.testing.assert_allclose(factor, 1.7**2, rtol=0.3)

    def total(factor):
        return -float(jnp.sum(one.calibrated(jnp.full(K, factor)).log_density(jnp.asarray(targets))[:, 0]))

    best = optimize.minimize_scalar(total, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6}).x
    np.testing.assert_allclose(factor[0], best, rtol=0.15)  # the noise is one for all rows, so the two nearly agree
