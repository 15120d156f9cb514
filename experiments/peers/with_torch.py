"""PyTorch: torch-levenberg-marquardt, and its own L-BFGS."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import jills
from experiments.peers.base import (
    Budget,
    Peer,
    Problem,
    Recorder,
    Trace,
    fastest_threads,
    has_small_jacobian,
    is_least_squares,
)

ACTIVATIONS = {
    jills.activations.tanh: "Tanh",
    jills.activations.relu: "ReLU",
    jills.activations.sigmoid: "Sigmoid",
    jills.activations.softplus: "Softplus",
    jills.activations.silu: "SiLU",
    jills.activations.identity: "Identity",
}


def levenberg_marquardt(problem: Problem, budget: Budget, solve_method: str) -> Trace:
    """The training module of torch-levenberg-marquardt, as it comes except for the linear solver.

    A step may end at parameters that raise the loss (after ten failed attempts), so the loss is computed after each,
    outside the clock.
    """
    from torch_levenberg_marquardt.training import (  # pyright: ignore[reportMissingImports] optional
        LevenbergMarquardtModule,
    )

    logging.getLogger("torch_levenberg_marquardt").setLevel(logging.ERROR)  # a failed solve is one of its attempts

    def build() -> tuple[Any, ...]:
        model, inputs, targets = prepared(problem)
        return LevenbergMarquardtModule(model, solve_method=solve_method), model, inputs, targets  # pyright: ignore[reportArgumentType] one of three words

    trial, _, *data = build()
    threads = set_fastest_threads(lambda: trial.training_step(*data))
    module, model, inputs, targets = build()
    recorder = Recorder(problem, budget)

    def solve() -> str:
        stopped = False
        while not stopped:
            stopped = module.training_step(inputs, targets)[2]
            recorder.note(partial(loss_of, model, inputs, targets), partial(params_of, model))
        return "damping at its limit"

    return recorder.trace(f"{recorder.until_enough(solve)}; threads: {threads}")


def lbfgs(problem: Problem, budget: Budget) -> Trace:
    """`torch.optim.LBFGS` with its strong Wolfe search and ten pairs. A step is an evaluation of loss and gradient."""
    import torch  # pyright: ignore[reportMissingImports] optional

    model, inputs, targets = prepared(problem)
    settings: dict[str, Any] = {"max_iter": 10**9, "max_eval": 10**9, "tolerance_grad": 0, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS(model.parameters(), history_size=10, line_search_fn="strong_wolfe", **settings)

    def evaluate():
        optimizer.zero_grad()
        loss = torch.mean(torch.square(model(inputs) - targets))
        loss.backward()
        return loss

    def recorded():
        loss = evaluate()
        recorder.note(loss.item(), partial(params_of, model))
        return loss

    threads = set_fastest_threads(evaluate)
    recorder = Recorder(problem, budget)

    def solve() -> str:
        optimizer.step(recorded)
        return "no further step"

    return recorder.trace(f"{recorder.until_enough(solve)}; threads: {threads}")


def set_fastest_threads(call: Callable[[], object]) -> int:
    """Sets PyTorch's threads to the number with which a call is faster, and returns it."""
    import torch  # pyright: ignore[reportMissingImports] optional

    def work(threads):
        torch.set_num_threads(threads)
        call()

    threads = fastest_threads(work)
    torch.set_num_threads(threads)
    return threads


def prepared(problem: Problem) -> tuple[Any, Any, Any]:
    """The network as a module at the start, inputs and targets."""
    import torch  # pyright: ignore[reportMissingImports] optional

    parts = []
    for layer, activation in zip(problem.params, problem.network.activations, strict=True):
        linear = torch.nn.Linear(layer.weight.shape[0], layer.weight.shape[1])
        linear.weight.data = torch.tensor(np.asarray(layer.weight).T.copy())
        linear.bias.data = torch.tensor(np.asarray(layer.bias))
        parts += [linear, getattr(torch.nn, ACTIVATIONS[activation])()]
    if problem.network.activations[-1] == jills.activations.identity:
        parts.pop()
    inputs, targets = np.asarray(problem.batch.inputs), np.asarray(problem.batch.targets)
    return torch.nn.Sequential(*parts), torch.tensor(inputs), torch.tensor(targets)


def loss_of(model: Any, inputs: Any, targets: Any) -> float:
    """The mean square, which is also the true loss of jills."""
    import torch  # pyright: ignore[reportMissingImports] optional

    with torch.no_grad():
        return torch.mean(torch.square(model(inputs) - targets)).item()


def params_of(model: Any) -> jills.Params:
    """The parameters that a module holds; copies, since PyTorch changes its own in place."""
    arrays = [jnp.array(tensor.detach().numpy().copy()) for tensor in model.parameters()]
    return tuple(jills.Layer(weight.T, bias) for weight, bias in zip(arrays[::2], arrays[1::2], strict=True))


def is_known(problem: Problem) -> bool:
    """Least squares with activations that PyTorch has."""
    return is_least_squares(problem) and set(problem.network.activations) <= set(ACTIVATIONS)


def fits(problem: Problem) -> bool:
    """Whether the Jacobian fits in memory, too."""
    return is_known(problem) and has_small_jacobian(problem)


PEERS = (
    *(
        Peer(
            name,
            partial(levenberg_marquardt, solve_method=method),
            fits,
            "torch_levenberg_marquardt",
            "torch-levenberg-marquardt",
        )
        for name, method in (("torch LM, QR", "qr"), ("torch LM, Cholesky", "cholesky"))
    ),
    Peer("torch L-BFGS", lbfgs, is_known, "torch", "torch", "evaluation"),
)
