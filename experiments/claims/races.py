"""A race on a clock: four algorithms, each with the same seconds, and Adam's loss as the line to cross.

Seconds are run time of one network, without compilation. Which cells are raced in is up to `phase_map`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import jills
from experiments.claims.base import Row
from experiments.peers import Budget, Problem, Trace, stepped, with_jills, with_optax
from experiments.peers.base import true_loss

ALGORITHMS = ("ills", "gauss_newton", "adam", "lbfgs")
LOSS = jills.losses.squared_error
CAP, LEAST_SECONDS = 3, 0.05
Train = Callable[[Problem, Budget], Trace]


def tune(
    samples: list[Problem], adam_steps: int, adam_rates: list[float], rho: list[float]
) -> tuple[dict[str, Train], dict[str, float]]:
    """The algorithms that take the problem, and the rates that gave the lowest median loss: Adam's, ILLS's."""
    budget = Budget(math.inf, adam_steps)
    rates = {"adam": best_rate(with_optax.adam, adam_rates, samples, budget)}
    trainers: dict[str, Train] = {
        "adam": partial(with_optax.adam, learning_rate=rates["adam"]),
        "lbfgs": with_optax.lbfgs,
        "gauss_newton": partial(with_jills.run, build=with_jills.gauss_newton),
    }
    if with_jills.suits_ills(samples[0]):
        seconds = [trainers["adam"](problem, budget).seconds[-1] for problem in samples]
        rates["ills"] = best_rate(ills, rho, samples, Budget(cap_of(np.median(seconds))))
        trainers["ills"] = partial(ills, learning_rate=rates["ills"])
    return trainers, rates


def best_rate(run: Callable[..., Trace], rates: list[float], samples: list[Problem], budget: Budget) -> float:
    """That with the lowest median training loss."""
    losses = {rate: np.median([run(problem, budget, rate).lowest for problem in samples]) for rate in rates}
    return min(losses, key=lambda rate: losses[rate])


def ills(problem: Problem, budget: Budget, learning_rate: float) -> Trace:
    """ILLS with another rate than its own."""
    hparams = stepped.in_dtype(jills.ills.Hparams(learning_rate), problem.params)
    return stepped.run(with_jills.JillsMethod(with_jills.ills(problem)), hparams, problem, budget)


def cap_of(seconds: Any) -> float:
    """The seconds of every algorithm, from those of Adam's steps."""
    return max(LEAST_SECONDS, CAP * float(seconds))


def race(train: Train, problem: Problem, reference: Trace, test: jills.Batch) -> Row:
    """A run for the whole cap: when it reached the error, inf if it did not, and its losses."""
    target, cap = reference.lowest, cap_of(reference.seconds[-1])
    trace = train(problem, Budget(cap, target_loss=target, min_seconds=cap))
    seconds = trace.seconds_to(target)
    row = {"target": target, "cap": cap, "seconds": seconds if seconds <= cap else math.inf}
    row |= {"steps": len(trace.losses) - 1, "compile_seconds": trace.compile_seconds, "loss": trace.lowest}
    return row | {"test_loss": float(true_loss(problem.network, LOSS, trace.params, test))}
