"""Strict JAX for every test: 64 bits, no silent promotion, no silent broadcasting of ranks."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight XLA's; must precede the import

import jax
import pytest

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


@pytest.fixture(scope="module")
def compile_fast():
    """For tests whose time is compilation, and that look at what programs compute and not at their speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
