"""Tiers of compilation: which is taken, what they share, and the cache on disk."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jills
from jills import compilation

CONFIG: Any = jax.config
NETWORK = jills.Network((3, 5, 2), jills.activations.tanh)
ALGORITHM = jills.gauss_newton.build(NETWORK)
RNG = np.random.default_rng(0)
BATCH = jills.Batch(RNG.normal(size=(11, 3)), RNG.normal(size=(11, 2)))


@pytest.fixture
def no_cache():
    """JAX's persistent cache, which the suite has on, decides for the full tier."""
    before = CONFIG.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def trained(**options):
    params = NETWORK.init(jax.random.key(0), jnp.float64)
    return jills.run(ALGORITHM, ALGORITHM.defaults, params, BATCH, 3, **options)


def swept(**options):
    keys = jax.random.split(jax.random.key(0), 3)
    start = lambda key: NETWORK.init(key, jnp.float64)  # noqa: E731 used at once
    return jills.sweep(ALGORITHM, ALGORITHM.defaults, start, keys, 3, batches=BATCH, **options)


@pytest.mark.parametrize("train", [trained, swept])
def test_tiers_agree_to_rounding_and_equal_calls_bit_for_bit(train):
    results = {tier: [train(compile=tier) for _ in range(2)] for tier in compilation.TIERS}
    losses = {tier: [np.asarray(jax.tree.leaves(one)[0]) for one in pair] for tier, pair in results.items()}
    for pair in losses.values():
        np.testing.assert_array_equal(pair[0], pair[1])
    np.testing.assert_allclose(losses["fast"][0], losses["full"][0], rtol=1e-6)
    automatic = losses["auto"][0].tobytes()
    assert automatic in (losses["fast"][0].tobytes(), losses["full"][0].tobytes())


@pytest.mark.parametrize("train", [trained, swept])
def test_another_word_is_refused(train):
    with pytest.raises(ValueError, match="compile is 'quick', but must be 'fast'"):
        train(compile="quick")
    with pytest.raises(ValueError, match="must be 'fast' or 'full'"):
        jills.compiler_options("auto")


def test_inside_of_another_program_the_word_means_nothing():
    inside = jax.jit(lambda: trained(compile="fast")[0].params)()
    chex.assert_trees_all_close(inside, trained(compile="full")[0].params, rtol=1e-6)
    mapped = jax.vmap(lambda decay: trained_with(decay).params)(jnp.zeros(2))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], mapped), inside, rtol=1e-6)


def trained_with(decay):
    params = NETWORK.init(jax.random.key(0), jnp.float64)
    return jills.run(ALGORITHM, jills.gauss_newton.Hparams(weight_decay=decay), params, BATCH, 3)[0]


def test_options_are_for_programs_of_ones_own():
    options = jills.compiler_options("fast")
    assert set(options) == set(compilation.FAST)
    assert jills.compiler_options("full") == {}
    assert jax.jit(lambda x: 2 * x, compiler_options=options)(3.0) == 6.0


def test_an_unknown_option_is_left_out_with_one_warning(monkeypatch):
    monkeypatch.setattr(compilation, "_UNKNOWN", set())
    monkeypatch.setattr(compilation, "FAST", compilation.FAST | {"xla_of_another_age": 1})
    with pytest.warns(UserWarning, match="xla_of_another_age"):
        state, _ = trained(compile="fast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = swept(compile="fast")
    assert np.isfinite(state.loss)
    assert np.isfinite(again.state.loss).all()


def test_other_errors_of_the_compiler_are_raised():
    def function(options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compilation.attempt(function, {"xla_cpu_use_fusion_emitters": False})


def test_arithmetic_counts_what_loops_repeat_and_spares_what_libraries_do():
    def function(x):  # (7, 7)
        x = jax.lax.fori_loop(0, 11, lambda _, y: y * 2.0, x)  # a scan, beside its counter
        x = x @ x  # a product
        return jax.lax.cond(x[0, 0] > 0, jnp.sin, lambda y: y, x)  # the larger branch

    entries, equations = compilation.arithmetic(jax.make_jaxpr(function)(jnp.ones((7, 7))).jaxpr)
    assert 12 * 49 <= entries < 13 * 49 + 20 + 2 * 11
    assert 4 <= equations < 20


def test_auto_takes_the_fast_tier_for_short_runs_and_the_full_one_for_long_ones(no_cache):
    options = {"xla_cpu_use_fusion_emitters": False}
    jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.cos(x))(jnp.ones(1009)).jaxpr
    long = compilation.MOST_TERMS + 1
    assert compilation.options_of(compilation.tier_of(jaxpr, 10), options, long) == compilation.FAST
    assert compilation.options_of(compilation.tier_of(jaxpr, 1e9), options, long) == options
    assert compilation.options_of("full", options, long) == options


def test_auto_takes_the_full_tier_where_programs_are_kept(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jaxpr = jax.make_jaxpr(jnp.sin)(1.0).jaxpr
    assert compilation.tier_of(jaxpr, 1) == "full"


def test_the_longest_sum_of_a_program():
    """Inside of loops, of dot products, and of sums of sums, which XLA makes one of; maxima and matrices are none."""
    terms = lambda function, *shapes: compilation.most_terms(jax.make_jaxpr(function)(*map(np.ones, shapes)).jaxpr)  # noqa: E731
    assert terms(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + jnp.sum(x), jnp.max(x)), (7, 13)) == 7 * 13
    assert terms(lambda x: jnp.sum(3.0 * jnp.sum(x, axis=1, keepdims=True)), (7, 13)) == 7 * 13
    assert terms(lambda x: jnp.sum(jnp.square(1.0 - jnp.sum(x, axis=1))), (7, 13)) == 13
    assert terms(lambda x: jax.vmap(jnp.sum)(x), (7, 13)) == 13
    assert terms(lambda x, y: (jnp.vdot(x, x), y.T @ y), (5,), (7, 13)) == 5
    assert terms(lambda x: (x.T @ x, jnp.max(x)), (7, 13)) == 0
    assert compilation.options_of("full", {}, compilation.MOST_TERMS) == compilation.SHORT_SUMS
    assert compilation.options_of("full", {}, compilation.MOST_TERMS + 1) == {}


@pytest.mark.parametrize("tier", [{}, compilation.FAST], ids=["full", "fast"])
def test_this_xla_knows_what_short_sums_leave_out_and_they_stay_exact_enough(tier):
    """A name that XLA does not know would be ignored without a word."""
    values = np.random.default_rng(0).gamma(2.0, size=1024).astype(np.float32)
    lowered = jax.jit(lambda x: jnp.sum(x * x)).lower(values)
    tree, short = (lowered.compile(compiler_options=tier | more) for more in ({}, compilation.SHORT_SUMS))
    assert "reduce-window" in str(tree.as_text())
    assert "reduce-window" not in str(short.as_text())
    np.testing.assert_allclose(short(values), np.sum(values.astype(np.float64) ** 2), rtol=32 * 2.0**-23)


def test_programs_that_draw_keep_to_parts_of_one_kernel():
    """They must draw the same in either tier; those that are given everything compile in fewer parts."""
    short = compilation.SHORT_SUMS
    assert compilation.options_of("fast", {}, 0) == compilation.FAST | short
    assert compilation.options_of("fast", {}, 0, draws=False) == compilation.FAST | compilation.FEW_PARTS | short
    assert compilation.options_of("full", {"a": 1}, 0, draws=False) == {"a": 1} | short
    known: dict = compilation.FEW_PARTS
    jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=known)


