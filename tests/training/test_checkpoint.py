"""Saved and loaded states are the same to the last bit, and a sweep that goes on from one is as if never stopped."""

import functools
import json
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import CASES
from contract import problem as contract_problem

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
        assert len(file.files) == 1 + len(jax.tree.leaves(state))
        assert json.loads(str(file["jills_tree"]))["format"] == 2


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
        (
            {"a": np.zeros((3, 5), "float32"), "b": np.zeros(2)},
            "['a'] is float64[3, 5], but float32[3, 5] is expected; give dtype='float32'",
        ),
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


def same(one, other):
    """Trees with the same classes, dtypes and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert isinstance(left, type(right))
        if isinstance(left, jax.Array) and jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            assert left.dtype == right.dtype
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        if isinstance(left, Exception):
            left, right = str(left), str(right)
        assert np.asarray(left).dtype == np.asarray(right).dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
        assert np.shape(left) == np.shape(right)


class Own(NamedTuple):
    value: Any
    more: Any = None


TREES = {
    "low precision": [
        jnp.arange(6.0).astype(kind).reshape(2, 3)
        for kind in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
    ],
    "one of low precision": jnp.asarray(1.5, "bfloat16"),
    "keys": {"new": jax.random.split(jax.random.key(3), 5), "rbg": jax.random.key(3, impl="rbg"), "old": jnp.zeros(2)},
    "numbers": (True, 3, -0.0, 1j, "a text", None, [], (), {}, float("nan")),
    "numpy": {"array": np.arange(3), "scalar": np.float32(0.1), "odd": np.arange(3, dtype=">i2"), "none": np.zeros(0)},
    "structure": {"b": [1, (2, {3: 4.0})], "a": Own(Own(1)), "c": Batch(jnp.zeros(2), jnp.ones(2))},
    "one array": jnp.arange(3.0),
    "nothing": None,
    "optax": optax.chain(optax.clip(1.0), optax.adamw(0.1)).init({"a": jnp.ones(3)}),
    "diagnosis": jills.Diagnosis(np.array(["converged", "stalled"]), np.array(["", "for ρ = 1"])),
    "names": {"a/b": 1, "jills_tree": 2, "a'b.c[0]": 3, "": 4},
}


@pytest.mark.parametrize("name", TREES)
def test_a_file_tells_what_is_in_it(name, tmp_path):
    tree = TREES[name]
    jills.save(tmp_path / "tree.npz", tree)
    same(jills.load(tmp_path / "tree.npz"), tree)
    same(jills.load(tmp_path / "tree.npz", tree), tree)
    with np.load(tmp_path / "tree.npz", allow_pickle=False) as file:
        assert all(file[entry].dtype.isbuiltin == 1 or file[entry].dtype.kind in "Ui" for entry in file.files)


@pytest.mark.parametrize("name", CASES)
def test_the_state_and_info_of_every_algorithm(name, tmp_path):
    case = CASES[name]
    metrics = lambda params: {"norm": optax.tree.norm(params), "half": params[0].bias.astype("bfloat16")}  # noqa: E731
    train = lambda key: jills.run(case.algorithm, case.hparams, *contract_problem(key), 3, metrics=metrics)  # noqa: E731
    shapes = jax.eval_shape(train, jax.random.key(0))
    tree = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    jills.save(tmp_path / "tree.npz", tree)
    same(jills.load(tmp_path / "tree.npz"), tree)
    same(jills.load(tmp_path / "tree.npz", shapes), tree)


def test_the_whole_result_of_a_sweep(tmp_path):
    keys = jax.random.split(jax.random.key(5), 3)
    result = jills.sweep(ALGORITHMS["adam"], HPARAMS["adam"], PROBLEMS["float32"], keys, 4, 3)
    jills.save(tmp_path / "sweep.npz", result)
    loaded = jills.load(tmp_path / "sweep.npz")
    same(loaded, result)
    assert isinstance(loaded, jills.SweepResult)
    assert type(loaded.num_steps) is int
    assert type(loaded.interrupted) is bool
    assert loaded.error is None
    assert isinstance(loaded.info.loss, np.ndarray)
    np.testing.assert_array_equal(loaded.keys, jax.random.key_data(keys))
    same(pickle.loads(pickle.dumps(result)), result)
    np.testing.assert_array_equal(loaded.hparams.learning_rate, HPARAMS["adam"].learning_rate.astype("float32"))
    assert "network.sizes = (3, 5, 2)" in loaded.algorithm.splitlines()
    go_on = functools.partial(jills.sweep, ALGORITHMS["adam"], HPARAMS["adam"], PROBLEMS["float32"])
    assert bits(go_on(keys, 4, 3, state=loaded).state) == bits(go_on(keys, 4, 3, state=result).state)
    with pytest.raises(ValueError, match="made with other keys"):
        go_on(keys[::-1], 4, 3, state=loaded)


def test_a_result_with_an_error_and_one_like_another(tmp_path):
    result = made_up_result(2, 3, 5)._replace(error=RuntimeError("pruned"), interrupted=True)
    jills.save(tmp_path / "sweep.npz", result)
    assert str(jills.load(tmp_path / "sweep.npz").error) == "RuntimeError('pruned')"
    other = made_up_result(7, 1, 11)
    with pytest.raises(ValueError, match=r"holds another structure: .error stand on one side only"):
        jills.load(tmp_path / "sweep.npz", other)
    jills.save(tmp_path / "sweep.npz", result._replace(error=None))
    same(jills.load(tmp_path / "sweep.npz", other), result._replace(error=None))
    narrow = other._replace(info=other.info._replace(loss=np.zeros(5)))
    with pytest.raises(ValueError, match=r".info.loss is float64\[2, 3, 5\], but float64\[5\] is expected"):
        jills.load(tmp_path / "sweep.npz", narrow)


def made_up_result(*lead):
    wide = jax.tree.map(lambda leaf: jnp.zeros((*lead[:2], *leaf.shape), leaf.dtype), blank("adam"))
    zeros: Any = np.zeros(lead)
    info = jills.Info(zeros, zeros, zeros > 0)
    return jills.SweepResult(wide, info, lead[2], False, 1.5, 2.5)


def test_dtype_casts_floating_numbers_only(tmp_path):
    tree = {"a": jnp.asarray([0.1, 1e300]), "n": jnp.arange(3), "b": np.ones(2, "float16"), "x": 0.1}
    jills.save(tmp_path / "tree.npz", tree)
    with np.errstate(over="ignore"):
        loaded = jills.load(tmp_path / "tree.npz", dtype="float32")
    assert [loaded[name].dtype for name in "anb"] == ["float32", "int64", "float32"]
    np.testing.assert_array_equal(loaded["a"], np.array([0.1, np.inf], "float32"))
    assert loaded["x"] == 0.1
    with pytest.raises(ValueError, match="dtype is int32, but must be one of floating numbers"):
        jills.load(tmp_path / "tree.npz", dtype="int32")


def test_a_file_of_float32_where_float64_is_expected_and_the_other_way_round(tmp_path):
    path = tmp_path / "state.npz"
    jills.save(path, made_up(blank("ills", "float32")))
    with pytest.raises(ValueError, match=r"but float64.* is expected; give dtype='float64'"):
        jills.load(path, blank("ills"))
    assert jills.load(path, blank("ills"), "float64").loss.dtype == "float64"
    jills.save(path, {"loss": jnp.ones(2), "count": jnp.arange(2)})
    with jax.enable_x64(False):
        for like in (None, {"loss": np.ones(2, "float32"), "count": np.ones(2, "int32")}):
            with pytest.raises(ValueError, match="holds float64, but JAX has 64 bits off; give dtype='float32'"):
                jills.load(path, like)
            loaded = jills.load(path, like, "float32")
            assert [leaf.dtype for leaf in jax.tree.leaves(loaded)] == ["int32", "float32"]
        with pytest.raises(ValueError, match="dtype is float64, but JAX has 64 bits off"):
            jills.load(path, dtype="float64")
        jills.save(path, {"a": np.array([2**40])})
        assert jills.load(path)["a"][0] == 2**40
    jills.save(path, {"a": jnp.array([2**40])})
    with jax.enable_x64(False), pytest.raises(ValueError, match="holds int64, but JAX has 64 bits off"):
        jills.load(path)


def test_files_of_earlier_versions(tmp_path):
    """They have no text that tells the structure."""
    state = made_up(blank("adam"))
    places, _ = jax.tree_util.tree_flatten_with_path(state)
    entries: Any = {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in places}
    np.savez(tmp_path / "old.npz", **entries)
    same(jills.load(tmp_path / "old.npz", blank("adam")), state)
    with pytest.raises(ValueError, match="holds no structure; give like="):
        jills.load(tmp_path / "old.npz")


def test_files_of_later_versions_and_other_files(tmp_path):
    path = tmp_path / "tree.npz"
    text = {"format": 3, "tree": None}
    np.savez(path, jills_tree=np.array(json.dumps(text)))
    with pytest.raises(ValueError, match="is of format 3, this jills reads up to 2; update jills"):
        jills.load(path)
    jills.save_model(path, NETWORK, NETWORK.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"holds a model: jills.load_model\(path\)"):
        jills.load(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-30], b"\x80\x04pickle"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path)) + " is no whole file of jills.save"):
            jills.load(path)
        with pytest.raises(ValueError, match=re.escape(str(path)) + " is no whole file of jills.save"):
            jills.load_model(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="it holds a single array"):
        jills.load(path)
    with pytest.raises(FileNotFoundError):
        jills.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "leaf", [object(), np.array([object()]), np.ma.masked_array([1.0], [True]), {1, 2}, 10**30, abs]
)
def test_what_a_file_cannot_hold_is_refused(leaf, tmp_path):
    with pytest.raises(ValueError, match=r"\['a'\] is a .*; a file holds arrays of numbers, keys"):
        jills.save(tmp_path / "tree.npz", {"a": leaf})
    assert list(tmp_path.iterdir()) == []


def test_classes_that_a_file_names_are_looked_up_and_never_imported(tmp_path):
    class Inside(NamedTuple):
        value: Any

    path = tmp_path / "tree.npz"
    jills.save(path, Inside(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"holds a .*Inside with the fields value, and no module .*; .* give like="):
        jills.load(path)
    same(jills.load(path, Inside(jnp.zeros(2))), Inside(jnp.ones(2)))
    jills.save(path, jax.tree_util.Partial(abs, jnp.ones(2)))
    with pytest.raises(ValueError, match=r"holds a jax.tree_util.Partial, which is no NamedTuple"):
        jills.load(path)
    assert "wave" not in sys.modules  # of the standard library; imported by nobody
    names = ("wave._wave_params", "os.stat_result", "builtins.tuple", "ast.Expr", "subprocess.Popen", "jills.run", "x")
    for name in names:
        text = {"format": 1, "tree": {"named": name, "fields": {"value": None}}}
        np.savez(path, jills_tree=np.array(json.dumps(text)))
        with pytest.raises(ValueError, match=f"holds a {name} with the fields value"):
            jills.load(path)
    assert "wave" not in sys.modules


def test_fields_that_a_class_has_got_since_take_their_defaults(tmp_path):
    text = {"format": 1, "tree": {"named": f"{__name__}.Own", "fields": {"value": {"leaf": ["a", "int", ""]}}}}
    np.savez(tmp_path / "tree.npz", jills_tree=np.array(json.dumps(text)), a=np.array(3))
    assert jills.load(tmp_path / "tree.npz") == Own(3)
