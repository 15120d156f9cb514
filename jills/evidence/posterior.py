"""The posterior of the parameters about a minimum: effective parameters, evidence, and the updates of α and β.

    H = G + diag(α),   γ_g = Σ_(i in g) (1 − α_g H⁻¹_ii)
    log evidence = −S − ½ log det H + ½ Σ_g p_g log α_g − N Σ log Z(β)
    α_g ← γ_g / ‖θ_g‖²,   β ← max(N − γ, N / 50) / 2 Σ e

(MacKay, Neural Computation 4, 1992.) H is factored as `D^½ C D^½` with D its diagonal, and what rounding hides in C
counts as more prior: a direction that only noise determines is none of the effective parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.linalg import inverse_root, matmul

ALPHA = (1e-4, 1e6)  # limits, of standardised data
BETA = (1e-3, 1e8)
LARGEST_CHANGE = 10.0  # a factor, of an α or β in one update
LEAST_FREEDOM = 0.02  # of the rows: what is left of them beside the effective parameters
LEAST_EFFECTIVE = 1e-3


class Factored(NamedTuple):
    """`H⁻¹ = D^-½ L⁻ᵀ L⁻¹ D^-½`."""

    root: jax.Array  # (p, p) L⁻¹, of C + τ I
    diagonal: jax.Array  # (p,) D
    shift: jax.Array  # () τ: rounding, and a damping

    @classmethod
    def of(cls, gram: jax.Array, alpha: jax.Array, damping: jax.Array | float = 0.0) -> "Factored":
        """Of `G + diag(α)`, `(p, p)` and `(p,)`, and a damping λ in units of D."""
        scaled, diagonal = scaled_to_unit(gram, alpha)
        shift = jnp.asarray(damping + rounding(scaled), scaled.dtype)
        return cls(inverse_root(shifted(scaled, shift)), diagonal, shift)

    def log_det(self) -> jax.Array:
        """Of H, `()`."""
        return jnp.sum(jnp.log(self.diagonal)) - 2.0 * jnp.sum(jnp.log(jnp.diagonal(self.root)))

    def determined(self, alpha: jax.Array) -> jax.Array:
        """`1 − α_i H⁻¹_ii` of every parameter, `(p,)`: how far the data determine it, from 0 to 1."""
        inverse = jnp.sum(jnp.square(self.root), axis=0)
        return jnp.clip(1.0 - (alpha / self.diagonal + self.shift) * inverse, 0.0, 1.0)

    def solve(self, right: jax.Array) -> jax.Array:
        """`H⁻¹ b`, `(p,)`."""
        root = jnp.sqrt(self.diagonal)
        return matmul(self.root.T, matmul(self.root, right / root)) / root

    def variances(self, jacobian: jax.Array) -> jax.Array:
        """`J_n H⁻¹ J_nᵀ` for `(p, m)`, `(m,)`."""
        return jnp.sum(jnp.square(matmul(self.root, jacobian / jnp.sqrt(self.diagonal)[:, None])), axis=0)


def scaled_to_unit(gram: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C of unit diagonal, `(p, p)`, and D, `(p,)`, of `G + diag(α)`."""
    diagonal = jnp.diagonal(gram) + alpha
    inverse = 1.0 / jnp.sqrt(diagonal)
    scaled = gram * (inverse[:, None] * inverse[None, :])
    eye = jnp.eye(gram.shape[0], dtype=bool)
    return jnp.where(eye, jnp.ones_like(scaled), scaled), diagonal


def rounding(scaled: jax.Array) -> float:
    """What rounding of the entries of C can change of its eigenvalues."""
    return float(4 * jnp.finfo(scaled.dtype).eps * np.sqrt(scaled.shape[0]))


def shifted(scaled: jax.Array, shift: jax.Array) -> jax.Array:
    """`C + τ I`."""
    eye = jnp.eye(scaled.shape[0], dtype=bool)
    return jnp.where(eye, 1.0 + shift, scaled)


def sums(values: jax.Array, groups: np.ndarray) -> jax.Array:
    """Of each group, `(g,)`, of values `(p,)`."""
    count = int(groups.max()) + 1
    if count == 1:
        return jnp.sum(values)[None]
    member = groups[None, :] == np.arange(count)[:, None]
    return matmul(jnp.asarray(member, values.dtype), values)


def moved(old: jax.Array, wanted: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """Towards what is wanted, by at most a factor, within limits; the old one where that is not finite."""
    near = jnp.clip(wanted, old / LARGEST_CHANGE, old * LARGEST_CHANGE)
    return jnp.where(jnp.isfinite(wanted), jnp.clip(near, *limits), old)
