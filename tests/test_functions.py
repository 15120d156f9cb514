"""Functions with equal contents share one program; whatever changes the numbers makes another."""

import _random
import dataclasses
import datetime
import enum
import functools
import math
import os
import random
import secrets
import sys
import time
import types
import uuid
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import NETWORK, Rate
from hypothesis import given, settings
from hypothesis import strategies as st

import jills
from jills.contents import Unseen, read
from jills.functions import Static, settle

PROGRAMS, TRACES = {}, []


def told(function):
    """What a function gives, by way of a cache of programs like that of `jax.jit`."""
    static = Static(function)
    if static not in PROGRAMS:
        TRACES.append(static)
        PROGRAMS[static] = static(1.0)
        settle(static)
    return repr(PROGRAMS[static])


@partial(jax.jit, static_argnums=0)
def evaluate(static, x):
    TRACES.append(static)
    result = static(x)
    settle(static)
    return result


def run_source(source, **names):
    """The namespace in which a text was executed, like a notebook's."""
    space = {"__name__": "notebook", "jnp": jnp, "np": np, "jax": jax, **names}
    exec(source, space)
    return space


class Pair(NamedTuple):
    one: Any
    two: Any

    def second(self, x):
        return self.two


@dataclasses.dataclass(frozen=True)
class Frozen:
    number: Any

    def method(self, x):
        return self.number

    def leaves(self, x):
        return outside(self)


class Mutable:
    def __init__(self, number):
        self.number = number
        self.history = []

    def method(self, x):
        return self.helper(x) if self.nothing is None else x

    def helper(self, x):
        return self.number

    @property
    def nothing(self):
        return None

    def leaves(self, x):
        return outside(self)

    def captured(self, x):
        return (lambda: self.number)()


class Slotted:
    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number

    def method(self, x):
        return self.number


class Hiding(Mutable):
    def __getstate__(self):
        return {}


class Several(list):
    pass


def outside(thing):
    return thing.number


