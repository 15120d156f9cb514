"""`H = G + diag(α)` of some layers, factored: solves, its determinant, and how far the data determine each parameter.

H is taken as it is (`Dense`), or in the eigenvectors of both Kronecker factors of a layer (`Kronecker`). What rounding
hides of it, in units of its diagonal, counts as more prior, and so does a damping: a direction that only noise
determines is none of the effective parameters. Where Cholesky fails for rounding, still more is added until it holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import linearization
from jills.linalg import Vector, add, diagonal, eigenvectors, inverse_root, matmul


class Dense(NamedTuple):
    """`H⁻¹ = L⁻ᵀ L⁻¹` of layers together."""

    root: jax.Array  # (p, p) L⁻¹
    prior: jax.Array  # (p,) α, and what rounding and a damping add to it

    @classmethod
    def of(cls, gram: jax.Array, alpha: jax.Array, damping: jax.Array | float = 0.0) -> "Dense":
        """Of `H = G + diag(α)`; and a damping in units of its diagonal.

        Args:
            gram: G, `(p, p)`, of which the upper half is read.
            alpha: `(p,)`.
            damping: λ, `()`.
        """
        root, shift = inverse_root(gram, alpha, jnp.asarray(damping + rounding(gram), gram.dtype))
        return cls(root, alpha + shift * (alpha + diagonal(gram)))

    @property
    def size(self) -> int:
        """P."""
        return self.prior.size

    def solve(self, right: jax.Array) -> jax.Array:
        """`H⁻¹ b`, `(p,)`."""
        # `x L⁻¹`, not `L⁻ᵀ x`: XLA takes ten times as long for that.
        return matmul(matmul(self.root, right), self.root)

    def log_det(self) -> jax.Array:
        """Of H, `()`."""
        return -2.0 * jnp.sum(jnp.log(diagonal(self.root)))

    def determined(self) -> jax.Array:
        """`1 − α_i H⁻¹_ii` of every parameter, `(p,)`: how far the data determine it, from 0 to 1."""
        return jnp.clip(1.0 - self.prior * jnp.sum(jnp.square(self.root), axis=0), 0.0, 1.0)

    def variances(self, below: Vector, sensitivity: Vector) -> jax.Array:
        """`J_n H⁻¹ J_nᵀ` for `A^l` `(m_l, n)` and `S^l` `(k, n_l, n)` of the layers, `(k, n)`."""
        jacobian = linearization.jacobian(below, sensitivity)
        return jax.vmap(lambda rows: jnp.sum(jnp.square(matmul(self.root, rows)), axis=0))(jacobian)


class Kronecker(NamedTuple):
    """`H = P^½ (U ⊗ V) diag(r) (U ⊗ V)ᵀ P^½` of one layer, with P the prior of each of its inputs."""

    inputs: jax.Array  # (m, m) U, eigenvectors of P^-½ A P^-½
    outputs: jax.Array  # (q, q) V, eigenvectors of G
    spectrum: jax.Array  # (m, q) r = 1 + eigenvalues
    prior: jax.Array  # (m,) P

    @classmethod
    def of(cls, a: jax.Array, g: jax.Array, alpha: jax.Array, damping: jax.Array | float = 0.0) -> "Kronecker":
        """Of `A ⊗ G + diag(α)`, `(m, m)`, `(q, q)` and `(m, q)`; α is averaged over the outputs."""
        prior = jnp.exp(jnp.mean(jnp.log(alpha), axis=1))
        root = 1.0 / jnp.sqrt(prior)
        first, inputs = eigenvectors(a * (root[:, None] * root[None, :]))
        second, outputs = eigenvectors(g)
        spectrum = jnp.maximum(first, 0.0)[:, None] * jnp.maximum(second, 0.0)[None, :]
        return cls(inputs, outputs, (1.0 + damping) * (1.0 + spectrum), prior)

    @property
    def size(self) -> int:
        """Of its parameters, m q."""
        return self.spectrum.size

    def solve(self, right: jax.Array) -> jax.Array:
        """`H⁻¹ b`, `(m q,)`."""
        root = 1.0 / jnp.sqrt(self.prior)[:, None]
        turned = self._turned(root * right.reshape(self.spectrum.shape)) / self.spectrum
        return (root * matmul(matmul(self.inputs, turned), self.outputs.T)).ravel()

    def log_det(self) -> jax.Array:
        """Of H, `()`."""
        return jnp.sum(jnp.log(self.spectrum)) + self.spectrum.shape[1] * jnp.sum(jnp.log(self.prior))

    def determined(self) -> jax.Array:
        """`1 − α_i H⁻¹_ii`, `(m q,)`."""
        squares = matmul(matmul(jnp.square(self.inputs), 1.0 - 1.0 / self.spectrum), jnp.square(self.outputs).T)
        return jnp.clip(squares, 0.0, 1.0).ravel()

    def variances(self, below: Vector, sensitivity: Vector) -> jax.Array:
        """`J_n H⁻¹ J_nᵀ`, `(k, n)`."""
        first = jnp.square(matmul(self.inputs.T, below[0] / jnp.sqrt(self.prior)[:, None]))
        seen = matmul((1.0 / self.spectrum).T, first)  # (q, n)
        return jax.vmap(lambda rows: jnp.sum(jnp.square(matmul(self.outputs.T, rows)) * seen, axis=0))(sensitivity[0])

    def _turned(self, matrix):
        return matmul(matmul(self.inputs.T, matrix), self.outputs)


Factor = Dense | Kronecker


class Posterior(NamedTuple):
    """The factors of H, one for each block of layers; what lies between blocks is taken as zero."""

    factors: tuple[Factor, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing lies between blocks."""
        return len(self.factors) == 1

    def solve(self, right: jax.Array) -> jax.Array:
        """`H⁻¹ b`, `(p,)`."""
        pieces = jnp.split(right, np.cumsum([factor.size for factor in self.factors])[:-1])
        return jnp.concatenate([factor.solve(piece) for factor, piece in zip(self.factors, pieces, strict=True)])

    def log_det(self) -> jax.Array:
        """Of H, `()`."""
        return add([factor.log_det() for factor in self.factors])

    def determined(self) -> jax.Array:
        """`1 − α_i H⁻¹_ii`, `(p,)`."""
        return jnp.concatenate([factor.determined() for factor in self.factors])

    def variances(self, layers: Sequence[range], below: Vector, sensitivity: Vector) -> jax.Array:
        """`J_n H⁻¹ J_nᵀ` of new rows, `(k, n)`, for the layers of each block, and `A^l` and `S^l` of all."""
        pairs = zip(self.factors, layers, strict=True)
        return add([one.variances([below[at] for at in own], [sensitivity[at] for at in own]) for one, own in pairs])


def scaled_to_unit(gram: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C of unit diagonal, `(p, p)`, and D, `(p,)`, of `G + diag(α)`."""
    d = diagonal(gram) + alpha
    inverse = 1.0 / jnp.sqrt(d)
    scaled = gram * (inverse[:, None] * inverse[None, :])
    eye = jnp.eye(gram.shape[0], dtype=bool)
    return jnp.where(eye, jnp.ones_like(scaled), scaled), d


def rounding(matrix: jax.Array) -> float:
    """What rounding of its entries can change of the eigenvalues of a `(p, p)`, in units of its diagonal."""
    return float(4 * jnp.finfo(matrix.dtype).eps * np.sqrt(matrix.shape[0]))
