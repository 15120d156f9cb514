"""Small regression problems with what goes wrong in practice, drawn from a key.

A problem has flags, one for each trouble; a kind is a set of flags. Every network shape has one static number of rows;
problems with fewer give the others weight zero. Outputs have the identity, so that any constant can be predicted.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import jills

TROUBLES = (
    "input scales",  # each column times 10 to a power in (-6, 6)
    "target scale",  # all targets times 10 to a power in (-6, 6)
    "duplicated columns",  # all columns are the first one
    "constant targets",
    "one row",
    "few rows",  # fewer than parameters: 3
    "saturated start",  # start parameters times 100
    "zero inputs",
)
KINDS = ("plain", *TROUBLES, "mixture")  # a mixture has each trouble with probability 1/3
LARGEST_POWER = 6.0
FEW_ROWS = 3
SATURATION = 100.0


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
        return f"{'-'.join(map(str, self.sizes))} {kind}, {self.rows} rows"


FAMILIES = (
    Family((3, 5, 1), jills.activations.tanh, 37),
    Family((2, 7, 3, 2), jills.activations.relu, 31),
    Family((5, 11, 7, 1), jills.activations.tanh, 53),
    Family((3, 4, 4, 4, 4, 4, 1), jills.activations.relu, 41),
    Family((7, 13, 3), jills.activations.tanh, 1),
)


def kind_of(key: jax.Array) -> jax.Array:
    """Which of `KINDS` the problem of a key is, `()` int32; all are equally likely."""
    return jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(KINDS), jnp.int32)


def troubles_of(key: jax.Array) -> jax.Array:
    """Which of `TROUBLES` the problem of a key has, `(len(TROUBLES),)` bool."""
    kind = kind_of(key)
    single = jnp.arange(1, len(KINDS) - 1, dtype=jnp.int32) == kind
    mixed = jax.random.bernoulli(jax.random.fold_in(key, 1), jnp.float32(1 / 3), (len(TROUBLES),))
    return jnp.where(kind == len(KINDS) - 1, mixed, single)


def draw(family: Family, dtype: str, key: jax.Array) -> tuple[jills.Params, jills.Batch]:
    """The start and the rows of one problem."""
    has = dict(zip(TROUBLES, troubles_of(key), strict=True))
    keys = jax.random.split(jax.random.fold_in(key, 2), 7)
    network, (d, k), n = family.network, (family.sizes[0], family.sizes[-1]), family.rows

    def power(key, shape):
        return 10.0 ** jax.random.uniform(key, shape, dtype, -LARGEST_POWER, LARGEST_POWER)

    inputs = jax.random.normal(keys[0], (n, d), dtype)
    inputs = jnp.where(has["duplicated columns"], inputs[:, :1], inputs)
    # The teacher sees inputs of a usual size, so that targets depend on them.
    clean = network.predict(network.init(keys[1], dtype), inputs)
    targets = clean + 0.1 * jax.random.normal(keys[2], (n, k), dtype) + jax.random.normal(keys[3], (1, k), dtype)
    targets = jnp.where(has["constant targets"], targets[:1], targets)
    inputs = jnp.where(has["input scales"], inputs * power(keys[4], (1, d)), inputs)
    inputs = jnp.where(has["zero inputs"], jnp.zeros_like(inputs), inputs)
    targets = jnp.where(has["target scale"], targets * power(keys[5], ()), targets)
    few = jnp.where(has["few rows"], min(FEW_ROWS, n), n)
    weights = (jnp.arange(n) < jnp.where(has["one row"], 1, few)).astype(dtype)
    params = network.init(keys[6], dtype)
    size = jnp.where(has["saturated start"], SATURATION, 1.0).astype(dtype)
    return jax.tree.map(lambda leaf: size * leaf, params), jills.Batch(inputs, targets, weights)


def make_problem(family: Family, dtype: str) -> Partial:
    """`key → (params, batch)` for a sweep."""
    return Partial(partial(draw, family, dtype))


def constant_loss(batch: jills.Batch) -> tuple[jax.Array, jax.Array]:
    """Squared-error loss of the best constant prediction, `Σ w (y − ȳ)² / (Σ w k)`, and that of zero; both `()`."""
    targets, weights = batch.targets, jnp.ones(batch.targets.shape[:1]) if batch.weights is None else batch.weights
    weights = weights[:, None] / jnp.sum(weights)
    mean = jnp.sum(weights * targets, axis=0, keepdims=True)
    spread = jnp.mean(jnp.sum(weights * (targets - mean) ** 2, axis=0))
    return spread, jnp.mean(jnp.sum(weights * targets**2, axis=0))


class Facts(NamedTuple):
    """What is known of a problem before anything is trained."""

    kind: jax.Array  # () int32, index into `KINDS`
    troubles: jax.Array  # (len(TROUBLES),) bool
    constant_loss: jax.Array  # () of the best constant prediction
    mean_square: jax.Array  # () of the targets


@partial(jax.jit, static_argnums=(0, 1))
def facts(family: Family, dtype: str, keys: jax.Array) -> Facts:
    """Those of the problems of keys `(S,)`, leaves `[S, …]`."""

    def one(key):
        return Facts(kind_of(key), troubles_of(key), *constant_loss(draw(family, dtype, key)[1]))

    return jax.vmap(one)(keys)