def decorated(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


def imported(number):
    sys.modules["imported_in_a_test"] = module("imported_in_a_test", number=number)
    return run_source("def f(x):\n    import imported_in_a_test as m\n    return m.number")["f"]


def of_class(number):
    kind = types.new_class("Settings", (), {}, lambda space: space.update(number=number))
    return run_source("def f(x): return Settings.number", Settings=kind)["f"]


def method_of_class(number):
    made = run_source("class Model:\n    def f(self, x): return g()\n\ndef g(): return N", N=number)
    return made["Model"]().f


def custom_derivative(number):
    function = jax.custom_jvp(lambda x: x)
    function.defjvp(lambda primals, tangents: (primals[0], tangents[0] * number))
    return function


NUMBERS = [1, 1.0, True, 0.0, -0.0, 0, 2.5, math.nan, -3]
LISTED = [repr(number) for number in NUMBERS]
Place: Any = enum.Enum("Place", {f"P{place}": place for place in range(len(NUMBERS))})


# Number → a function that gives it, made anew. Those of one number share a program.
EQUAL: dict[str, Any] = {
    "closure": lambda n: lambda x: n,
    "constant": lambda n: eval(f"lambda x: {n!r}", {"jnp": jnp, "nan": math.nan}),
    "default": lambda n: lambda x, n=n: n,
    "keyword default": lambda n: lambda x, *, n=n: n,
    "nested": lambda n: lambda x: (lambda y: (lambda: n)())(x),
    "nested constant": lambda n: eval(f"lambda x: (lambda: {n!r})()", {"jnp": jnp, "nan": math.nan}),
    "global": lambda n: run_source("f = lambda x: N", N=n)["f"],
    "global, nested": lambda n: run_source("f = lambda x: (lambda: N)()", N=n)["f"],
    "helper": lambda n: run_source("def g(): return N\ndef f(x): return g()", N=n)["f"],
    "helper closed over": lambda n: (lambda g: lambda x: g(x))(lambda x: n),
    "module": lambda n: run_source("f = lambda x: m.number", m=module("m", number=n))["f"],
    "module in module": lambda n: run_source("f = lambda x: a.b.number", a=module("a", b=module("b", number=n)))["f"],
    "module closed over": lambda n: (lambda m: lambda x: m.number)(module("m", number=n)),
    "module closed over, nested": lambda n: (lambda m: lambda x: (lambda: m.number)())(module("m", number=n)),
    "attribute of an object": lambda n: run_source("f = lambda x: o.number", o=Mutable(n))["f"],
    "object": lambda n: run_source("f = lambda x: g(o)", o=Mutable(n), g=outside)["f"],
    "slots": lambda n: Slotted(n).method,
    "method": lambda n: Mutable(n).method,
    "method, escaping": lambda n: Mutable(n).leaves,
    "method, capturing": lambda n: Mutable(n).captured,
    "frozen": lambda n: Frozen(n).method,
    "frozen, escaping": lambda n: Frozen(n).leaves,
    "unbound": lambda n: partial(Frozen.method, Frozen(n)),
    "partial": lambda n: partial(lambda n, x: n, n),
    "partial by keyword": lambda n: partial(lambda x, n: n, n=n),
    "partial of partial": lambda n: partial(partial(lambda a, b, x: a[0], [n]), 3),
    "list": lambda n: (lambda numbers: lambda x: numbers[1])([0, n]),
    "list of a class": lambda n: (lambda numbers: lambda x: numbers[0])(Several([n])),
    "dictionary": lambda n: (lambda numbers: lambda x: numbers["n"])({"n": n}),
    "key": lambda n: (lambda numbers: lambda x: next(iter(numbers)))({n: 0}),
    "order": lambda n: (lambda numbers: lambda x: next(iter(numbers.values())))({repr(n): n, "a": 0}),
    "method of a tuple": lambda n: Pair(0, n).second,
    "arrays and random keys": lambda n: lambda x: (jax.random.key(0), np.float64(0.0), n)[2],
    "set": lambda n: (lambda numbers: lambda x: min(numbers))({n}),
    "tuple": lambda n: (lambda pair: lambda x: pair.two)(Pair(0, n)),
    "array": lambda n: (lambda array: lambda x: array[0].item())(np.array([n])),
    "scalar": lambda n: (lambda scalar: lambda x: scalar.item())(np.asarray(n)[()]),
    "array of JAX": lambda n: (lambda array: lambda x: array.item())(jnp.asarray(n)),
    "member": lambda n: (lambda member: lambda x: NUMBERS[member.value])(Place(LISTED.index(repr(n)))),
    "attribute": lambda n: run_source("def f(x): return f.number\nf.number = N", N=n)["f"],
    "decorated": lambda n: decorated(lambda x: n),
    "recursive": lambda n: run_source("def f(x, left=2): return f(x, left - 1) if left else N", N=n)["f"],
}
# These are compared as Python does, yet must give the right numbers.
UNSEEN: dict[str, Any] = {
    "class": of_class,
    "method of a class": method_of_class,
    "by name": lambda n: run_source("f = lambda x: globals()['N']", N=n)["f"],
    "getattr": lambda n: run_source("f = lambda x: getattr(m, 'number')", m=module("m", number=n))["f"],
    "module at large": lambda n: run_source("f = lambda x, g=lambda m: m.number: g(m)", m=module("m", number=n))["f"],
    "module that makes up names": lambda n: run_source(
        "f = lambda x: m.number", m=module("m", __getattr__=lambda name: n)
    )["f"],
    "object that hides": lambda n: (lambda thing: lambda x: outside(thing))(Hiding(n)),
    "in the name of another": lambda n: functools.wraps(jnp.sin)(lambda x: n),
    "import": imported,
    "evaluated": lambda n: run_source("f = lambda x: eval('N')", N=n)["f"],
    "iterator": lambda n: (lambda each: lambda x: next(each))(iter([n])),
    "cached": lambda n: functools.lru_cache(lambda x: n),
    "jitted": lambda n: (lambda jitted: lambda x: jitted(x).item())(jax.jit(lambda x: n)),
}
# A function → another that calls it, made anew.
AROUND: dict[str, Any] = {
    "closure": lambda f: lambda x: f(x),
    "nested": lambda f: lambda x: (lambda: f(x))(),
    "global": lambda f: run_source("def h(x): return f(x)", f=f)["h"],
    "default": lambda f: lambda x, f=f: f(x),
    "partial": lambda f: partial(lambda f, x: f(x), f),
    "list": lambda f: (lambda functions: lambda x: functions[1](x))([abs, f]),
    "dictionary": lambda f: (lambda functions: lambda x: functions["f"](x))({"f": f}),
    "tuple": lambda f: (lambda pair: lambda x: pair.one(x))(Pair(f, None)),
    "module": lambda f: run_source("h = lambda x: m.f(x)", m=module("m", f=f))["h"],
    "object": lambda f: (lambda thing: lambda x: thing.number(x))(Mutable(f)),
    "method": lambda f: (lambda get: lambda x: get(x)(x))(Mutable(f).method),
    "frozen": lambda f: (lambda get: lambda x: get(x)(x))(Frozen(f).leaves),
    "decorated": decorated,
    "static method": lambda f: run_source("h = lambda x: C.f(x)", C=type("C", (), {"f": staticmethod(f)}))["h"],
}
# Number → a function of JAX around one that is made anew.
OF_JAX: dict[str, Any] = {
    "vmap": lambda n: jax.vmap(lambda x: x * n),
    "grad": lambda n: jax.grad(lambda x: x * n),
    "value_and_grad": lambda n: lambda x: jax.value_and_grad(lambda x: x * n)(x)[1],
    "checkpoint": lambda n: jax.checkpoint(lambda x: x * n),
    "custom_jvp": lambda n: jax.grad(custom_derivative(n)),
    "linear_transpose": lambda n: lambda x: jax.linear_transpose(lambda y: y * n, x)(x)[0],
}


NOT_READ = {
    *(
        "module",
        "module in module",
        "module closed over",
        "module closed over, nested",
        "attribute of an object",
        "object",
        "slots",
        "method",
        "method, escaping",
        "method, capturing",
        "list of a class",
        "set",
        "member",
    ),
}
"""Of these, what may change without a trace; they are compared as Python does."""


@pytest.mark.parametrize("name", [name for name in EQUAL if name not in NOT_READ])
def test_functions_made_anew_with_equal_contents_share_a_program(name):
    for number in (1, 2.5, -0.0):
        assert told(EQUAL[name](number)) == repr(number)
        TRACES.clear()
        assert told(EQUAL[name](number)) == repr(number)
        assert TRACES == []


@pytest.mark.parametrize("name", [*EQUAL, *UNSEEN])
def test_functions_made_anew_give_their_own_numbers(name):
    for number in NUMBERS:
        assert told((EQUAL | UNSEEN)[name](number)) == repr(number)


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "linear_transpose"])
def test_transformed_functions_share_a_program(name):
    ones = jnp.ones(3) if name == "vmap" else jnp.ones(())
    for number in (1.0, 2.5):
        np.testing.assert_array_equal(evaluate(Static(OF_JAX[name](number)), ones), number * ones)
        TRACES.clear()
        np.testing.assert_array_equal(evaluate(Static(OF_JAX[name](number)), ones), number * ones)
        assert TRACES == []


