"""Saved and loaded states are the same to the last bit, and a sweep that goes on from one is as if never stopped."""

import functools
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import Batch, Layer, Network, activations

NETWORK = Network((3, 5, 2), activations.tanh)
ALGORITHMS = {"ills": jills.ills.build(NETWORK, solver=jills.solvers.qr), "adam": jills.adam.build(NETWORK)}
HPARAMS = {
    "ills": jills.ills.Hparams(jnp.array([0.2, 0.7]), 1e-6),
    "adam": jills.adam.Hparams(jnp.array([0.02, 0.07])),
}
every = pytest.mark.parametrize("name", ALGORITHMS)


def problem(key, dtype="float64"):
    inputs = jax.random.uniform(key, (11, 3), dtype, -1.0, 1.0)
    targets = jnp.stack([jnp.sin(inputs.sum(axis=1)), inputs[:, 0] * inputs[:, 1]], axis=1)
    return NETWORK.init(jax.random.fold_in(key, 1), dtype), Batch(inputs, targets)


# One function for each dtype, so that sweeps share what is compiled.
PROBLEMS = {dtype: functools.partial(problem, dtype=dtype) for dtype in ("float32", "float64")}


def blank(name, dtype="float64"):
    """The shapes and dtypes of a state; nothing is computed."""
    return jax.eval_shape(lambda key: ALGORITHMS[name].init(*problem(key, dtype)), jax.random.key(0))


def made_up(shapes):
    """A state full of numbers that are easily lost: NaN, infinities, -0, the smallest and the largest."""

    def fill(place, leaf):
        values = np.random.default_rng(len(place)).standard_normal(leaf.shape)
        if np.issubdtype(leaf.dtype, np.integer):
            return jnp.asarray(np.full(leaf.shape, np.iinfo(leaf.dtype).max, leaf.dtype))
        limits = np.finfo(leaf.dtype)
        odd = [np.nan, np.inf, -np.inf, -0.0, limits.smallest_subnormal, limits.max, limits.eps][: values.size]
        values.ravel()[: len(odd)] = odd
        return jnp.asarray(values.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(fill, shapes)


def bits(tree):
    return [(leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


@every
def test_what_is_loaded_is_what_was_saved(name, dtype, tmp_path):
    shapes = blank(name, dtype)
    state = made_up(shapes)
    assert state.params[0].weight.dtype == dtype
    jills.save(tmp_path / "state.npz", state)
    loaded = jills.load(str(tmp_path / "state.npz"), shapes)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert isinstance(loaded.params[0], Layer)
    assert isinstance(loaded.loss, jax.Array)
    assert bits(loaded) == bits(state)
    assert bits(jills.load(tmp_path / "state.npz", state)) == bits(state)


def test_the_file_is_one_that_numpy_reads(tmp_path):
    state = made_up(blank("ills"))
    jills.save(str(tmp_path / "state.npz"), state)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file[".params[1].bias"], state.params[1].bias)
        assert len(file.files) == len(jax.tree.leaves(state))


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "state.npz"
    jills.save(path, {"a": np.zeros(3)})
    jills.save(path, {"a": np.ones(5)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.npz"]
    np.testing.assert_array_equal(jills.load(path, {"a": np.ones(5)})["a"], np.ones(5))


def test_a_failed_save_leaves_the_old_file_and_no_part_of_a_new_one(tmp_path):
    class Unwilling:
        shape, dtype = (), np.dtype(float)

        def __array__(self, *args, **kwargs):
            raise RuntimeError("no values here")

    path = tmp_path / "state.npz"
    jills.save(path, {"a": np.ones(3)})
    with pytest.raises(RuntimeError, match="no values here"):
        jills.save(path, {"a": np.zeros(3), "b": Unwilling()})
    np.testing.assert_array_equal(jills.load(path, {"a": np.zeros(3)})["a"], np.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.npz"]


def test_leading_axes_of_a_sweep_may_be_added(tmp_path):
    shapes = blank("ills")
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, 3, *leaf.shape), leaf.dtype), shapes)
    state = made_up(wide)
    jills.save(tmp_path / "state.npz", state)
    assert bits(jills.load(tmp_path / "state.npz", shapes)) == bits(state)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros((3, 5))}, "holds another structure: ['b'] stand on one side only"),
        ({"a": np.zeros((3, 5)), "b": np.zeros(2), "c": 0}, "holds another structure: ['c'] stand on one side only"),
        ((np.zeros((3, 5)), np.zeros(2)), "holds another structure: "),
        ({"a": np.zeros((3, 5), "float32"), "b": np.zeros(2)}, "['a'] is float64[3, 5], but float32[3, 5] is expected"),
        ({"a": np.zeros((3, 5), "int64"), "b": np.zeros(2)}, "['a'] is float64[3, 5], but int64[3, 5] is expected"),
        ({"a": np.zeros((5, 3)), "b": np.zeros(2)}, "['a'] is float64[3, 5], but float64[5, 3] is expected"),
        ({"a": np.zeros((3, 5)), "b": np.zeros(7)}, "['b'] is float64[2], but float64[7] is expected"),
        ({"a": np.zeros((3, 5)), "b": np.zeros((2, 2))}, "['b'] is float64[2], but float64[2, 2] is expected"),
    ],
)
def test_files_that_do_not_fit_are_refused(like, message, tmp_path):
    path = tmp_path / "state.npz"
    jills.save(path, {"a": np.zeros((3, 5)), "b": np.zeros(2)})
    with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(message)):
        jills.load(path, like)


def test_the_state_of_another_network_or_dtype_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    jills.save(path, made_up(blank("ills")))
    with pytest.raises(ValueError, match=r"float64\[3, 5\], but float32\[3, 5\] is expected"):
        jills.load(path, blank("ills", "float32"))
    with pytest.raises(ValueError, match="holds another structure"):
        jills.load(path, blank("adam"))


@pytest.mark.parametrize(("name", "dtype"), [("ills", "float64"), ("adam", "float32")])
def test_a_sweep_that_goes_on_is_one_that_never_stopped(name, dtype, tmp_path):
    def sweep(num_steps, **options):
        keys = jax.random.split(jax.random.key(5), 3)
        return jills.sweep(ALGORITHMS[name], HPARAMS[name], PROBLEMS[dtype], keys, num_steps, chunk_steps=3, **options)

    whole, first = sweep(10), sweep(4)
    jills.save(tmp_path / "state.npz", first.state)
    second = sweep(6, state=jills.load(tmp_path / "state.npz", blank(name, dtype)))
    assert whole.state.step.tolist() == [[10] * 3] * 2
    assert bits(second.state) == bits(whole.state)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), first.info, second.info)
    assert joined.loss.shape == (2, 3, 10)
    assert bits(joined) == bits(whole.info)
    assert bits(first.state) != bits(whole.state)


def test_many_writers_of_one_file_leave_it_whole(tmp_path):
    path = tmp_path / "new" / "state.npz"
    values = [np.full(10_000, number) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: jills.save(path, {"a": value}), values))
    loaded = jills.load(path, {"a": np.zeros(10_000, int)})["a"]
    assert (loaded == loaded[0]).all()
    assert [entry.name for entry in path.parent.iterdir()] == ["state.npz"]