STARTS = """
import chex
import jax
import jills

network = jills.Network((8, 50, 1), jills.activations.tanh)
drawn = network.init(jax.random.key(0))
for tier in ("fast", "full"):
    inside = jax.jit(network.init, compiler_options=jills.compiler_options(tier))
    chex.assert_trees_all_equal(drawn, inside(jax.random.key(0)))
"""


def test_a_start_is_the_same_in_either_tier_with_xla_as_users_have_it():
    """Here a program has one part, there one for each kernel."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("XLA", "JAX"))}
    subprocess.run([sys.executable, "-c", STARTS], check=True, env=plain, timeout=120)


def test_a_start_is_one_program_and_the_same_bits_inside_of_another():
    drawn = NETWORK.init(jax.random.key(3))
    inside = jax.jit(NETWORK.init)(jax.random.key(3))
    mapped = jax.vmap(NETWORK.init)(jax.random.split(jax.random.key(0), 2))
    chex.assert_trees_all_equal(drawn, inside)
    chex.assert_trees_all_equal(
        NETWORK.init(jax.random.split(jax.random.key(0), 2)[1]), jax.tree.map(lambda leaf: leaf[1], mapped)
    )


SCRIPT = """
import sys
import jax
import jax.monitoring
import jills

found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name.rsplit("/", 1)[-1]))
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))  # the cache is asked for after a first program
folder = jills.enable_compilation_cache(sys.argv[1])
network = jills.Network((3, 5, 2), jills.activations.tanh)
algorithm = jills.gauss_newton.build(network)
params = network.init(jax.random.key(0))
batch = jills.Batch(jax.numpy.ones((11, 3)), jax.numpy.ones((11, 2)))
jills.run(algorithm, algorithm.defaults, params, batch, 2)
print(found.count("cache_hits"), found.count("cache_misses"), folder)
"""


def start(path, **variables):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("XLA", "JAX"))}
    given = [sys.executable, "-W", "error", "-c", SCRIPT, str(path)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain | variables)


def told(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    hits, misses, folder = out.split(maxsplit=2)
    return int(hits), int(misses), Path(folder.strip())


def test_processes_share_a_cache_also_at_once_and_with_other_flags(tmp_path):
    first = [start(tmp_path), start(tmp_path)]
    (_, misses, folder), (_, others, _) = map(told, first)
    assert misses + others > 0
    broken = folder / "of-a-process-that-was-killed-cache"
    broken.write_bytes(b"half")
    hits, misses, _ = told(start(tmp_path))
    assert hits > 0
    assert misses == 0
    assert not broken.exists()
    hits, misses, _ = told(start(tmp_path, XLA_FLAGS="--xla_cpu_enable_fast_math=true"))  # compiled otherwise
    assert hits == 0
    assert misses > 0


def test_the_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    kept = {name: getattr(jax.config, name) for name in compilation.SETTINGS}
    try:
        folder = jills.enable_compilation_cache()
        assert folder.parent == tmp_path / "jills"
        assert CONFIG.jax_compilation_cache_dir == str(folder)
    finally:
        for name, value in kept.items():
            jax.config.update(name, value)
        compilation.compilation_cache.reset_cache()
