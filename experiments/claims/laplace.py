"""A peer: MAP networks whose prior precision the marginal likelihood of a Laplace approximation chooses, by laplax.

laplax approximates the posterior of networks that are already trained. So Gauss–Newton trains an ensemble with each of
the weight decays of the config, and the one with the largest mean marginal likelihood is taken; its networks predict
with the variance of the linearised model. For squared error with the decay δ on N rows, in terms of noise σ² and prior
precision α,

    loss + ½ δ ‖θ‖² = 2 σ² / N · (Σ (f − y)² / 2 σ² + ½ α ‖θ‖²),   α = N δ / 2 σ²,

and with α σ² given, the marginal likelihood is largest for σ² = (Σ (f − y)² + α σ² ‖θ‖²) / N, which is taken.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jills
from experiments.claims.fitting import Split, first, network_of, newton
from experiments.claims.regressors import Config, Told, gaussian
from experiments.data import MissingData


def by_laplax(config: Config, split: Split) -> Told:
    """The mean of the networks, with their spread, the variance of their functions, and the noise.

    Raises:
        MissingData: laplax is not installed.
    """
    if find_spec("laplax") is None:
        raise MissingData("the method laplace comes with laplax; get it with: python -m pip install laplax")
    network = network_of(config, split)
    rows = split.inputs, split.targets, split.test_inputs
    trained = newton(config, split, config.weight_decay, jills.Batch(split.inputs, split.targets)).state.params
    likelihoods, told = [], []
    for place, decay in enumerate(config.weight_decay):
        ratio = 0.5 * len(split.inputs) * decay
        likelihood, *rest = map(
            np.asarray, laplace(network, first(trained, place), jnp.asarray(ratio, config.dtype), *rows)
        )
        likelihoods.append(np.mean(likelihood))
        told.append(rest)
    mean, variance = told[int(np.argmax(likelihoods))]
    return gaussian(np.mean(mean, axis=0), np.mean(variance, axis=0) + np.var(mean, axis=0), split)


@partial(jax.jit, static_argnums=0)
def laplace(network, params, ratio, inputs, targets, test_inputs):
    """Of networks `[M]`, one after the other: marginal likelihood `(M,)`, mean and variance of test rows `(M, n)`."""
    return jax.lax.map(lambda one: _one(network, one, ratio, inputs, targets, test_inputs), params)


def _one(network, params, ratio, inputs, targets, test_inputs) -> Any:
    # In the extra `benchmark` only.
    from laplax import api  # pyright: ignore[reportMissingImports]
    from laplax.curv.cov import set_posterior_fn  # pyright: ignore[reportMissingImports]
    from laplax.curv.full import create_full_curvature  # pyright: ignore[reportMissingImports]
    from laplax.enums import LossFn  # pyright: ignore[reportMissingImports]
    from laplax.eval.likelihood import marginal_log_likelihood  # pyright: ignore[reportMissingImports]
    from laplax.eval.pushforward import lin_pred_var, lin_setup, set_lin_pushforward  # pyright: ignore[reportMissingImports]
    from loguru import logger  # pyright: ignore[reportMissingImports]

    logger.disable("laplax")
    squares = jnp.sum(jnp.square(network.predict(params, inputs) - targets))
    norm = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    noise = (squares + ratio * norm) / inputs.shape[0]

    def model(input, params):  # laplax gives both by name
        # In units of the noise, since laplax takes noise of one.
        return network.predict(params, input[None])[0] / jnp.sqrt(noise)

    data = {"input": inputs, "target": targets / jnp.sqrt(noise)}
    prior = {"prior_prec": ratio / noise}
    # Its sum of squares is twice the negative log likelihood: half its curvature is that of a likelihood. Its own
    # `laplace` would do these three steps, but waits for arrays, which a compiled program does not have.
    product = api.GGN(model, params, data, loss_fn=LossFn.MSE, factor=0.5)
    curvature = create_full_curvature(product, params)
    posterior = set_posterior_fn("full", curv_estimate=curvature, layout=params)
    likelihood = marginal_log_likelihood(
        curvature, prior, data, model, params, LossFn.MSE, "full", vmap_over_data=True
    ) - 0.5 * inputs.shape[0] * jnp.log(noise)
    push = set_lin_pushforward(model, params, posterior, prior, pushforward_fns=[lin_setup, lin_pred_var])
    variance = jax.vmap(lambda row: push(row)["pred_var"])(test_inputs)
    mean = network.predict(params, test_inputs)[:, 0]
    return likelihood, mean, noise * (variance.reshape(-1) + 1.0)
