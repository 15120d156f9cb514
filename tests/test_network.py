"""The network against loops over neurons, its initial distribution, and what it refuses."""

import itertools
import pickle
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jills import Layer, Network
from jills.activations import identity, leaky_relu, relu, sigmoid, softplus, tanh
from jills.network import total_input, with_bias

REFERENCES = {
    identity: lambda x: x,
    tanh: np.tanh,
    relu: lambda x: max(x, 0.0),
    sigmoid: lambda x: 1.0 / (1.0 + np.exp(-x)),
    softplus: lambda x: np.log1p(np.exp(x)),
}


def draw_params(sizes, dtype="float64"):
    rng = np.random.default_rng(20230705)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    params = tuple(Layer(draw(below, above), draw(above)) for below, above in itertools.pairwise(sizes))
    return params, draw(11, sizes[0])


def forward_by_loops(params, functions, inputs):
    """One row, one neuron, one product at a time."""
    layers, below = [], np.asarray(inputs, float)
    for (weight, bias), function in zip(params, functions, strict=True):
        above = np.zeros((len(below), len(bias)))
        for row in range(len(below)):
            for neuron in range(len(bias)):
                total = float(bias[neuron])
                for source in range(below.shape[1]):
                    total += below[row, source] * float(weight[source, neuron])
                above[row, neuron] = function(total)
        layers.append(above)
        below = above
    return layers


@pytest.mark.parametrize(
    ("network", "functions"),
    [
        (Network((3, 5, 2), tanh, softplus), (tanh, softplus)),
        (Network((3, 5, 7, 2), (tanh, sigmoid), relu), (tanh, sigmoid, relu)),
        (Network((3, 5, 7, 2), relu), (relu, relu, identity)),
        (Network((3, 2)), (identity,)),
    ],
    ids=["one hidden", "a tuple", "one for all", "no hidden"],
)
def test_forward_equals_loops(network, functions, dtype):
    params, inputs = draw_params(network.sizes, dtype)
    activations = jax.jit(network.forward)(params, inputs)
    assert [layer.dtype for layer in activations] == [dtype] * network.num_layers
    expected = forward_by_loops(jax.device_get(params), [REFERENCES[f] for f in functions], inputs)
    rtol, atol = (1e-5, 1e-5) if dtype == "float32" else (1e-13, 1e-13)
    chex.assert_trees_all_close(jax.tree.map(np.float64, list(activations)), expected, rtol=rtol, atol=atol)
    np.testing.assert_array_equal(jax.jit(network.predict)(params, inputs), activations[-1])


def test_the_bias_is_the_last_row_of_theta():
    (layer,), below = draw_params((3, 5))
    rows = with_bias(below)
    np.testing.assert_array_equal(rows[:, -1], np.ones(11))
    theta = np.concatenate([layer.weight, layer.bias[None, :]])
    np.testing.assert_allclose(total_input(layer, below), np.asarray(rows) @ theta, rtol=1e-12)


def test_init_draws_weights_and_biases_from_the_normal_distribution(key):
    init = jax.jit(partial(Network((7, 2003, 31)).init, scale=3.0))
    for layer in init(key):
        fan_in = layer.weight.shape[0]
        for drawn in layer:
            sample = np.asarray(drawn, float).ravel() * np.sqrt(fan_in) / 3.0
            assert scipy.stats.kstest(sample, "norm").pvalue > 1e-3
            # Five standard errors of the standard deviation: tight for weights, and wide for 31 biases.
            assert abs(sample.std() - 1.0) < 5.0 / np.sqrt(2.0 * sample.size)


def test_init_depends_on_key_layer_and_scale_alone(key):
    init = jax.jit(lambda key, scale: Network((3, 3, 3), tanh).init(key, scale=scale))
    first, second = init(key, 1.0)
    chex.assert_trees_all_equal(init(key, 1.0), (first, second))
    other = init(jax.random.key(1), 1.0)[0]
    for one, another in ((first, second), (first, other)):
        assert not np.any(np.asarray(one.weight) == np.asarray(another.weight))
        assert not np.any(np.asarray(one.bias) == np.asarray(another.bias))
    half = jax.tree.map(lambda leaf: 0.5 * np.asarray(leaf), (first, second))
    chex.assert_trees_all_close(init(key, 0.5), half, rtol=1e-15)


