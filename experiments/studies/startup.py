"""How long until the first network is trained: fresh processes, imports apart.

    python -m experiments.studies.startup [--repeats N]

A network 8-20-20-1 on 500 rows, 50 steps, from `network.init` to the trained parameters; and `fit` of ten networks on
1000 rows × 8. Each in a process of its own, one after the other in turn: without a cache of compiled
programs, and with one that an earlier process has filled. Beside them Adam as one writes it by hand in Optax, which
draws its start array by array, and scikit-learn's MLP with lbfgs. Medians of several; the last column is over Adam by
hand without a cache.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from experiments.measuring import command_line

ROWS, STEPS, SIZES = 500, 50, (8, 20, 20, 1)
FITTED_ROWS = 1000


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(n, 8)` and targets `(n, 1)`: a smooth function of three inputs, with noise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, SIZES[0]))
    targets = np.sin(2 * inputs[:, :1]) + 0.3 * inputs[:, 1:2] * inputs[:, 2:3] + 0.2 * rng.normal(size=(count, 1))
    return inputs.astype(np.float32), targets.astype(np.float32)


def by_hand() -> Callable[[], object]:
    """Adam as in a tutorial of Optax: a scan in one `jax.jit`."""
    import jax
    import jax.numpy as jnp
    import optax

    inputs, targets = rows(ROWS)

    def train():
        params = [
            (jax.random.normal(key, (fan_in, fan_out)) / jnp.sqrt(fan_in), jnp.zeros(fan_out))
            for key, fan_in, fan_out in zip(
                jax.random.split(jax.random.key(0), len(SIZES) - 1), SIZES[:-1], SIZES[1:], strict=True
            )
        ]
        optimizer = optax.adam(1e-2)

        def loss(params):
            values = inputs
            for weight, bias in params[:-1]:
                values = jnp.tanh(values @ weight + bias)
            return jnp.mean((values @ params[-1][0] + params[-1][1] - targets) ** 2)

        @jax.jit
        def steps(params):
            def step(carry, _):
                params, state = carry
                value, gradient = jax.value_and_grad(loss)(params)
                change, state = optimizer.update(gradient, state)
                return (optax.apply_updates(params, change), state), value

            return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)

        return jax.block_until_ready(steps(params))

    return train


def by_jills(name: str) -> Callable[[], object]:
    """One of the algorithms."""
    import jax

    import jills

    inputs, targets = rows(ROWS)

    def train():
        network = jills.Network(SIZES, jills.activations.tanh)
        algorithm = getattr(jills, name).build(network)
        batch = jills.Batch(inputs, targets)
        told = jills.run(algorithm, algorithm.defaults, network.init(jax.random.key(0)), batch, STEPS)
        return jax.block_until_ready(told)

    return train


def by_estimator() -> Callable[[], object]:
    """Ten networks with evidence, by `fit`."""
    from jills.estimators import NetworkRegressor

    inputs, targets = rows(FITTED_ROWS)
    return lambda: NetworkRegressor(random_state=0).fit(inputs, targets[:, 0])


def by_scikit_learn() -> Callable[[], object]:
    """The MLP with lbfgs and as many steps as it comes with."""
    from sklearn.neural_network import MLPRegressor

    inputs, targets = rows(ROWS)
    model = MLPRegressor(hidden_layer_sizes=SIZES[1:-1], activation="tanh", solver="lbfgs", max_iter=200)
    return lambda: model.fit(inputs, targets[:, 0])


METHODS: dict[str, Callable[[], Callable[[], object]]] = {
    "Adam by hand": by_hand,
    "Adam": lambda: by_jills("adam"),
    "Gauss–Newton": lambda: by_jills("gauss_newton"),
    "evidence": lambda: by_jills("evidence"),
    "ILLS": lambda: by_jills("ills"),
    "MLP of scikit-learn, lbfgs": by_scikit_learn,
    "NetworkRegressor.fit, 1000 rows": by_estimator,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = command_line("studies.startup", __doc__)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="processes of each (default: 5)")
    parser.add_argument("--one", choices=METHODS, help="measure this once, in this process")
    parser.add_argument("--cache", metavar="FOLDER", help="where compiled programs are kept")
    options = parser.parse_args(arguments)
    if options.one:
        print(measured(options.one, options.cache))
        return 0
    table = compare(options.repeats)
    print(f"seconds to the first trained network, median of {options.repeats} fresh processes:")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    return 0


def measured(name: str, cache: str | None) -> float:
    """Seconds, in this process."""
    train = METHODS[name]()
    if cache:
        import jills

        jills.enable_compilation_cache(cache)
    began = time.perf_counter()
    train()
    return time.perf_counter() - began


def compare(repeats: int, methods: Sequence[str] = tuple(METHODS)) -> pd.DataFrame:
    """Every repeat measures all of them, one after the other."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in methods:
            process(name, folder)
        for _ in range(repeats):
            for name in methods:
                seconds.setdefault((name, "cold"), []).append(process(name))
                seconds.setdefault((name, "cached"), []).append(process(name, folder))
    median = {key: float(np.median(values)) for key, values in seconds.items()}
    usual = median[methods[0], "cold"]
    return pd.DataFrame(
        {
            "method": name,
            "without a cache, s": median[name, "cold"],
            "with one, s": median[name, "cached"],
            "over by hand": median[name, "cold"] / usual,
            "with a cache, over": median[name, "cached"] / usual,
        }
        for name in methods
    )


def process(name: str, folder: str | None = None) -> float:
    """Seconds of one method, in a process of its own."""
    command = [sys.executable, "-m", "experiments.studies.startup", "--one", name]
    told = subprocess.run([*command, *(["--cache", folder] if folder else [])], capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(f"{name}: {told.stderr[-2000:]}")
    return float(told.stdout.split()[-1])


if __name__ == "__main__":
    sys.exit(main())
