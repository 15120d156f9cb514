"""Quasi-Newton directions: an inverse curvature that is known roughly, corrected by the last changes of the gradient.

    H = (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ   for each pair  s = change of θ,  y = change of g,  ρ = 1 / sᵀy,
    beginning with  γ P,   γ = sᵀy / yᵀPy  of the last pair

This is L-BFGS (Nocedal 1980) with a preconditioner P in place of the identity. H itself is never formed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jills.linalg import dot, positive
from jills.transformations import alike, exported

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
        self, where: jax.Array, change: jax.Array, rise: jax.Array, preconditioned: jax.Array | None = None
    ) -> "Pairs":
        """With one more pair, where the curvature between its parts is positive.

        Args:
            where: `()` bool, whether at all.
            change: s.
            rise: y.
            preconditioned: `P y`, which γ follows from; None: γ stays 1, for a P that is an inverse curvature itself.
        """
        curvature = dot([change], [rise])
        size = curvature if preconditioned is None else dot([rise], [preconditioned])
        least = CURVED * jnp.linalg.norm(change) * jnp.linalg.norm(rise)
        inverse, scale = 1 / positive(curvature), curvature / positive(size)
        where = where & (curvature > least) & (size > 0) & jnp.isfinite(size) & jnp.isfinite(inverse) & (scale > 0)

        def pushed(old, new):
            return jnp.where(where, jnp.concatenate([old[1:], new[None]]), old)

        return Pairs(
            pushed(self.changes, change),
            pushed(self.rises, rise),
            pushed(self.inverse, inverse),
            jnp.where(where, scale, self.scale),
        )

    def direction(self, gradient: jax.Array, precondition: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """`−H g`, by the two loops of Nocedal 1980; the pairs need not be known when the program is made."""

        def backwards(rest, pair):
            change, rise, inverse = pair
            part = inverse * dot([change], [rest])
            return rest - part * rise, part

        def forwards(found, pair):
            change, rise, inverse, part = pair
            return found + (part - inverse * dot([rise], [found])) * change, None

        pairs = (self.changes, self.rises, self.inverse)
        rest, parts = lax.scan(backwards, *alike((gradient, pairs)), reverse=True)
        return -lax.scan(forwards, *alike((self.scale * precondition(rest), (*pairs, parts))))[0]
