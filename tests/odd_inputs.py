"""Arrays and numbers as somebody may give them, the plain copy of each, and what counts as a refusal.

`tests/test_doors.py` draws from them.
"""

import array
import dis
import tempfile
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import scipy.sparse
import xarray
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

import jills

NETWORK = jills.Network((3, 5, 2), jills.activations.tanh)
REFUSED: Any = object()
"""In place of a result."""


def outcome(call, *arguments) -> Any:
    """What a call returns, or `REFUSED` where it raises an error of ours; any other goes on."""
    try:
        return call(*arguments)
    except Exception as error:
        if is_ours(error):
            return REFUSED
        raise


def is_ours(error: BaseException) -> bool:
    """Whether a ValueError or TypeError comes from a `raise` in jills, and not from what jills has called."""
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    # An error of a function in C ends in the frame that called it, but not at a `raise`.
    raised = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    in_jills = Path(jills.__file__).parent in Path(code.co_filename).parents
    return raised and in_jills and isinstance(error, ValueError | TypeError)


# What an array may be in


class Quantity(np.ndarray):
    """As of libraries with units."""

    unit = "m"


class Converts:
    """Says how to become an array of NumPy, and nothing else."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


class Interface:
    """Tells where its numbers lie."""

    def __init__(self, array):
        self.array, self.__array_interface__ = array, array.__array_interface__


class Capsule:
    """Hands its numbers over as libraries of tensors do."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def memmap(array):
    with tempfile.NamedTemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
        mapped[...] = array
        return mapped


def deleted(array):
    array = jnp.asarray(array.astype(float))
    array.delete()
    return array


def narrow(array):
    """Of JAX, with 64 bits off."""
    with jax.enable_x64(False):
        return jnp.asarray(array.astype("float32"))


def frame(array):
    return pd.DataFrame(array) if array.ndim == 2 else pd.Series(array)


def nullable(kind, missing):
    def convert(array):
        whole = np.round(np.nan_to_num(array, posinf=9, neginf=-9)).reshape(len(array), -1)
        table = pd.DataFrame(whole).astype(kind)
        if missing:
            table.iloc[0, 0] = pd.NA
        return table if array.ndim == 2 else table[0]

    return convert


def as_dtype(dtype):
    """As far as NumPy lets it be."""
    kind = np.dtype(dtype).kind

    def convert(array):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind in "iubmM":
                array = np.round(np.nan_to_num(array, posinf=9.0, neginf=-9.0))
            return array.astype(dtype)

    return convert


DTYPES = (
    "float16 float32 float64 longdouble int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
)
FOREIGN = "object str bytes m8[s] M8[s] M8[D] >f2 >f4 >f8 >i2 >i4 >i8 >u4 >c8 >m8[s] >U9"
KINDS = {name: as_dtype(name) for name in (DTYPES + " " + FOREIGN).split()}
KINDS |= {str(kind.__name__): as_dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4)}
KINDS["structured"] = lambda array: np.zeros(array.shape, [("a", float), ("b", "i4")])
KINDS["text of any length"] = lambda array: array.astype(np.dtypes.StringDType())
KINDS[">longdouble"] = lambda array: array.astype(np.longdouble).astype(np.dtype(np.longdouble).newbyteorder())
LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "backwards": lambda array: array[::-1].copy()[::-1],
    "columns backwards": lambda array: array[..., ::-1].copy()[..., ::-1],
    "every second row": lambda array: np.repeat(array, 2, axis=0)[::2],
    "every second column": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "one row for all": lambda array: np.broadcast_to(array[:1], array.shape),
    "one number for all": lambda array: np.broadcast_to(array.ravel()[:1].reshape((1,) * array.ndim), array.shape),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "unaligned": lambda array: np.frombuffer(b"-" + array.tobytes(), "u1")[1:].view(array.dtype).reshape(array.shape),
}
SHAPES = {
    "transposed": np.transpose,
    "flat": np.ravel,
    "first column": lambda array: array.reshape(len(array), -1)[:, 0],
    "scalar": lambda array: array.reshape(-1)[0],
    "zero dimensions": lambda array: np.asarray(array.reshape(-1)[0]),
    "three dimensions": lambda array: array[None],
    "column": lambda array: array[..., None],
    "no rows": lambda array: array[:0],
    "no columns": lambda array: array[..., :0],
    "a row less": lambda array: array[:-1],
    "a row more": lambda array: np.concatenate([array, array[:1]]),
}
CONTAINERS = {
    "list": np.ndarray.tolist,
    "tuple": lambda array: tuple(map(tuple, array)) if array.ndim == 2 else tuple(array),
    "list of arrays": list,
    "generator": iter,
    "matrix": np.asmatrix,
    "masked": lambda array: np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 3),
    "nothing masked": np.ma.masked_array,
    "recarray": lambda array: array.view(np.recarray),
    "memmap": memmap,
    "quantity": lambda array: array.view(Quantity),
    "__array__": Converts,
    "__array_interface__": Interface,
    "__dlpack__": Capsule,
    "memoryview": memoryview,
    "array.array": lambda numbers: array.array("d", numbers.ravel()),
    "frame": frame,
    "frame of objects": lambda array: frame(array).astype(object),
    "categories": lambda array: frame(array).astype("category"),
    "dates": lambda array: frame(array.astype("M8[s]")),
    "nullable integers": nullable("Int64", False),
    "missing integers": nullable("Int64", True),
    "nullable floats": nullable("Float64", False),
    "missing floats": nullable("Float64", True),
    "labelled": xarray.DataArray,
    "data set": lambda array: xarray.DataArray(array).to_dataset(name="x"),
    "sparse matrix": lambda array: scipy.sparse.csr_matrix(np.atleast_2d(array)),
    "sparse array": scipy.sparse.coo_array,
    "jax": jnp.asarray,
    "jax float32": lambda array: jnp.asarray(array.astype("float32")),
    "jax bfloat16": lambda array: jnp.asarray(array, dtype=jnp.bfloat16),
    "jax without 64 bits": narrow,
    "jax sparse": lambda array: BCOO.fromdense(jnp.asarray(array)),
    "deleted": deleted,
    "shape only": lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
    "keys": lambda array: jax.random.split(jax.random.key(0), array.shape),
}
try:  # not among the extras
    import polars  # pyright: ignore[reportMissingImports]

    CONTAINERS["polars"] = lambda array: polars.DataFrame(array) if array.ndim == 2 else polars.Series(array)