@pytest.mark.parametrize("sizes", [(3, 1), (2, 7, 1), (1, 2, 30, 3)])
def test_init_draws_each_layer_from_a_key_of_its_own(key, sizes):
    params = Network(sizes, tanh).init(key)
    for at, layer in enumerate(params):
        own = jax.random.normal(jax.random.split(key, len(params))[at], (sizes[at] + 1, sizes[at + 1]))
        both = np.vstack([layer.weight, layer.bias])
        np.testing.assert_allclose(both, own / np.sqrt(sizes[at]), rtol=1e-14)


def test_init_takes_a_dtype_or_the_default_of_jax(key, dtype):
    network = Network((3, 2))
    for kind in (dtype, np.dtype(dtype), jnp.dtype(dtype).type):
        shapes = jax.eval_shape(partial(network.init, dtype=kind), key)
        assert [leaf.dtype for leaf in jax.tree.leaves(shapes)] == [dtype] * 2
    assert jax.eval_shape(network.init, key)[0].weight.dtype == "float64"
    with jax.enable_x64(False):
        assert jax.eval_shape(network.init, key)[0].weight.dtype == "float32"


def test_init_can_be_vmapped_over_keys(key):
    params = jax.eval_shape(jax.vmap(Network((3, 5, 2), tanh).init), jax.random.split(key, 7))
    assert all(isinstance(layer, Layer) for layer in params)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(7, 3, 5), (7, 5), (7, 5, 2), (7, 2)]


def test_activations_are_one_for_each_layer():
    assert Network((3, 5, 7, 2), tanh).activations == (tanh, tanh, identity)
    assert Network((3, 5, 7, 2), [relu, tanh], sigmoid).activations == (relu, tanh, sigmoid)  # pyright: ignore[reportArgumentType] (lists are taken too)
    assert Network((3, 2), output=sigmoid).activations == (sigmoid,)
    assert Network((3, 2), ()).activations == (identity,)


def test_num_params_counts_weights_and_biases(key):
    network = Network((3, 5, 7, 2))
    assert network.num_layers == 3
    assert network.num_params == (3 + 1) * 5 + (5 + 1) * 7 + (7 + 1) * 2
    assert network.num_params == sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, key)))


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 2), (3, -5, 2), (3, 5.0, 2), (2.5, 1), (3, None), ("3", 2)])
def test_sizes_that_are_refused(sizes):
    with pytest.raises(ValueError, match=r"sizes are .*, but must be at least two positive integers: inputs, hidden"):
        Network(sizes)


@pytest.mark.parametrize(
    ("sizes", "activation", "match"),
    [
        ((3, 5, 7, 2), (tanh,), "1 activations for 2 hidden layers; give one for all of them or one for each"),
        ((3, 5, 2), (tanh, tanh), "2 activations for 1 hidden layers"),
        ((3, 2), (tanh,), "1 activations for 0 hidden layers"),
        ((3, 5, 2), (), "0 activations for 1 hidden layers"),
        ((3, 5, 2), jnp.tanh, r"tanh.* is not a jills\.activations\.Activation; take one from"),
        ((3, 5, 2), "tanh", "'tanh' is not a jills"),
        ((3, 5, 7, 2), (tanh, None), "None is not a jills"),
    ],
)
def test_activations_that_are_refused(sizes, activation, match):
    with pytest.raises(ValueError, match=match):
        Network(sizes, activation)


def test_an_output_that_is_no_activation_is_refused():
    with pytest.raises(ValueError, match=r"is not a jills\.activations\.Activation"):
        Network((3, 2), output=jnp.tanh)  # pyright: ignore[reportArgumentType] (that is the point)


def test_networks_compare_hash_and_pickle_by_value():
    network = Network((3, 5, 2), leaky_relu(0.1), sigmoid)
    same = Network(np.array([3, 5, 2]), leaky_relu(0.1), sigmoid)  # pyright: ignore[reportArgumentType] (any sequence)
    assert same == network
    assert hash(same) == hash(network)
    assert all(type(size) is int for size in same.sizes)
    assert pickle.loads(pickle.dumps(network)) == network
    others = [Network((3, 7, 2), leaky_relu(0.1), sigmoid), Network((3, 5, 2), leaky_relu(0.2), sigmoid)]
    others.append(Network((3, 5, 2), leaky_relu(0.1)))
    assert network not in others


def test_equal_networks_share_what_is_compiled():
    traces = []

    def predict(network, params, inputs):
        traces.append(network)
        return network.predict(params, inputs)

    compiled = jax.jit(predict, static_argnums=0)
    networks = [Network((3, 2), output=leaky_relu(slope)) for slope in (0.1, 0.1, 0.2)]
    for network in networks:
        compiled(network, *draw_params((3, 2)))
    assert traces == networks[1:]
