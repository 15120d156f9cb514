"""Functions of jills as compiled programs: traced once, here or by an earlier process, and compiled in a tier."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import get_opaque_trace_state

from jills import traces
from jills.arrays import has_tracers
from jills.compilation import attempt, is_cached, most_terms, options_of, tier_of
from jills.linalg import only_cpu

MOST_REMEMBERED = 64  # programs that came from disk, of one function


class Traced(NamedTuple):
    """A program that is traced but not compiled yet."""

    program: Any  # of `jax.jit(…).trace`
    terms: int  # of its longest sum, see `most_terms`
    facts: Any  # what was told of its trace
    draws: bool  # see `options_of`
    structure: Any = None  # of what it returns, where it takes and returns leaves; None: it takes and returns trees

    def tier(self, word: str, calls: float) -> str:
        """The tier that a word of `TIERS` means here, "fast" or "full", for so many calls, one after the other."""
        return tier_of(self.program.jaxpr.jaxpr, calls) if word == "auto" else word

    def compile(self, tier: str, full: dict[str, Any]) -> Callable[..., Any]:
        """Compiles it, or finds it compiled; to be called with all arguments but the static ones.

        Args:
            tier: "fast" or "full".
            full: options of the full tier.
        """
        return self.lower(tier, full)()

    def lower(self, tier: str, full: dict[str, Any]) -> Callable[[], Callable[..., Any]]:
        """What `compile` has yet to do where it is lowered: XLA's part, which may be done in a thread."""
        lowered, options = self.program.lower(), options_of(tier, full, self.terms, self.draws)

        def finish():
            compiled = attempt(lambda known: lowered.compile(compiler_options=known or None), options)
            if self.structure is None:
                return compiled
            return lambda *args: jax.tree.unflatten(self.structure, compiled(*jax.tree.leaves(args)))

        return finish


class Program:
    """A function to be compiled with one set of options or another, as `jax.jit` does with one.

    With `jills.enable_compilation_cache` later processes do not trace it again, see `jills.traces`.

    Attributes:
        plain: compiled without options, and for use inside of other programs.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        static: tuple[int, ...],
        facts: Callable[[Any], Any] = lambda jaxpr: None,
        draws: bool = True,
    ):
        self._function, self._static, self._draws = function, static, draws
        self._facts = lambda jaxpr: (most_terms(jaxpr), facts(jaxpr))
        self.plain = jax.jit(function, static_argnums=static)
        self._others: dict[tuple, Any] = {}
        self._traced: dict[str, Traced | None] = {}  # by digest; None: it cannot be kept
        self._compiled: dict[tuple, Callable[..., Any]] = {}

    def with_options(self, options: dict[str, Any]) -> Any:
        """The `jax.jit` with them."""
        if not options:
            return self.plain
        key = tuple(sorted(options.items()))
        if key not in self._others:
            self._others[key] = jax.jit(self._function, static_argnums=self._static, compiler_options=dict(options))
        return self._others[key]

    def trace(self, static: tuple, *args: Any) -> Traced:
        """Traces it, unless an earlier process has; of `args` shapes are enough."""
        kept = self._kept(self._digest(static, args), static, args)
        if kept is not None:
            return kept
        program = self.plain.trace(*static, *args)
        return Traced(program, *self._facts(program.jaxpr.jaxpr), self._draws)

    def __call__(self, tier: str, full: dict[str, Any], static: tuple, *args: Any) -> Any:
        """The function, called once, in the tier that a word says; inside of another program as a part of that.

        Args:
            tier: a word of `TIERS`.
            full: options of the full tier.
            static: its static arguments, the first ones.
            *args: the others.
        """
        if is_traced(args):
            return self.plain(*static, *args)
        digest = self._digest(static, args)
        kept = self._kept(digest, static, args)
        if kept is not None:
            tier = "fast" if tier == "fast" else "full"  # with a cache on disk "auto" is the latter
            key = (digest, *sorted(options_of(tier, full, kept.terms, self._draws).items()))
            if key not in self._compiled:
                self._compiled[key] = kept.compile(tier, full)
            return self._compiled[key](*args)
        if not only_cpu():
            return self.plain(*static, *args)
        jaxpr = self.plain.trace(*static, *args).jaxpr.jaxpr
        tier = tier_of(jaxpr, 1.0) if tier == "auto" else tier
        options = options_of(tier, full, most_terms(jaxpr), self._draws)
        return attempt(lambda known: self.with_options(known)(*static, *args), options)

    def _digest(self, static, args):
        """Its name on disk; None where it is not to be there."""
        wanted = only_cpu() and is_cached() and traces.are_kept()
        return traces.digest_of(self._function, static, args) if wanted else None

    def _kept(self, digest, static, args):
        """The trace on disk, which is made where it is missing; None where there can be none."""
        if digest is None:
            return None
        if digest not in self._traced:
            if len(self._traced) >= MOST_REMEMBERED:
                self._traced.clear()
                self._compiled.clear()
            kept = traces.find(digest) or traces.make(digest, self._function, static, args, self._facts)
            if kept is not None:
                (terms, facts), program = kept.facts, jax.jit(kept.exported.call).trace(*jax.tree.leaves(args))
                kept = Traced(program, terms, facts, self._draws, kept.structure)
            self._traced[digest] = kept
        return self._traced[digest]


_OUTSIDE = get_opaque_trace_state()


def is_traced(*trees: Any) -> bool:
    """Whether this is called inside of a transformation by JAX, or with what one is called with."""
    return has_tracers(trees) or get_opaque_trace_state() != _OUTSIDE