READ = [make for name, make in EQUAL.items() if name not in NOT_READ]
INNERMOST = st.sampled_from([*EQUAL.values(), *UNSEEN.values()])
CALLS = st.tuples(INNERMOST, st.lists(st.sampled_from([*AROUND.values()]), max_size=3), st.sampled_from(NUMBERS))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(CALLS, min_size=10, max_size=30))
def test_functions_around_others_give_their_own_numbers(calls):
    """Whatever was compiled before, and however deep inside stands what differs."""
    for make, around, number in calls:
        function = make(number)
        for wrap in around:
            function = wrap(function)
        assert told(function) == repr(number)


READ_AROUND = [AROUND[name] for name in AROUND if name not in ("static method", "module", "object", "method")]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(READ), st.lists(st.sampled_from(READ_AROUND), max_size=3))
def test_wrapped_functions_made_anew_share_a_program(make, around):
    one, other = make(2.5), make(2.5)
    for wrap in around:
        one, other = wrap(one), wrap(other)
    assert Static(one) == Static(other)


def set_item(n):
    numbers = [n]
    return lambda x: numbers[0], lambda new: numbers.__setitem__(0, new)


def set_entry(n):
    numbers = {"n": n}
    return lambda x: numbers["n"], lambda new: numbers.update(n=new)


def set_array(n):
    array = np.array([float(n)])
    return lambda x: array[0].item(), lambda new: array.__setitem__(0, new)


def set_under_a_view(n):
    array = np.array([float(n)])
    view = array[:]
    view.flags.writeable = False
    return lambda x: view[0].item(), lambda new: array.__setitem__(0, new)


def set_cell(n):
    def function(x):
        return n

    def change(new):
        nonlocal n
        n = new

    return function, change


def set_global(n):
    space = run_source("def g(): return N\ndef f(x): return g()", N=n)
    return space["f"], lambda new: space.update(N=new)


def set_helper(n):
    space = run_source(f"def g(): return {n!r}\ndef f(x): return g()")
    return space["f"], lambda new: exec(f"def g(): return {new!r}", space)


def set_behind_a_frozen_object(n):
    text = (
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C:\n    size: int = 1\n    own = N\n"
        "    def f(self, x): return self.g(x)\n    def g(self, x): return self.last + C(2).own\n"
        "    @property\n    def last(self): return 0 * L"
    )
    space = run_source(text, N=n, L=1)
    return space["C"](3).f, lambda new: setattr(space["C"], "own", new)