except ImportError:
    pass
RUBBISH: list[Any] = [None, "rows", b"rows", "", {}, {"a": 1}, set(), [], (), [[]], [[1.0], [1.0, 2.0]], [None], ["a"]]
RUBBISH += [
    0,
    1,
    1.5,
    float("nan"),
    True,
    1j,
    10**46,
    10**400,
    Decimal(1),
    Fraction(1, 2),
    np.float64(2.0),
    np.int64(2),
]
RUBBISH += [np.ma.masked, pd.NA, pd.NaT, np.datetime64("NaT"), np.array(None), np.array("x"), np.dtype(float), range(3)]
RUBBISH += [object(), len, int, np.float32, slice(3), Ellipsis, NotImplemented, ValueError("no rows"), jills.adam]
RUBBISH += [jax.random.key(0), NETWORK]


class Odd(NamedTuple):
    """An array as somebody may give it."""

    value: Any
    made: str  # how it came about

    def __repr__(self):
        return self.made


SINGLE = {"nan": np.nan, "inf": -np.inf, "huge": 1e30, "tiny": 1e-320, "beyond": 1e300, "negative": -1.0}
VALUES = ("usual", "usual", "whole", "whole", "one hot", *SINGLE)
WEIGHTS = ("usual", "usual", "whole", "whole", "zeros", "faint", "vast", *SINGLE)


def base(shape, kind, seed) -> np.ndarray:
    """Plain numbers; positive ones in one dimension, which are weights."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 2.0, shape) if len(shape) == 1 else rng.standard_normal(shape)
    if kind == "one hot":
        return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    if kind in SINGLE:
        values[tuple(rng.integers(0, size) for size in shape)] = SINGLE[kind]
    if kind == "whole":
        return np.floor(2 * np.abs(values))
    return {"zeros": 0.0, "faint": 1e-46, "vast": 1e300}.get(kind, 1.0) * values


@st.composite
def odd_arrays(draw, shape, values=VALUES):
    """An array in a dtype, a layout and a container, sometimes of another shape; sometimes no array at all."""
    if draw(st.integers(0, 9)) == 0:
        thing = draw(st.sampled_from(RUBBISH))
        return Odd(thing, repr(thing)[:60])
    value: Any = base(shape, draw(st.sampled_from(values)), draw(st.integers(0, 3)))
    made = []
    for options, tenths in ((SHAPES, 1), (KINDS, 6), (LAYOUTS, 5), (CONTAINERS, 5)):
        if isinstance(value, np.ndarray) and draw(st.integers(0, 9)) < tenths:
            name = draw(st.sampled_from(sorted(options)))
            try:
                value = options[name](value)
            except Exception:  # there is no such thing: complex integers, frames of three dimensions
                continue
            made.append(name)
    return Odd(value, ", ".join(made) or "plain")


def plain(value, dtype) -> Any:
    """The plain copy of what was taken: native, in C order, in a dtype. Fails for what has no business to be taken."""
    assert not isinstance(value, np.ma.MaskedArray), "hidden numbers were taken"
    given = np.asarray(float(value) if isinstance(value, int) else value)  # an integer of many digits is an object
    assert given.dtype.kind in "fiubV", f"{given.dtype} was taken"  # V: those of JAX
    assert given.dtype.names is None
    with np.errstate(all="ignore"):
        return np.array(given, dtype, order="C")


# What a number may be in

GUISES = [lambda x: x, np.float64, np.float32, np.float16, np.longdouble, np.asarray, jnp.asarray, jnp.float32]
GUISES += [int, bool, np.bool_, np.int8, str, repr, Decimal, Fraction, complex, np.complex64, pd.Series, np.atleast_1d]
GUISES += [lambda x: [x], lambda x: (x,), lambda x: {"x": x}, lambda x: None, lambda x: np.array([[x]])]
GUISES += [lambda x: np.array(x, ">f8"), lambda x: np.array(x, object), lambda x: jnp.asarray(x, jnp.bfloat16)]
GUISES += [
    np.ma.masked_array,
    lambda x: np.ma.masked_array(x, True),
    lambda x: deleted(np.asarray(x)),
    xarray.DataArray,
]
NUMBERS = [0.1, 0.5, 1.0, 0.0, -1.0, 2.0, 1e-46, 1e46, 1e300, 5e-324, np.nan, np.inf, -np.inf, 1 - 1e-9, 1e-30]


@st.composite
def odd_numbers(draw) -> Any:
    """A number in some guise; or no number."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(RUBBISH))
    guise, number = draw(st.sampled_from(GUISES)), draw(st.sampled_from(NUMBERS))
    try:
        with np.errstate(all="ignore"):
            return guise(number)
    except (ValueError, OverflowError, TypeError):  # no integer is NaN
        return number
