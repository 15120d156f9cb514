"""Quasi-Newton directions: an inverse curvature that is known roughly, corrected by the last changes of the gradient.

    H = (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ   for each pair  s = change of θ,  y = change of g,  ρ = 1 / sᵀy,
    beginning with  γ P,   γ = sᵀy / yᵀPy  of the last pair

This is L-BFGS (Nocedal 1980) with a preconditioner P in place of the identity. H itself is never formed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills.linalg import dot, matmul, positive
from jills.transformations import exported

# The least cosine of the angle between s and y of a pair that is kept. It depends on the scales of parameters: where
# they differ much a good pair is lost now and then, never a descent.
CURVED = 1e-4


@exported
class Pairs(NamedTuple):
    """What is remembered of m changes of p parameters, the latest last."""

    changes: jax.Array  # (m, p) s
    rises: jax.Array  # (m, p) y, changes of the gradient
    inverse: jax.Array  # (m,) 1 / sᵀy; zero where there is none yet
    scale: jax.Array  # () γ

    @classmethod
    def none(cls, pairs: int, num_params: int, dtype) -> "Pairs":
        """Of nothing seen yet."""
        zeros = jnp.zeros((pairs, num_params), dtype)
        return cls(zeros, zeros, jnp.zeros(pairs, dtype), jnp.ones((), dtype))

    def forgotten(self, where: jax.Array) -> "Pairs":
        """Without any pair, where `()` bool."""
        inverse = jnp.where(where, jnp.zeros_like(self.inverse), self.inverse)
        return self._replace(inverse=inverse, scale=jnp.where(where, jnp.ones_like(self.scale), self.scale))

    def with_pair(
        self, where: jax.Array, change: jax.Array, rise: jax.Array, image: jax.Array
    ) -> tuple["Pairs", jax.Array]:
        """With one more pair, where the curvature between its parts is positive; and whether it is there, `()` bool.

        Args:
            where: `()` bool, whether at all.
            change: s.
            rise: y.
            image: `P y`, which γ follows from.
        """
        curvature, size = dot([change], [rise]), dot([rise], [image])
        least = CURVED * jnp.linalg.norm(change) * jnp.linalg.norm(rise)
        inverse, scale = 1 / positive(curvature), curvature / positive(size)
        kept = where & (curvature > least) & (size > 0) & jnp.isfinite(size) & jnp.isfinite(inverse) & (scale > 0)
        changes, rises = pushed(kept, self.changes, change), pushed(kept, self.rises, rise)
        return Pairs(changes, rises, pushed(kept, self.inverse, inverse), jnp.where(kept, scale, self.scale)), kept

    def direction(self, gradient: jax.Array, image: jax.Array, images: jax.Array) -> jax.Array:
        """`−H g`; the pairs need not be known when the program is made.

        By the two loops of Nocedal 1980, but what they add up over pairs stands in products with all pairs at once:
        what is left for loops are the m numbers that pairs have of each other.

        Args:
            gradient: g.
            image: `P g`.
            images: `P y` of every pair, `(m, p)`.
        """
        m, inverse = self.inverse.shape[0], self.inverse
        known = matmul(self.changes, self.rises.T)  # sᵢᵀ yⱼ
        above, none = np.triu(np.ones((m, m), bool), 1), jnp.zeros_like(known)
        later, earlier = (
            jnp.where(part, inverse[:, None] * each, none) for part, each in ((above, known), (above.T, known.T))
        )
        parts = inverse * matmul(self.changes, gradient)
        for j in reversed(range(1, m)):
            parts = parts - parts[j] * later[:, j]
        found = self.scale * (image - matmul(parts, images))  # γ P times what the first loop leaves of g
        parts = parts - inverse * matmul(self.rises, found)
        for j in range(m - 1):
            parts = parts - parts[j] * earlier[:, j]
        return -(found + matmul(parts, self.changes))


def pushed(where: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """`(m, …)` without its first entry and with a last one more, where `()` bool."""
    return jnp.where(where, jnp.concatenate([old[1:], new[None]]), old)
