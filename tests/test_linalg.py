"""The batched Cholesky: its derivatives against those of NumPy's inverse."""

import jax
import jax.numpy as jnp
import numpy as np

from jills import linalg


def test_derivatives_of_solve_and_inverses():
    """In both modes, with a `vmap` around, and of matrices of two sizes that are solved in one call."""
    rng = np.random.default_rng(0)
    roots = [rng.standard_normal((size, size)) for size in (5, 3)]
    matrices = [root @ root.T + np.eye(len(root)) for root in roots]
    changes = [change + change.T for change in (rng.standard_normal(root.shape) for root in roots)]
    right, right_change = rng.standard_normal((2, 5))

    def sums(large, small, right):
        inverses = linalg.inverses([large, small])
        return jnp.stack([jnp.sum(inverses[0]), jnp.sum(inverses[1]), jnp.sum(linalg.solve(large, right))])

    found = [np.linalg.inv(matrix) for matrix in matrices]
    slopes = [-inverse @ change @ inverse for inverse, change in zip(found, changes, strict=True)]
    expected = [slopes[0].sum(), slopes[1].sum(), (slopes[0] @ right + found[0] @ right_change).sum()]
    primals, tangents = (*matrices, right), (*changes, right_change)
    forward = jax.vmap(lambda *one: jax.jvp(sums, primals, one)[1])(*(one[None] for one in tangents))[0]
    np.testing.assert_allclose(forward, expected, rtol=1e-10)
    backward = jax.jacrev(sums, argnums=(0, 1, 2))(*primals)
    along = [jnp.tensordot(one, tangent, tangent.ndim) for one, tangent in zip(backward, tangents, strict=True)]
    np.testing.assert_allclose(np.sum(along, axis=0), expected, rtol=1e-10)
