"""How programs are compiled for a CPU: quickly, or into quick ones; and a cache of them on disk.

XLA takes seconds for a step of least squares, and a small network is trained in a fraction of one. Without LLVM's
optimisation, and without the emitters of fusions, the same program compiles in a third to a quarter of the time and
runs two to four times as long: the fast tier. The full one is XLA as it comes, but for options of an algorithm's own.
On other devices there is but one.

Which one pays is told from the trace of a program, by the arithmetic that it will do outside of products and LAPACK,
which are in no tier's hands. So it depends on shapes, counts and the program alone, and not on how busy a machine is:
equal calls take the same tier and give the same bits. Tiers differ in the last bits, as machines do.
"""

import hashlib
import math
import platform
import re
import warnings
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import jaxprs_in_params

from jills import traces
from jills.linalg import only_cpu

Told = TypeVar("Told")

TIERS = ("auto", "fast", "full")
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

SHORT_SUMS = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
"""XLA adds long arrays up in a tree, a kernel more for each; term after term short ones are as exact to a rounding or
ten, and programs compile and run in a tenth less time."""
MOST_TERMS = 4096  # of a short sum

SAVED = 1.2e-3  # seconds of compilation that the fast tier saves for each equation of a program; .7 to 2.4 measured
LOST = 0.5e-9  # seconds that it loses for each entry that equations make; .25 to 2.5
ADVANTAGE = 1.5  # by which it must save more than it loses: whoever trains again and again compiles only once
TRIPS = 3  # of a loop whose end the data decide
LIBRARY = ("dot_general", "cholesky", "triangular_solve", "eigh", "svd", "geqrf", "householder_product", "qr", "lu")
"""Operations that no kernel of XLA's does."""

SETTINGS = {  # of JAX's cache, which by itself keeps programs that took a second, and without end
    "jax_compilation_cache_dir": None,
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 2**30,
}
_ARITHMETIC: Any = weakref.WeakKeyDictionary()
"""Of programs that were looked at."""
_TERMS: Any = weakref.WeakKeyDictionary()
"""Likewise, of their longest sums."""
_UNKNOWN: set[str] = set()
"""Options that this XLA does not know."""


def compiler_options(tier: str = "fast") -> dict[str, Any]:
    """Options of a tier, for programs of your own: `jax.jit(function, compiler_options=…)`.

    Only of a program at the top: JAX refuses them for one that is called inside another.

    Args:
        tier: "fast", or "full", which has none.

    Returns:
        Options of XLA that this version knows; none on accelerators.
    """
    if tier not in TIERS[1:]:
        raise ValueError(f"compiler_options: tier is {tier!r}, but must be 'fast' or 'full'")
    if tier == "full" or not only_cpu():
        return {}
    return dict(_known())


@cache
def _known():
    attempt(lambda options: jax.jit(lambda: 0, compiler_options=options)(), FAST)
    return {name: value for name, value in FAST.items() if name not in _UNKNOWN}


def check_tier(tier: Any) -> None:
    """Raises ValueError where `compile` is none of the words."""
    if tier not in TIERS:
        raise ValueError(
            f"compile is {tier!r}, but must be 'fast' (compiles in a third of the time, runs two to four times as "
            "long), 'full', or 'auto', whichever is done sooner"
        )


def tier_of(jaxpr: Any, calls: float) -> str:
    """The tier that "auto" means for a program. With JAX's persistent cache the full one: it is paid for once.

    Args:
        jaxpr: of the program's trace.
        calls: how often it will be called, one after the other.
    """
    if not only_cpu() or is_cached():
        return "full"
    if jaxpr not in _ARITHMETIC:
        _ARITHMETIC[jaxpr] = arithmetic(jaxpr)
    entries, equations = _ARITHMETIC[jaxpr]
    return "fast" if ADVANTAGE * LOST * calls * entries < SAVED * equations else "full"


def options_of(tier: str, full: dict[str, Any], terms: int) -> dict[str, Any]:
    """The options to compile a program with.

    Args:
        tier: "fast" or "full".
        full: options of the full tier.
        terms: of its longest sum, see `most_terms`.
    """
    if not only_cpu():
        return {}
    return (FAST if tier == "fast" else full) | (SHORT_SUMS if terms <= MOST_TERMS else {})


