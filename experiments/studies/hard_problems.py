"""Small regression problems with what goes wrong in practice, drawn from a key.

A problem has flags, one for each trouble; a kind is a set of flags. Every network shape has one static number of rows;
problems with fewer give the others weight zero. Outputs have the identity, so that any constant can be predicted.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import jills

TROUBLES = (
    "input scales",  # each column times 10 to a power in (-6, 6)
    "input unit",  # all inputs times 10 to a power in (-15, 15)
    "target unit",  # all targets times 10 to a power in (-15, 15)
    "duplicated columns",  # all columns are the first one
    "collinear columns",  # the last column is the sum of the others
    "dead columns",  # each column is a constant, with probability ½
    "one-hot columns",  # one of d categories per row, the last ones rare
    "raw years",  # the first column is a year from 1700 to 2000
    "constant targets",
    "one row",
    "few rows",  # fewer than parameters: 3
    "empty folds",  # nine rows of ten have weight zero, and hold NaN
    "row weights",  # each 10 to a power in (-10, 10)
    "saturated start",  # start parameters times 100
    "zero inputs",
)
NOTHING = "no rows"  # all weights are zero: a kind of its own, to be refused
KINDS = ("plain", *TROUBLES, NOTHING, "mixture")
MIXED = 0.2  # the probability of each trouble in a mixture
SCALE_POWER, UNIT_POWER, WEIGHT_POWER = 6.0, 15.0, 10.0
FEW_ROWS = 3
SATURATION = 100.0
KEPT = 0.1  # of the rows of an empty fold; at least one


class Family(NamedTuple):
    """Problems that share one compiled program."""

    sizes: tuple[int, ...]
    activation: jills.Activation
    rows: int

    @property
    def network(self) -> jills.Network:
        """With the identity as output."""
        return jills.Network(self.sizes, self.activation)

    @property
    def name(self) -> str:
        """As in the table."""
        kind = "relu" if self.activation == jills.activations.relu else "tanh"
        return f"{'-'.join(map(str, self.sizes))} {kind if len(self.sizes) > 2 else 'linear'}, {self.rows} rows"


FAMILIES = (
    Family((3, 5, 1), jills.activations.tanh, 37),
    Family((2, 7, 3, 2), jills.activations.relu, 31),
    Family((5, 11, 7, 1), jills.activations.tanh, 53),
    Family((3, 4, 4, 4, 4, 4, 1), jills.activations.relu, 41),
    Family((7, 13, 3), jills.activations.tanh, 1),
    Family((29, 1), jills.activations.identity, 97),
    Family((29, 6, 2), jills.activations.tanh, 97),
    Family((300, 5, 1), jills.activations.tanh, 40),
)


def kind_of(key: jax.Array) -> jax.Array:
    """Which of `KINDS` the problem of a key is, `()` int32; all are equally likely."""
    return jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(KINDS), jnp.int32)


def troubles_of(key: jax.Array) -> jax.Array:
    """Which of `TROUBLES` the problem of a key has, `(len(TROUBLES),)` bool."""
    kind = kind_of(key)
    single = jnp.arange(1, len(TROUBLES) + 1, dtype=jnp.int32) == kind
    mixed = jax.random.bernoulli(jax.random.fold_in(key, 1), jnp.float32(MIXED), (len(TROUBLES),))
    return jnp.where(kind == len(KINDS) - 1, mixed, single)


def draw(family: Family, dtype: str, key: jax.Array) -> tuple[jills.Params, jills.Batch]:
    """The start and the rows of one problem."""
    has = dict(zip(TROUBLES, troubles_of(key), strict=True))
    keys = iter(jax.random.split(jax.random.fold_in(key, 2), 16))
    network, (k, n) = family.network, (family.sizes[-1], family.rows)
    inputs = _columns(has, jax.random.normal(next(keys), (n, family.sizes[0]), dtype), keys)
    # The teacher sees inputs of a usual size, so that targets depend on them.
    clean = network.predict(network.init(next(keys), dtype), inputs)
    noise, level = jax.random.normal(next(keys), (n, k), dtype), jax.random.normal(next(keys), (1, k), dtype)
    targets = clean + 0.1 * noise + level
    targets = jnp.where(has["constant targets"], targets[:1], targets)
    targets = jnp.where(has["target unit"], targets * _power(next(keys), (), dtype, UNIT_POWER), targets)
    inputs = _scaled(has, inputs, keys)
    weights = _weights(has, n, dtype, keys)
    weights = jnp.where(kind_of(key) == KINDS.index(NOTHING), jnp.zeros_like(weights), weights)
    empty = has["empty folds"] & (weights == 0)[:, None]
    inputs, targets = (jnp.where(empty, jnp.full_like(array, jnp.nan), array) for array in (inputs, targets))
    # Not together with a unit: the loss of the start would exceed what float32 holds.
    size = jnp.where(has["saturated start"] & ~has["input unit"], SATURATION, 1.0).astype(dtype)
    params = jax.tree.map(lambda leaf: size * leaf, network.init(next(keys), dtype))
    return params, jills.Batch(inputs, targets, weights)


def _power(key, shape, dtype, largest):
    return 10.0 ** jax.random.uniform(key, shape, dtype, -largest, largest)


def _columns(has, inputs, keys):
    """What the columns are to each other."""
    n, d = inputs.shape
    inputs = jnp.where(has["duplicated columns"], inputs[:, :1], inputs)
    total = jnp.sum(inputs[:, :-1], axis=1, keepdims=True)
    inputs = jnp.where(has["collinear columns"], jnp.concatenate([inputs[:, :-1], total], axis=1), inputs)
    # Of a cubed uniform number, half of it lies in the first eighth.
    category = jnp.floor(d * jax.random.uniform(next(keys), (n,), inputs.dtype) ** 3).astype(jnp.int32)
    inputs = jnp.where(has["one-hot columns"], jax.nn.one_hot(category, d, dtype=inputs.dtype), inputs)
    dead = has["dead columns"] & jax.random.bernoulli(next(keys), jnp.float32(0.5), (1, d))
    return jnp.where(dead, jax.random.normal(next(keys), (1, d), inputs.dtype), inputs)


def _scaled(has, inputs, keys):
    """The inputs in their units; where several units meet, as large as one of them may be."""
    d = inputs.shape[1]
    year = jnp.round(1850.0 + 75.0 * jnp.clip(inputs[:, :1], -2.0, 2.0))
    inputs = jnp.where(has["raw years"], jnp.concatenate([year, inputs[:, 1:]], axis=1), inputs)
    column = jnp.where(has["input scales"], _power(next(keys), (1, d), inputs.dtype, SCALE_POWER), 1.0)
    unit = jnp.where(has["input unit"], _power(next(keys), (), inputs.dtype, UNIT_POWER), 1.0)
    factor = jnp.clip(column * unit, 10.0**-UNIT_POWER, 10.0**UNIT_POWER)
    return jnp.where(has["zero inputs"], jnp.zeros_like(inputs), inputs * factor)


def _weights(has, n, dtype, keys):
    """Those of the rows, `(n,)`; the first row has one."""
    index = jnp.arange(n, dtype=jnp.int32)
    few = jnp.where(has["few rows"], min(FEW_ROWS, n), n)
    kept = index < jnp.where(has["one row"], 1, few)
    drawn = jax.random.bernoulli(next(keys), jnp.float32(KEPT), (n,)) | (index == 0)
    kept = kept & (drawn | ~has["empty folds"])
    size = jnp.where(has["row weights"], _power(next(keys), (n,), dtype, WEIGHT_POWER), 1.0)
    return jnp.where(kept, size, jnp.zeros_like(size)).astype(dtype)


def make_problem(family: Family, dtype: str) -> Partial:
    """`key → (params, batch)` for a sweep."""
    return Partial(partial(draw, family, dtype))


def constant_loss(targets: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Squared-error loss of the best constant prediction, `Σ w (y − ȳ)² / (Σ w k)`, and that of zero.

    In float64, whatever the targets `(n, k)` are in; NaN where no row has a weight. Rows of weight zero may hold NaN.
    """
    used = weights > 0
    if not used.any():
        return np.nan, np.nan
    targets = targets[used].astype(np.float64)
    shares = weights[used].astype(np.float64)[:, None]
    shares = shares / shares.sum()
    # Around one row first: a spread far smaller than the level would be lost in the mean's rounding.
    moved = targets - targets[:1]
    spread = np.sum(shares * (moved - np.sum(shares * moved, axis=0)) ** 2, axis=0)
    return float(spread.mean()), float(np.sum(shares * targets**2, axis=0).mean())


class Facts(NamedTuple):
    """What is known of problems before anything is trained; arrays of NumPy, leading with `[S]`."""

    kind: np.ndarray  # int, index into `KINDS`
    troubles: np.ndarray  # (len(TROUBLES),) bool
    constant_loss: np.ndarray  # of the best constant prediction; NaN without rows
    mean_square: np.ndarray  # of the targets


@partial(jax.jit, static_argnums=(0, 1))
def _seen(family, dtype, keys):
    def one(key):
        _, batch = draw(family, dtype, key)
        return kind_of(key), troubles_of(key), batch.targets, batch.weights

    return jax.vmap(one)(keys)


def facts(family: Family, dtype: str, keys: jax.Array) -> Facts:
    """Those of the problems of keys `(S,)`."""
    kind, troubles, targets, weights = jax.tree.map(np.asarray, _seen(family, dtype, keys))
    losses = np.array([constant_loss(*each) for each in zip(targets, weights, strict=True)])
    return Facts(kind, troubles, losses[:, 0], losses[:, 1])
