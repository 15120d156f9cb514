"""The scaling of a layer's inputs as a change of coordinates."""

import jax.numpy as jnp
import numpy as np

from jills.gauss_newton.coordinates import Scaling


def test_scaling_is_a_change_of_coordinates(dtype):
    rng = np.random.default_rng(5)
    inputs = np.vstack([rng.standard_normal((2, 13)) * [[1e3], [1e-3]] + 5, np.full((1, 13), 7.0), np.zeros((1, 13))])
    weights = rng.dirichlet(np.ones(13))
    inputs, weights = jnp.asarray(inputs, dtype), jnp.asarray(weights, dtype)
    scaling = Scaling.of(inputs, weights)
    below = jnp.concatenate([inputs, jnp.ones((1, 13), dtype)])
    scaled = scaling.below(below)
    tight = 1e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(scaled[:2] @ weights, 0, atol=10 * tight)
    np.testing.assert_allclose(np.square(scaled[:2]) @ weights, [30.0**2, 30.0**-2], rtol=100 * tight)
    np.testing.assert_allclose(scaled[2:4], 0, atol=1e-5)
    assert (scaling.scale > 0).all()
    change, vector = (jnp.asarray(rng.standard_normal((5, 3)), dtype) for _ in range(2))
    back = scaling.to_params(change)
    np.testing.assert_allclose(back.T @ below, change.T @ scaled, rtol=tight, atol=100 * tight)
    np.testing.assert_allclose(jnp.vdot(back, vector), jnp.vdot(change, scaling.transposed(vector)), rtol=10 * tight)
    recovered = scaling.gradient(scaling.transposed(vector))
    np.testing.assert_allclose(recovered, vector, rtol=tight, atol=tight * float(jnp.max(jnp.abs(inputs))))