def is_cached() -> bool:
    """Whether JAX keeps what it compiles on disk."""
    config: Any = jax.config
    return bool(config.jax_enable_compilation_cache and config.jax_compilation_cache_dir)


def arithmetic(jaxpr: Any, times: float = 1.0) -> tuple[float, int]:
    """Entries of all arrays that a program makes, but for those that libraries make; and the number of its equations.

    Args:
        jaxpr: of `jax.make_jaxpr` or `jax.jit(…).trace(…)`; programs within it are looked at too.
        times: how often it is run.
    """
    entries, equations = 0.0, 0
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        name = equation.primitive.name
        if not inner:
            equations += 1
            if name not in LIBRARY:
                entries += times * sum(math.prod(getattr(var.aval, "shape", ())) for var in equation.outvars)
            continue
        often = times * {"scan": equation.params.get("length", 1), "while": TRIPS}.get(name, 1)
        told = [arithmetic(each, often) for each in inner]
        entries += max(each for each, _ in told) if name == "cond" else sum(each for each, _ in told)
        equations += sum(each for _, each in told)
    return entries, equations


def most_terms(jaxpr: Any) -> int:
    """Of the sums that XLA's own kernels add up, those of matrix–vector products included; 0 without any."""
    if jaxpr not in _TERMS:
        inside = [most_terms(inner) for equation in jaxpr.eqns for inner in jaxprs_in_params(equation.params)]
        _TERMS[jaxpr] = max([0, *inside, *map(_terms, jaxpr.eqns)])
    return _TERMS[jaxpr]


def _terms(equation):
    shapes = [getattr(var.aval, "shape", ()) for var in equation.invars]
    if equation.primitive.name == "reduce_sum":
        return math.prod(shapes[0][axis] for axis in equation.params["axes"])
    if equation.primitive.name == "dot_general":
        contracted, batched = equation.params["dimension_numbers"]
        free = [
            math.prod(size for axis, size in enumerate(shape) if axis not in {*one, *other})
            for shape, one, other in zip(shapes, contracted, batched, strict=True)
        ]
        return math.prod(shapes[0][axis] for axis in contracted[0]) if min(free) == 1 else 0
    return 0


def attempt(function: Callable[[dict[str, Any]], Told], options: dict[str, Any]) -> Told:
    """`function(options)`, which compiles; an option that this XLA does not know is left out, with one warning."""
    while True:
        known = {name: value for name, value in options.items() if name not in _UNKNOWN}
        try:
            return function(known)
        except jax.errors.JaxRuntimeError as error:
            found = re.search(r"No such compile option: '(\w+)'", str(error))
            if found is None or found[1] not in known:
                raise
            _UNKNOWN.add(found[1])
            warnings.warn(f"XLA does not know {found[1]}: programs are compiled without it", stacklevel=2)


def enable_compilation_cache(path: str | Path | None = None) -> Path:
    """Keeps compiled programs on disk, so that the next process finds them: JAX's own cache, for small programs too.

    For all programs of JAX in this process. Processes may share a folder. It is kept below 1 GiB; programs that were
    not used for longest go first. Programs for another CPU, JAX or XLA lie apart. On CPUs those of jills lie there as
    they were traced, too, in half a GiB at most, and are not traced again where functions, shapes, settings and
    versions are the same (see `jills.traces`). Trust the folder as you trust a package: what lies there is run.

    Args:
        path: the folder; None: `jills` among the user's caches.

    Returns:
        The folder in it for this CPU.
    """
    import platformdirs

    folder = Path(path) if path is not None else Path(platformdirs.user_cache_dir("jills"))
    folder = folder.expanduser().absolute() / _machine()
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    traces.keep_in(folder)
    for name, value in (SETTINGS | {"jax_compilation_cache_dir": str(folder)}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks once, at the first program, whether there is one
    return folder


def _machine():
    """A name for this CPU: a program for one that knows more instructions would crash another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        known = [platform.processor(), platform.release()]
    text = "\n".join([platform.system(), platform.machine(), *known])
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _tidy(folder):
    """Removes what a process that was killed left unfinished: at that JAX would fail again and again."""
    import filelock

    with filelock.FileLock(folder / ".lockfile"):
        for path in folder.glob("*-cache"):
            if not path.with_name(path.name.removesuffix("-cache") + "-atime").exists():
                path.unlink()
