"""Networks that outlive their process: saved here, loaded in another, and carried over to other libraries."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import jills

OTHER_PROCESS = """
import sys, numpy as np, jills; folder = sys.argv[1]
networks = jills.estimators.load(folder + "/networks.npz")  # neither scikit-learn nor the estimator
rows = np.load(folder + "/rows.npy")
np.save(folder + "/there.npy", [networks.predict(rows), *networks.predict_interval(rows)])
assert "sklearn" not in sys.modules
"""


def function_of(networks: Any) -> Any:
    """The activation, of JAX itself."""
    return jnp.arcsinh if networks.activation == "arcsinh" else getattr(jax.nn, networks.activation)


def to_equinox(networks: Any) -> Any:
    """All members as one `equinox.nn.Sequential` with stacked leaves, of standardised inputs and targets."""
    eqx: Any = importlib.import_module("equinox")
    layers = []
    for weight, bias in zip(networks.weights, networks.biases, strict=True):
        blank = eqx.nn.Linear(*weight.shape[1:], key=jax.random.key(0))
        linear = eqx.tree_at(lambda own: (own.weight, own.bias), blank, (jnp.asarray(weight.mT), jnp.asarray(bias)))
        layers += [linear, eqx.nn.Lambda(function_of(networks))]
    return eqx.nn.Sequential(layers[:-1])


def by_equinox(networks: Any, inputs: jax.Array) -> jax.Array:
    """What each member predicts, `(M, n, k)`."""
    eqx: Any = importlib.import_module("equinox")
    each = eqx.filter_vmap(lambda member, rows: jax.vmap(member)(rows), in_axes=(eqx.if_array(0), None))
    return each(to_equinox(networks), inputs)


def to_flax(networks: Any) -> Any:
    """The same as one `flax.nnx.Sequential`."""
    nnx: Any = importlib.import_module("flax.nnx")
    layers = []
    for weight, bias in zip(networks.weights, networks.biases, strict=True):
        linear = nnx.Linear(*weight.shape[1:], rngs=nnx.Rngs(0))
        linear.kernel, linear.bias = nnx.Param(jnp.asarray(weight)), nnx.Param(jnp.asarray(bias))
        layers += [linear, function_of(networks)]
    return nnx.Sequential(*layers[:-1])


def by_flax(networks: Any, inputs: jax.Array) -> jax.Array:
    """What each member predicts, `(M, n, k)`."""
    nnx: Any = importlib.import_module("flax.nnx")
    return nnx.vmap(lambda member, rows: member(rows), in_axes=(0, None))(to_flax(networks), inputs)


def elsewhere(predict: Any, networks: Any, rows: np.ndarray) -> np.ndarray:
    """The mean of another library's predictions, in the targets' units, `(n, k)`."""
    each = predict(networks, jnp.asarray(networks.inputs.applied(rows)))
    return networks.targets.undone(np.mean(each, axis=0))


def main(**parameters: Any) -> float:
    """The largest difference between predictions here and there, over their spread."""
    table: Any = load_diabetes()
    train, test, known = table.data[:400], table.data[400:], table.target[:400]
    model = jills.estimators.NetworkRegressor(**{"hidden": (20,), "random_state": 0, **parameters}).fit(train, known)
    here = np.array([model.predict(test), *model.predict_interval(test)])
    with TemporaryDirectory() as folder:
        model.save(Path(folder, "networks.npz"))
        np.save(Path(folder, "rows.npy"), test)
        subprocess.run([sys.executable, "-c", OTHER_PROCESS, folder], check=True)
        apart = float(np.max(np.abs(np.load(Path(folder, "there.npy")) - here)) / np.std(here[0]))
    print(f"mean and interval of {len(test)} rows, here and in another process: apart by {apart:.1e} of their spread")

    for library, predict in (("equinox", by_equinox), ("flax", by_flax)):
        if importlib.util.find_spec(library) is not None:
            there = elsewhere(predict, model.to_numpy(), test)[:, 0]
            apart = max(apart, float(np.max(np.abs(there - here[0])) / np.std(here[0])))
            print(f"in {library} likewise; all together by {apart:.1e}")
    return apart


if __name__ == "__main__":
    main()
