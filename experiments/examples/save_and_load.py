"""Networks that outlive their process: saved here, loaded in another, and carried over to another library."""

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


def to_equinox(networks: Any, rows: np.ndarray) -> np.ndarray:
    """The same mean by `equinox.nn.MLP`, all members at once; of standardised inputs and targets."""
    # Flax: {"params": {f"layers_{2 * i}": {"kernel": weight, "bias": bias}}}, layer i of nn.Sequential([nn.Dense(20),
    # nn.tanh, nn.Dense(1)]); weights lie there as they do here.
    eqx: Any = importlib.import_module("equinox")
    (d, width), activation = networks.weights[0].shape[1:], getattr(jnp, networks.activation)
    mlp = eqx.nn.MLP(d, 1, width, len(networks.weights) - 1, activation, key=jax.random.key(0))
    leaves = [jnp.asarray(v) for w, b in zip(networks.weights, networks.biases, strict=True) for v in (w.mT, b)]
    mlps = eqx.tree_at(lambda mlp: [v for layer in mlp.layers for v in (layer.weight, layer.bias)], mlp, leaves)
    each = eqx.filter_vmap(lambda mlp, x: jax.vmap(mlp)(x), in_axes=(eqx.if_array(0), None))
    return networks.targets.undone(np.mean(each(mlps, jnp.asarray(networks.inputs.applied(rows))), axis=0))[:, 0]


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

    if importlib.util.find_spec("equinox") is not None:
        apart = max(apart, float(np.max(np.abs(to_equinox(model.to_numpy(), test) - here[0])) / np.std(here[0])))
        print(f"in Equinox likewise; all together by {apart:.1e}")
    return apart


if __name__ == "__main__":
    main()
