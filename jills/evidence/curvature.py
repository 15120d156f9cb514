"""The Gauss–Newton matrix of all parameters, whole or by blocks of layers.

    G = Σ_n J_nᵀ Λ_n J_n,   J_n = ∂ z_n / ∂ θ,  Λ_n = β ∂² e / ∂ z_n²

With `a` the inputs of a layer and `S_n = ∂ z_n / ∂ H_n` the sensitivities, the block of two layers is

    G_(ij)(i'j') = Σ_n a_i a'_i' M_jj',   M_n = S_nᵀ Λ_n S'_n

so no Jacobian is formed, and the cost does not grow with the outputs. Within a layer both factors are symmetric, and
only half of each is multiplied: a quarter of the arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jills import linearization
from jills.evidence import factors
from jills.evidence.likelihood import Likelihood
from jills.linalg import HIGHEST, add, flatten, matmul, picked, upper_blocks
from jills.network import Network

BLOCK_ENTRIES = 2**19  # of the products of one block of rows: they stay in the cache of a core
FEWEST_ROWS = 64  # of a block
FEW_ROWS = 512
"""Times outputs: up to so many, G of a network by itself is one product of its whole Jacobian. That takes no longer on
two cores, and compiles sooner, than to lay out the products of pairs; on one core it takes longer."""


@dataclass(frozen=True)
class Together:
    """Layers `first … last` as one block of G, dense."""

    first: int
    last: int

    @property
    def layers(self) -> range:
        """Their numbers."""
        return range(self.first, self.last + 1)

    def statistics(self, below, sensitivity, curved, shares, few: bool) -> list[jax.Array]:
        """What is to be summed over blocks of rows: the products of every pair of layers, `(pairs of i, pairs of j)`.

        Args:
            below: `A^l`, `(m, n)`.
            sensitivity: `S^l`, `(k, q, n)`.
            curved: `Λ S^l`, likewise.
            shares: of the rows, `(n,)`; not needed here.
            few: whether G itself, `(p, p)`, is told instead, as it is quicker for few rows.
        """
        if few:
            own = [[each[layer] for layer in self.layers] for each in (below, curved, sensitivity)]
            bent, jacobian = linearization.jacobian(own[0], own[1]), linearization.jacobian(own[0], own[2])
            return [lax.dot_general(bent, jacobian, (((0, 2), (0, 2)), ((), ())), precision=HIGHEST)]
        return [_table(below, sensitivity, curved, *pair) for pair in _pairs(self.layers)]

    def factor(self, statistics: list[jax.Array], network: Network, alphas: list[jax.Array], damping) -> factors.Dense:
        """Of the sums, and α of every layer."""
        own = flatten([alphas[layer] for layer in self.layers])
        return factors.Dense.of(gram_of(statistics, network, self.layers), own, damping)


@dataclass(frozen=True)
class KroneckerLayer:
    """One layer as `A ⊗ G`: the second moment of its inputs, and the sum of `M_n`."""

    layer: int

    @property
    def layers(self) -> range:
        """Its number."""
        return range(self.layer, self.layer + 1)

    def statistics(self, below, sensitivity, curved, shares, few: bool) -> list[jax.Array]:
        """A `(m, m)` and G `(q, q)`; `shares` are weights of sum one, `(n,)`."""
        inputs = below[self.layer]
        pairs = zip(sensitivity[self.layer], curved[self.layer], strict=True)
        return [matmul(inputs * shares[None, :], inputs.T), add([matmul(one, other.T) for one, other in pairs])]

    def factor(self, statistics: list[jax.Array], network: Network, alphas: list[jax.Array], damping):
        """Of the sums, and α of every layer."""
        a, g = statistics
        return factors.Kronecker.of(a, 0.5 * (g + g.T), alphas[self.layer], damping)


Blocks = tuple[Together | KroneckerLayer, ...]
"""What of G is kept: every layer is in one of them, in order; what stands between two is taken as zero."""

Curvature = Callable[[Network], Blocks]

MOST_DENSE = 2048  # parameters of a block


def dense(network: Network) -> Blocks:
    """All layers together: H as it is. Arithmetic n p² + p³ a step, memory p², for p parameters."""
    return (Together(0, network.num_layers - 1),)


def block_diagonal(network: Network) -> Blocks:
    """Each layer by itself, dense."""
    return tuple(Together(layer, layer) for layer in range(network.num_layers))


def kronecker(network: Network) -> Blocks:
    """Each layer by itself, as a Kronecker product (Ritter, Botev & Barber 2018): for wide networks."""
    return tuple(KroneckerLayer(layer) for layer in range(network.num_layers))


def by_size(network: Network) -> Blocks:
    """The default: `dense` up to 2048 parameters; else layer by layer, of these dense those of up to 2048."""
    if network.num_params <= MOST_DENSE:
        return dense(network)
    sizes = [(fan_in + 1) * out for fan_in, out in zip(network.sizes[:-1], network.sizes[1:], strict=True)]
    return tuple(
        Together(layer, layer) if size <= MOST_DENSE else KroneckerLayer(layer) for layer, size in enumerate(sizes)
    )


Statistics = tuple[list[jax.Array], ...]
"""Of each block of G, sums over the rows."""


def block_rows(network: Network, blocks_of_layers: Blocks, n: int) -> int:
    """How many rows are taken at once, so that blocks are of nearly equal size."""
    sizes = network.sizes
    widths = [[(sizes[layer] + 1, sizes[layer + 1]) for layer in block.layers] for block in blocks_of_layers]
    pairs = [(one, other) for own in widths for one in own for other in own]
    most = max(max(one[0] * other[0], one[1] * other[1]) for one, other in pairs)
    blocks = -(-n // max(FEWEST_ROWS, BLOCK_ENTRIES // most))
    return -(-n // blocks)


def are_few(network: Network, n: int) -> bool:
    """Whether so many rows are taken at once, by their Jacobian."""
    return n * network.sizes[-1] <= FEW_ROWS


def in_blocks(array: jax.Array, size: int) -> jax.Array:
    """`(m, n)` as `(blocks, m, size)`, filled up with zeros."""
    m, n = array.shape
    blocks = -(-n // size)
    padded = jnp.pad(array, ((0, 0), (0, blocks * size - n)))
    return jnp.moveaxis(padded.reshape(m, blocks, size), 1, 0)


def statistics_of_rows(
    network: Network,
    blocks: Blocks,
    likelihood: Likelihood,
    beta: jax.Array,
    matrices: Sequence[jax.Array],
    current: linearization.Pass,
    shares: jax.Array,
    few: bool,
) -> Statistics:
    """Of some rows, with their forward pass and their shares `(n,)` of the whole weight; `few` if `are_few` are all."""
    sensitivity = linearization.sensitivities(matrices, current, (0, network.num_layers - 1))
    if network.sizes[-1] == 1:
        bend = likelihood.curve(current.prediction, beta, jnp.ones_like(current.prediction))
        curved = [bend[:, None] * each for each in sensitivity]
    else:
        curve = jax.vmap(lambda vectors: likelihood.curve(current.prediction, beta, vectors), in_axes=1, out_axes=1)
        curved = [curve(each) for each in sensitivity]
    return tuple(block.statistics(current.below, sensitivity, curved, shares, few) for block in blocks)


def gram_of(tables: Sequence[jax.Array], network: Network, layers: range) -> jax.Array:
    """The upper half of G of some layers, `(p, p)`, from the products of every pair, unless they are G already."""
    p = sum((network.sizes[layer] + 1) * network.sizes[layer + 1] for layer in layers)
    if tables[0].shape == (p, p):
        return tables[0]
    blocks = {pair: _laid_out(table, network, *pair) for pair, table in zip(_pairs(layers), tables, strict=True)}
    return upper_blocks([[blocks[one, other] for other in layers if one <= other] for one in layers])


def _pairs(layers):
    return [(one, other) for one in layers for other in layers if one <= other]


def _table(below, sensitivity, curved, one, other):
    """`Σ_n (a_i a'_i') M_jj'`, pairs of i × pairs of j; of a single j, `m × m` at once."""
    m, m_other = below[one].shape[0], below[other].shape[0]
    (k, q, _), q_other = sensitivity[one].shape, sensitivity[other].shape[1]
    if one == other and q == 1:
        weight = add([sensitivity[one][c] * curved[one][c] for c in range(k)])
        return matmul(weight * below[one], below[one].T)
    if one == other:
        (low, high), (left, right) = np.triu_indices(m), np.triu_indices(q)
    else:
        low, high = (index.ravel() for index in np.indices((m, m_other)))
        left, right = (index.ravel() for index in np.indices((q, q_other)))
    inputs = picked(below[one], low) * picked(below[other], high)
    outputs = add([picked(sensitivity[one][c], left) * picked(curved[other][c], right) for c in range(k)])
    return lax.dot_general(inputs, outputs, (((1,), (1,)), ((), ())), precision=HIGHEST)


def _laid_out(table, network, one, other):
    """The block of the rows of `one` and the columns of `other`."""
    m, m_other = network.sizes[one] + 1, network.sizes[other] + 1
    q, q_other = network.sizes[one + 1], network.sizes[other + 1]
    if one == other and q == 1:
        return table
    if one == other:
        table = picked(picked(table, _symmetric(m).ravel()).T, _symmetric(q).ravel()).T
    return table.reshape(m, m_other, q, q_other).transpose(0, 2, 1, 3).reshape(m * q, m_other * q_other)


def _symmetric(size):
    """The place of the pair (i, j), and of (j, i), among those of `np.triu_indices`; `(size, size)`."""
    places = np.zeros((size, size), np.int32)
    low, high = np.triu_indices(size)
    places[low, high] = places[high, low] = np.arange(len(low), dtype=np.int32)
    return places
