"""Which names outside of itself a function's code reads, and what it reads of them."""

import dis
import functools
import types
from typing import NamedTuple

Chain = tuple[str, ...]
"""A name and the attributes taken of it in turn: `("module", "function")`, or `("number",)`."""


class Names(NamedTuple):
    """What a code and the codes inside it name."""

    globals: frozenset[Chain]
    closed_over: frozenset[Chain]
    first: frozenset[Chain] | None  # attributes of the first argument; None: it may go anywhere as a whole
    imports: bool  # whether it imports modules


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> Names:
    """Reads the instructions of a code; an attribute is taken of what was loaded just before."""
    first = code.co_varnames[0] if code.co_argcount else None
    chains: dict[str, list[list[str]]] = {"GLOBAL": [], "NAME": [], "DEREF": [], "FAST": []}
    imports, escapes, chain = False, first is None or first in code.co_cellvars, None
    for step in dis.get_instructions(code):
        if step.opname in ("EXTENDED_ARG", "CACHE"):
            continue
        if chain is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(step.argval)
            continue
        chain, loads, local = None, step.opname.startswith("LOAD"), "FAST" in step.opname
        imports |= step.opname == "IMPORT_NAME"
        # From Python 3.13 on, two local variables may be loaded or stored at once.
        *others, last = step.argval if local and isinstance(step.argval, tuple) else (step.argval,)
        escapes |= local and (first in others or (not loads and last == first))
        for kind in chains:
            if loads and kind in step.opname:
                chain = [last]
                chains[kind].append(chain)
    found = {kind: {tuple(each) for each in listed} for kind, listed in chains.items()}
    attributes = {each[1:] for each in found["FAST"] if each[0] == first}
    inside = [names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    free = found["DEREF"].union(*(each.closed_over for each in inside))
    return Names(
        globals=frozenset((found["GLOBAL"] | found["NAME"]).union(*(each.globals for each in inside))),
        closed_over=frozenset(each for each in free if each[0] in code.co_freevars),
        first=None if escapes or () in attributes else frozenset(attributes),
        imports=imports or any(each.imports for each in inside),
    )
