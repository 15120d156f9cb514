"""Strict JAX for every test: 64 bits, no silent promotion, no silent broadcasting of ranks; and fast compilation."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight XLA's
# Nearly all of the time is compilation. Tests look at what programs compute and not at their speed, so XLA optimises
# little (a fifth of the time), and generates the code of a program in one piece, which costs less than in many.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1",
)
# What was compiled once, by another worker or command, in another file or an earlier run, is read from here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# All must precede the import, and hold for commands that tests start.

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
    """Each compiled program holds memory maps; a thousand tests in one process would run out of them.

    Until then the next file finds what it shares with those before it.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:  # of 65530 that Linux allows
        jax.clear_caches()