def set_behind_a_method_of_a_frozen_object(n):
    text = (
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C:\n    size: int = 1\n"
        "    def f(self, x): return self.g(x)\n    def g(self, x): return N"
    )
    space = run_source(text, N=n)
    return space["C"](3).f, lambda new: space.update(N=new)


def set_behind_a_method_of_a_tuple(n):
    text = (
        "from typing import NamedTuple\nclass C(NamedTuple):\n    size: int = 1\n"
        "    @staticmethod\n    def g(x): return N\nthing = C(3)\ndef f(x): return thing.g(x)"
    )
    space = run_source(text, N=n)
    return space["f"], lambda new: space.update(N=new)


def set_in_the_name_of_another(n):
    def function(x):
        return n

    def change(new):
        nonlocal n
        n = new

    function.__module__, function.__qualname__ = "jax.numpy", "sin"
    return function, change


def set_default(n):
    def function(x, n=n):
        return n

    return function, lambda new: setattr(function, "__defaults__", (new,))


def set_code(n):
    def function(x):
        return 1.0

    return function, lambda new: setattr(function, "__code__", eval(f"lambda x: {new!r}").__code__)


CHANGES = [make for name, make in list(globals().items()) if name.startswith("set_")]


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_what_changes_around_a_function_is_seen(make):
    """The same function object; JAX alone would go on with the old numbers. And back again, without a new trace."""
    function, change = make(1.0)
    for number in (1.0, 2.5, -3.0):
        change(number)
        assert told(function) == repr(number)
    TRACES.clear()
    change(2.5)
    assert told(function) == repr(2.5)
    assert len(TRACES) <= (make is set_helper)  # its lines differ


def test_results_kept_beside_a_method_do_not_make_it_another():
    thing = Mutable(1.0)
    assert told(thing.method) == repr(1.0)
    thing.history.append(open)  # nothing that can be read
    TRACES.clear()
    assert told(thing.method) == repr(1.0)
    assert TRACES == []


@pytest.mark.parametrize("kind", ["list", "closure", "global", "tracers"])
def test_a_function_that_counts_its_traces_is_traced_once(kind):
    """Made anew each time; only one that keeps its tracers is known by identity alone."""
    calls, space = [], run_source("N = 0\ndef f(x):\n    global N\n    N += 1\n    return x")
    count = 0

    def make():
        def by_list(x):
            calls.append(1)
            return x

        def by_cell(x):
            nonlocal count
            count += 1
            return x

        return {"list": by_list, "closure": by_cell, "global": space["f"]}[kind]

    def with_tracers(x):
        calls.append(x)
        return x

    for _ in range(3):
        evaluate(Static(with_tracers if kind == "tracers" else make()), jnp.ones(()))
    assert len(calls) + count + space["N"] == 1


def test_tracers_that_are_closed_over_work_as_they_do_in_jax():
    def outer(y):
        return evaluate(Static(lambda x: x + y), jnp.ones(()))

    np.testing.assert_array_equal(jax.vmap(outer)(jnp.arange(3.0)), [1.0, 2.0, 3.0])
    assert jax.jit(outer)(2.0) == 3.0
    assert jax.grad(outer)(2.0) == 1.0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.random.bytes(8),  # noqa: NPY002 as old programs have it
        (lambda library: lambda x: library.random.bytes(8))(np),
        lambda x, library=np: library.random.bytes(8),
        lambda x: (lambda: np.random.bytes(8))(),  # noqa: NPY002
        lambda x: (jax.random.key(0), np.random.bytes(8)),  # noqa: NPY002
        lambda x: (lambda library: library.random.bytes(8))(np),
        lambda x: np.load("numbers.npy"),
        lambda x: np.fromfile("numbers.npy"),
        lambda x: jnp.load("numbers.npy"),
        lambda x: list(map(open, ["numbers.txt"])),
        lambda x: np.memmap("numbers.npy"),
        lambda x: np.random.RandomState().normal(),
        (lambda random: lambda x: random.normal())(np.random.default_rng(0)),
        lambda x: time.time(),
        lambda x: os.environ["A"],
        lambda x: random.random(),
        lambda x: random.Random().random(),
        lambda x: _random.Random().random(),
        lambda x: uuid.uuid4(),
        lambda x: datetime.datetime.now(),
        lambda x: secrets.randbits(3),
        lambda x: Path("numbers.txt").read_text(),
        (lambda thing: lambda x: thing)(object.__new__(type("Own", (), {"__reduce__": lambda self: "own"}))),
        (lambda rows: lambda x: rows)([0.0] * 30_000),
        (lambda rows: lambda x: rows)(np.array([object()])),
        (lambda some: lambda x: some)({Frozen(1)}),
        (lambda rows: lambda x: rows)(np.ma.masked_array([1.0], [True])),
    ],
)  # fmt: skip
def test_what_depends_on_more_than_its_arguments_is_known_by_identity(function):
    with pytest.raises(Unseen):
        read(function)
    assert Static(function) == Static(function)
    copy = types.FunctionType(function.__code__, function.__globals__, "copy", (), function.__closure__)
    assert Static(function) != Static(copy)


