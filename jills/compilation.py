"""How programs are compiled for a CPU: quickly, or into quick ones; and a cache of them on disk.

XLA takes seconds for a step of least squares, and a small network is trained in a fraction of one. Without LLVM's
optimisation, and without the emitters of fusions, the same program compiles in a third to a quarter of the time and
runs two to ten times as long: the fast tier. The full one is XLA as it comes, but for options of an algorithm's own.
In both, short sums are added up term after term (`SHORT_SUMS`). On other devices there is but XLA as it comes.

Which one pays is told from the trace of a program, by the arithmetic that it will do outside of products and LAPACK,
which are in no tier's hands. So it depends on shapes, counts and the program alone, and not on how busy a machine is:
equal calls take the same tier and give the same bits. Tiers differ in the last bits, as machines do.
"""

import hashlib
import math
import platform
import re
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import Literal, jaxprs_in_params

from jills import traces
from jills.linalg import only_cpu
from jills.warn import warn

Told = TypeVar("Told")

TIERS = ("auto", "fast", "full")
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
FEW_PARTS = {"xla_cpu_parallel_codegen_split_count": 4}
"""Of a program of the fast tier: to make 32 of them, as XLA does, takes longer than to compile them. But kernels of one
part may add and multiply in one rounding or in two, and whoever draws numbers must get the same in any program."""

SHORT_SUMS = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
"""XLA adds arrays up in a tree, a kernel more for each sum. Term after term short ones are exact to some ten roundings
(a hundred at worst, in the fast tier), and programs compile and run in a tenth less time."""
MOST_TERMS = 4096  # of a short sum
AS_SUMMED = ("reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy", "neg", "mul", "div")
"""Operations between two sums that XLA may make one of."""

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
            f"compile is {tier!r}, but must be 'fast' (compiles in a third of the time, runs two to ten times as "
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


def options_of(tier: str, full: dict[str, Any], terms: int, draws: bool = True) -> dict[str, Any]:
    """The options to compile a program with.

    Args:
        tier: "fast" or "full".
        full: options of the full tier.
        terms: of its longest sum, see `most_terms`.
        draws: whether it may draw numbers, which are the same in both tiers; see `FEW_PARTS`.
    """
    if not only_cpu():
        return {}
    chosen = full if tier == "full" else FAST if draws else FAST | FEW_PARTS
    return chosen | (SHORT_SUMS if terms <= MOST_TERMS else {})


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
    """Of the sums of a program, those of dot products included; 0 without any. A sum of sums counts as one."""
    if jaxpr not in _TERMS:
        _TERMS[jaxpr] = _terms(jaxpr, [1] * len(jaxpr.invars))[0]
    return _TERMS[jaxpr]


def _terms(jaxpr, given):
    """The most, and of how many terms each output is the sum, if each input is one of those given."""
    known, most = dict(zip(jaxpr.invars, given, strict=True)), 0
    own = lambda var: 1 if isinstance(var, Literal) else known.get(var, 1)  # noqa: E731 short
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, list(jaxprs_in_params(equation.params))
        terms, found, out = list(map(own, equation.invars)), 0, 1
        if len(inner) == 1 and name != "scan" and len(inner[0].invars) == len(terms):
            found, outs = _terms(inner[0], terms)
            known |= zip(equation.outvars, outs, strict=True)
        elif inner:
            found = max(_terms(each, [1] * len(each.invars))[0] for each in inner)
        elif name == "reduce_sum":
            shape = equation.invars[0].aval.shape
            found = out = terms[0] * math.prod(shape[axis] for axis in equation.params["axes"])
        elif name == "dot_general" and math.prod(equation.outvars[0].aval.shape) == 1:
            found = math.prod(equation.invars[0].aval.shape)
        elif name in AS_SUMMED:
            out = max(terms)
        if out > 1:
            known[equation.outvars[0]] = out
        most = max(most, found)
    return most, list(map(own, jaxpr.outvars))


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
            warn(f"XLA does not know {found[1]}: programs are compiled without it")


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
