"""Strict JAX for every test: 64 bits, no silent promotion, no silent broadcasting of ranks; and fast compilation."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight XLA's
# Nearly all of the time is compilation. Tests look at what programs compute and not at their speed, so XLA optimises
# little (a fifth of the time); the tests marked `slow` and every command that a test starts take its defaults.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
# Both must precede the import.

import jax
import pytest

# What was compiled once, by another worker, in another file or an earlier run, is read from here.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def key():
    return jax.random.key(20230705)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each compiled program holds memory maps; a thousand tests in one process would run out of them."""
    yield
    jax.clear_caches()