def test_something_without_a_hash_is_known_by_identity():
    one, other = ([open], [open])
    assert Static(one) == Static(one)
    assert Static(one) != Static(other)


def test_an_algorithm_is_read_with_its_methods():
    text = (
        "class Descent(Algorithm):\n    defaults = Rate()\n    def update(self, hparams, state, batch):\n"
        "        return state, rate(hparams)\ndef rate(hparams): return N * hparams.learning_rate"
    )
    space = run_source(text, N=1, Algorithm=jills.Algorithm, Rate=Rate)
    algorithm = space["Descent"](network=NETWORK)
    before = read(algorithm)
    assert read(space["Descent"](network=NETWORK)) == before
    space["N"] = 2
    assert read(algorithm) != before


def test_names_and_lines_do_not_matter():
    one = run_source("def one(x): return jnp.sin(x)")["one"]
    other = run_source("\n\n# below\ndef other(x):\n    return jnp.sin(x)")["other"]
    assert Static(one) == Static(other)
    assert hash(Static(one)) == hash(Static(other))


def test_arrays_are_told_apart_by_all_that_a_program_depends_on():
    data, floats = jax.random.key_data(jax.random.key(0, impl="rbg")), np.arange(6.0)
    arrays = [
        np.zeros(6), np.zeros(6, int), np.zeros(6, ">f8"), np.zeros(0), np.zeros((0, 3)), jnp.zeros(6),
        jnp.zeros(6, int), floats, floats.astype("float32"), floats.astype(">f8"), floats[::-1], floats.reshape(2, 3),
        floats.reshape(3, 2),
        jnp.asarray(floats), jnp.arange(6, dtype="float32"), jnp.arange(6, dtype="bfloat16"), jnp.ones(()), 1.0,
        jax.jit(lambda: 1.0)(), np.float64(1.0), np.asarray(1.0), jax.device_put(jnp.arange(6.0), jax.devices()[0]),
        jax.random.key(0), jax.random.key(1), jax.random.key_data(jax.random.key(0)), data,
        jax.random.wrap_key_data(data, impl="rbg"), jax.random.wrap_key_data(data, impl="unsafe_rbg"),
    ]  # fmt: skip
    make = lambda array: Static(lambda x: array)  # noqa: E731 as users write them
    for place, one in enumerate(arrays):
        copy = one.copy() if isinstance(one, np.ndarray) else one
        assert make(one) == make(copy)
        assert not any(make(one) == make(other) for other in arrays[:place])


CODES = [
    *("x + 2", "x - 2", "2 - x", "x + 2.0", "abs(x)", "max(x, 2)", "min(x, 2)", "x.real", "x.imag", "x", "None"),
    *("x if x > 2 else 3", "x if x < 2 else 3", "f(a=x)", "f(b=x)", "[x]", "(x,)", "[y for y in x]", "lambda: x"),
    *("lambda x: x", "lambda *x: x", "lambda **x: x", "lambda y, x: x", "lambda x, y: x", "lambda x, *, y: x"),
]


def test_codes_are_told_apart():
    functions = [Static(eval(f"lambda x: {code}")) for code in CODES]
    assert len(set(functions)) == len(CODES)
    assert set(functions) == {Static(eval(f"lambda x: {code}")) for code in CODES}


def test_tables_of_exceptions_tell_codes_apart():
    """Of equal bytes: where exceptions go."""

    def guarded(x):
        try:
            return abs(x)
        except TypeError:
            return None

    code = guarded.__code__
    assert read(code) != read(code.replace(co_exceptiontable=b""))


def test_what_is_shared_is_told_apart():
    one, two = [1], [2]
    contents = [read(each) for each in ([one, two, one], [one, two, two], [one, [1], two], [one, one, two])]
    assert len(set(contents)) == 4


def test_a_transposed_copy_has_equal_contents():
    array = np.arange(6.0).reshape(2, 3)
    assert read(array) == read(np.asfortranarray(array))
