"""How an estimator trains its members: all of them, and all folds, in one compiled call."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import predictions
from jills.compilation import is_cached
from jills.estimators.fitted import Fitted
from jills.estimators.forward import Scaling, probabilities
from jills.estimators.methods import Method
from jills.estimators.rows import as_batch, padded
from jills.network import Network
from jills.predictions import Prediction
from jills.programs import Program
from jills.training import Diagnosis, SweepResult, diagnose, progress_bar, sweep
from jills.types import Batch
from jills.warn import warn

WORTH_A_WORD = 1.0  # seconds of compilation
CHUNK = 20  # steps between two looks at the progress
HELD_OUT = 0.2  # of the rows, where validation rows choose


class Table(NamedTuple):
    """What is to be fitted: standardised, of NumPy."""

    inputs: np.ndarray  # (n, d)
    targets: np.ndarray  # (n, k)
    weights: np.ndarray  # (n,)


class Outcome(NamedTuple):
    """What training leaves behind, beside the `Fitted`."""

    result: SweepResult  # leaves [1, M, …]
    curve: np.ndarray  # (T,) mean loss over the members, of standardised targets
    diagnosis: Diagnosis  # (M,)
    weights: np.ndarray  # (M, n) row weights of every member
    unseen: tuple[np.ndarray, np.ndarray] | None  # with folds: of `out_of_fold`
    error: float  # with folds: its mean square, or of classes its cross-entropy


def keys_of(seed: int, count: int) -> tuple[jax.Array, jax.Array]:
    """`jax.random.key(seed)`, and as many keys of starts split from it, `(count,)`; in one program."""
    config: Any = jax.config
    return _keys("fast", {}, (count, config.jax_default_prng_impl), np.int32(seed))


def _seeded(count, impl, seed):
    key = jax.random.key(seed, impl=impl)
    return key, jax.random.split(key, count)


_keys = Program(_seeded, (0, 1))


def start_of(network: Network, dtype: Any) -> Any:
    """A problem for `sweep(batches=…)`: the start of a key."""
    return jax.tree_util.Partial(_start, network, np.zeros((), dtype))


def _start(network, like, key):
    return network.init(key, like.dtype)


def swept(method: Method, keys: jax.Array, dtype: Any, verbose: bool, batches: Batch, **options: Any) -> SweepResult:
    """A sweep of a method from the starts of keys; `options` are those of `sweep`."""
    result = sweep(
        method.algorithm,
        method.hparams,
        start_of(method.algorithm.network, dtype),
        keys,
        method.num_steps,
        CHUNK,
        progress_bar(method.num_steps) if verbose else None,
        batches=batches,
        **options,
    )
    if result.compile_seconds > max(WORTH_A_WORD, result.run_seconds) and not is_cached():
        _tell_of_the_cache(round(result.compile_seconds, 1), round(result.run_seconds, 1))
    return result


_told: list[bool] = []


def _tell_of_the_cache(compiling, training):
    """Once in a process."""
    if not _told:
        _told.append(True)
        warn(
            f"compilation took {compiling} s and training {training} s; after jills.enable_compilation_cache() the "
            "next process finds compiled programs on disk"
        )


def train(
    method: Method,
    described: dict[str, Any],
    table: Table,
    units: tuple[Scaling, Scaling],
    members: int,
    folds: int | None,
    seed: int,
    dtype: np.dtype,
    verbose: bool = False,
    compile: str = "auto",
    before: SweepResult | None = None,
    **told: Any,
) -> tuple[Fitted, Outcome]:
    """Trains M members and puts them together; of several hyperparameters those with the lowest error out of fold.

    Args:
        method: the algorithm and its hyperparameters.
        described: what `method_of` made it of.
        table: standardised rows.
        units: the scaling of inputs and targets.
        members: M; with folds the next multiple of them.
        folds: how many; member m leaves out the fold m modulo folds.
        seed: of the starts, of folds and of validation rows.
        dtype: to train in.
        verbose: whether to show a progress bar.
        compile: of `sweep`.
        before: an earlier result to go on from.
        **told: further fields of `Fitted`.
    """
    members = members if folds is None else -(-members // folds) * folds
    key, keys = keys_of(seed, members)
    weights, validation = _shares(key, method, table, members, folds)
    same = (weights == weights[0]).all()
    batch = as_batch(table.inputs, table.targets, weights[0] if same else weights, dtype)
    batches = jax.device_put(batch)
    judge = None if validation is None else as_batch(table.inputs, table.targets, validation, dtype)
    options: dict[str, Any] = {"validation": judge, "patience": None if judge is None else method.patience}
    options["state"] = None if before is None else before.state
    result = swept(method, keys, dtype, verbose, batches, compile=compile, **options)
    candidates = range(len(result.state.loss)) if folds else [_best_hparams(result, judged=judge is not None)]
    outcomes = []
    for place in candidates:
        # By NumPy: JAX would compile each of these.
        state, info = jax.tree.map(lambda leaf, at=place: np.asarray(leaf)[at], (result.state, result.info))
        fitted = Fitted(
            described=_taken(described, place),
            state=state,
            params=state.params if judge is None else state.best_params,
            batch=batches,
            inputs=units[0],
            targets=units[1],
            factor=np.ones(table.targets.shape[1]),
            residual=np.zeros(table.targets.shape[1]),
            **told,
        )
        if not method.by_evidence:
            seen = table.weights if validation is None else validation
            fitted = _with(fitted, residual=_residual(fitted, table, seen))
        unseen, error = None, 0.0
        if folds is not None:
            fitted, *unseen = out_of_fold(fitted, weights, table, folds)
            error = _error(fitted, table, unseen[0])
        outcomes.append((error, place, info, fitted, unseen))
    error, _, info, fitted, unseen = min(outcomes, key=lambda outcome: outcome[:2])
    curve = np.nanmean(np.asarray(info.loss, np.float64), axis=0)
    return fitted, Outcome(result, curve, diagnose(fitted.state, info), weights, unseen, error)


def _taken(described, place):
    """Of several numbers that regularise the one of a candidate; decays vary fastest in `hparams`."""
    number = described["regularization"]
    return described | ({"regularization": number[place % len(number)]} if isinstance(number, tuple) else {})


def _shares(key, method, table, members, folds):
    """Row weights of every member, `(M, n)`, and those of the validation rows, `(n,)`, or None."""
    n = len(table.inputs)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    validation, used = None, table.weights
    if method.patience is not None:
        order = rng.permutation(n)
        held = np.zeros(n, bool)
        held[order[: max(1, round(HELD_OUT * n))]] = True
        if n < 2:
            raise ValueError("n_samples = 1: regularization='validation' wants at least two rows")
        validation, used = np.where(held, table.weights, 0.0), np.where(held, 0.0, table.weights)
    if folds is None:
        return np.broadcast_to(used, (members, n)), validation
    left = np.asarray(predictions.folds(key, n, folds), np.float64)
    return np.tile(left, (members // folds, 1)) * used[None, :], validation


def _best_hparams(result, judged):
    """Which of the candidates for a hyperparameter ends best over its members."""
    ends = result.state.best_loss if judged else result.state.loss
    return int(np.argmin(np.nan_to_num(np.median(np.asarray(ends, np.float64), axis=1), nan=np.inf, posinf=np.inf)))


def _residual(fitted, table, weights):
    """Mean square of what the ensemble leaves of targets, `(k,)`."""
    apart = table.targets - fitted.targets.applied(_outputs(fitted, table).mean(axis=0))
    return np.average(np.square(apart), axis=0, weights=weights)


def _outputs(fitted, table):
    """Of every member for standardised rows, in the units of the targets, `(M, n, k)`; of classes logits."""
    return fitted.forward._replace(inputs=Scaling.none(table.inputs.shape[1])).each(table.inputs)


def out_of_fold(fitted: Fitted, weights: np.ndarray, table: Table, folds: int) -> tuple[Fitted, np.ndarray, np.ndarray]:
    """The predictions for rows by members that did not see them; and the fitted with the factor that they ask for.

    Returns:
        The `Fitted`; standardised means, `(n, k)`, or for classes probabilities; and their deviations.
    """
    n, rounds = len(table.inputs), len(weights) // folds
    if fitted.classes is None:
        columns = padded(table.inputs.astype(fitted.state.loss.dtype))
        told = jax.tree.map(lambda leaf: leaf[:, :n] if leaf.ndim == 3 else leaf, fitted.each(columns))
    else:
        mean = jnp.asarray(probabilities(_outputs(fitted, table)), fitted.state.loss.dtype)
        told = Prediction(mean, jnp.zeros_like(mean), jnp.zeros_like(mean[:, 0]), mean)
    dtype = told.mean.dtype
    unseen = predictions.out_of_fold(told, jnp.asarray(weights > 0, dtype), rounds)
    mean = np.asarray(unseen.mean, np.float64)
    if fitted.classes is not None:
        return fitted, mean / np.sum(mean, axis=1, keepdims=True), np.zeros_like(mean)
    if not fitted.method.by_evidence:
        residual = np.average(np.square(table.targets - mean), axis=0, weights=table.weights)
        return _with(fitted, residual=residual), mean, np.broadcast_to(np.sqrt(residual), mean.shape)
    factor = predictions.calibration(unseen, *(jnp.asarray(each, dtype) for each in (table.targets, table.weights)))
    factor = np.asarray(factor, np.float64)
    return _with(fitted, factor=factor), mean, np.sqrt(np.asarray(unseen.variance, np.float64) * factor)


def _error(fitted, table, unseen):
    """Mean square of what predictions leave of standardised targets; of classes the cross-entropy; NaN is infinite."""
    if fitted.classes is None:
        each = np.mean(np.square(table.targets - unseen), axis=1)
    else:
        labels = table.targets[:, 0] if unseen.shape[1] == 2 else np.argmax(table.targets, axis=1)
        own = np.take_along_axis(unseen, labels.astype(int)[:, None], axis=1)[:, 0]
        each = -np.log(np.maximum(own, 1e-12))
    return float(np.nan_to_num(np.average(each, weights=table.weights), nan=np.inf))


def _with(fitted: Fitted, **fields: Any) -> Fitted:
    return Fitted(**{**vars(fitted), **fields})
