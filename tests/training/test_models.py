"""A saved network predicts the same when it is loaded, without anything that it must be like."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import activations, losses

HUBER = losses.huber(0.3)
NETWORKS = {
    "tanh": (jills.Network((3, 5, 2), activations.tanh), losses.squared_error),
    "mixed": (
        jills.Network((3, 5, 7, 2), (activations.relu, activations.gelu), activations.sigmoid),
        losses.huber(0.3),
    ),
    "leaky": (jills.Network((3, 5, 2), activations.leaky_relu(0.03)), losses.softmax_cross_entropy),
    "linear": (jills.Network((3, 2)), losses.sigmoid_cross_entropy),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_loaded_predicts_the_same(name, key, dtype, tmp_path):
    network, loss = NETWORKS[name]
    params, inputs = network.init(key, dtype), jax.random.normal(key, (11, 3), dtype)
    jills.save_model(tmp_path / "net.npz", network, params, loss)
    model = jills.load_model(str(tmp_path / "net.npz"))
    assert model.network.activations == network.activations
    assert model.network.sizes == network.sizes
    assert model.loss == loss
    np.testing.assert_array_equal(model.network.predict(model.params, inputs), network.predict(params, inputs))


def test_low_precision(key, tmp_path):
    """Stored by its bits, with the name of its dtype in the text."""
    network, _ = NETWORKS["tanh"]
    params = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), network.init(key))
    jills.save_model(tmp_path / "net.npz", network, params)
    for dtype in (None, "float32"):
        loaded = jills.load_model(tmp_path / "net.npz", dtype).params
        for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
            assert one.dtype == (dtype or "bfloat16")
            np.testing.assert_array_equal(one.astype("float32"), other.astype("float32"))
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        assert json.loads(str(file["jills_model"]))["dtype"] == "bfloat16"
        assert file["weight_1"].dtype == "uint16"


def test_all_networks_of_a_sweep_are_one_file(key, tmp_path):
    network, _ = NETWORKS["tanh"]
    params = jax.vmap(network.init)(jax.random.split(key, 7))
    jills.save_model(tmp_path / "nets.npz", network, params)
    assert jills.load_model(tmp_path / "nets.npz").params[0].weight.shape == (7, 3, 5)


def test_the_file_is_readable_without_jills(key, tmp_path):
    network, loss = NETWORKS["leaky"]
    jills.save_model(tmp_path / "net.npz", network, network.init(key), loss)
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        text = json.loads(str(file["jills_model"]))
        assert file["weight_1"].shape == (3, 5)
    wanted = {"format": 1, "sizes": [3, 5, 2], "activations": [["leaky_relu", 0.03], ["identity"]]}
    assert text == wanted | {"loss": ["softmax_cross_entropy"]}


def test_float64_without_64_bits_says_what_to_do(key, tmp_path):
    network, _ = NETWORKS["tanh"]
    params = network.init(key, "float64")
    jills.save_model(tmp_path / "net.npz", network, params)
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"holds float64, but JAX has 64 bits off; give dtype='float32'"):
            jills.load_model(tmp_path / "net.npz")
        narrow = jills.load_model(tmp_path / "net.npz", "float32")
    np.testing.assert_allclose(narrow.params[0].weight, params[0].weight, rtol=1e-7)
    assert jills.load_model(tmp_path / "net.npz").params[0].weight.dtype == "float64"


def test_what_a_file_cannot_hold_is_refused(key, tmp_path):
    own = activations.Activation(jnp.sin, jnp.cos)
    network = jills.Network((3, 5, 2), own)
    with pytest.raises(ValueError, match=r"is not one of .*tanh.*: a file cannot hold functions of your own"):
        jills.save_model(tmp_path / "net.npz", network, network.init(key))
    with pytest.raises(ValueError, match=r"params have shapes .*, but a network of sizes \(3, 2\) has"):
        jills.save_model(tmp_path / "net.npz", NETWORKS["linear"][0], network.init(key))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(key, tmp_path):
    jills.save(tmp_path / "state.npz", {"a": np.ones(3)})
    with pytest.raises(ValueError, match=r"holds no model of jills.save_model; .* jills.load\(path, like\)"):
        jills.load_model(tmp_path / "state.npz")
    network, loss = NETWORKS["tanh"]
    jills.save_model(tmp_path / "net.npz", network, network.init(key), loss)
    with np.load(tmp_path / "net.npz") as file:
        entries: Any = dict(file)
    for change, message in (
        ({"format": 2}, "is of format 2, this jills reads up to 1"),
        ({"loss": ["hinge"]}, "names 'hinge'"),
    ):
        text = json.loads(str(entries["jills_model"])) | change
        np.savez(tmp_path / "later.npz", **(entries | {"jills_model": np.array(json.dumps(text))}))
        with pytest.raises(ValueError, match=message):
            jills.load_model(tmp_path / "later.npz")
