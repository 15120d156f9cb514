"""What a sweep returns, and what it remembers of how it was made."""

from collections.abc import Callable
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jills import results
from jills.arrays import brief, check_array
from jills.functions import Static, settle
from jills.network import Network
from jills.training import tables
from jills.types import Info, Params, State

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MOST_NUMBERS = 2**24  # of activations at a time, on an accelerator
NOT_BY_EVIDENCE = (
    "best: evidence does not tell which network is best: between restarts it is next to uncorrelated with the test "
    "error, and between sizes it may rank the wrong way. Take the mean of all members (jills.ensemble), or choose by "
    "'validation', or by the out-of-fold error (jills.folds)"
)


class Trained(NamedTuple):
    """One member of a sweep after training: what `jills.run` would have returned for it."""

    state: State
    info: Info  # NumPy leaves [T, …]


class SweepResult(NamedTuple):
    """What a sweep returns.

    With `jills.save` and `jills.load` it goes to a file and back; activations of a user's own do not, and then
    `network` is None.
    """

    state: State  # leaves [H, S, …]
    info: Info  # NumPy leaves [H, S, T, …]; of a sweep with `records`, arrays of Zarr, which read what is indexed
    num_steps: int  # T; less than asked for only if interrupted
    interrupted: bool  # by Ctrl-C or an error of `on_chunk`: then the last whole chunk is what is kept
    compile_seconds: float  # tracing and compilation
    run_seconds: float  # all chunks together, without compilation
    error: Exception | None = None  # that `on_chunk` raised: it ends a sweep as Ctrl-C does
    keys: Any = None  # (S, …) uint32, NumPy: their data, see `jax.random.wrap_key_data`
    hparams: Any = None  # NumPy leaves (H,)
    algorithm: str = ""  # what it was, in words: see `jills.training.description`
    network: Network | None = None  # that was trained; None: of a file that does not tell it

    def member(self, h: int, s: int) -> Trained:
        """State and info of one member: `state, info = result.member(h, s)`.

        Args:
            h: which hyperparameters, `0 … H − 1`.
            s: which key, `0 … S − 1`.

        Raises:
            IndexError: there is no such member; indices are not counted from the end.
        """
        for name, value, size in zip("hs", (h, s), self.state.loss.shape, strict=True):
            if not 0 <= index(value) < size:
                raise IndexError(f"member: {name} is {value}, but must be from 0 to {size - 1}")
        return Trained(*jax.tree.map(lambda leaf: leaf[h, s], (self.state, self.info)))

    def best(self, by: "str | Callable[[SweepResult], Any]" = "loss") -> tuple[int, int]:
        """The member with the lowest value, `(h, s)`; NaN and infinity are never the lowest, of equals the first is.

        Compare what is comparable: training losses of members with one loss on one data set.

        Args:
            by: "loss", the training loss of the final parameters; "validation", the lowest loss of the validation
                rows, that of `state.best_params`; or a function of this result that returns a number for each member,
                `(H, S)`, such as `lambda result: result.state.best_loss`. Evidence is no criterion: between restarts
                it is next to uncorrelated with the test error, see `jills.evidence`.

        Raises:
            ValueError: no such criterion, no validation rows, other shapes, or no member with a finite value.
        """
        values, shape = self._judged(by), self.state.loss.shape
        if values.shape != shape:
            raise ValueError(f"best: by(result) has shape {values.shape}, but must tell a number for each of {shape}")
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError("best: no member has a finite value; jills.diagnose(result.state, result.info) tells why")
        h, s = np.unravel_index(np.argmin(np.where(finite, values, np.inf)), shape)
        return int(h), int(s)

    def _judged(self, by):
        if callable(by):
            return np.asarray(by(self), float)
        if by in ("evidence", "log_evidence"):
            raise ValueError(NOT_BY_EVIDENCE)
        if by not in ("loss", "validation"):
            raise ValueError(f"best: by is {brief(by)}, but must be 'loss', 'validation' or a function of the result")
        if by == "validation" and isinstance(self.info.validation, tuple):
            raise ValueError("best: this sweep had no validation rows; give it validation=jills.Batch(…)")
        values = self.state.loss if by == "loss" else self.state.best_loss
        # Without a row of positive weight a loss is zero, and nothing was trained.
        return np.where(np.asarray(self.state.result) == results.BAD_WEIGHTS, np.nan, np.asarray(values, float))

    def predict(self, inputs: Any, *, best: bool = False, network: Network | None = None) -> jax.Array:
        """What every member predicts: `network.predict`, `[H, S, n, k]`.

        That is in the terms of the loss it was trained on: logits for the cross-entropies, whose probabilities are
        `jax.nn.softmax` or `jax.nn.sigmoid` of it. (How sure a network is: `jills.evidence.predict`.)

        Args:
            inputs: `(n, d)`, the same for all, or `(S, n, d)`, for each key its own.
            best: False: by the final parameters; True: by `state.best_params`, those of the lowest loss, of the
                validation rows where there were such.
            network: None: that of this result, if it knows it.

        Raises:
            ValueError: inputs that do not fit the network, or no network is known.
        """
        network = self.network if network is None else network
        if network is None:
            raise ValueError(
                "predict: this result does not know its network, as it comes from a file of an earlier version, or "
                "the activations are functions of your own, which a file cannot hold; give network="
            )
        params = self.state.best_params if best else self.state.params
        return _predict(network, params, inputs, self.state.loss.shape)

    def to_dataframe(self, curves: bool = False) -> "pd.DataFrame":
        """A tidy frame of pandas with a row for each member.

        Its columns are `hparam` and `seed` (h and s), each hyperparameter by its name, `steps`, `final_loss`,
        `best_loss` (of validation rows, where there are such), `result` (the code in words), `diagnosis` (the word of
        `jills.diagnose`) and, if it was recorded, `last_validation`, of the parameters that the last step received.

        Args:
            curves: give a row for each member and step of this sweep instead: `step` and what `info` tells at it as
                one number, such as `loss`, `update_norm`, `validation`, `detail_damping`.

        Raises:
            ImportError: pandas is not installed.
        """
        return tables.to_dataframe(self.state, self.info, self.hparams, curves)

    def to_xarray(self) -> "xr.Dataset":
        """A dataset of xarray with the dimensions `hparam`, `seed` and `step`.

        It holds all numbers of `info`, under names such as `loss`, `validation`, `detail_damping` or `metrics_error`,
        where arrays have further dimensions, `detail_alpha_0`; of each member `steps`, `final_loss`, `best_loss`,
        `result` and `diagnosis`, as `to_dataframe` does; and the hyperparameters as coordinates of `hparam`. As in
        `info`, `loss[h, s, t]` is the loss after t steps; that after all of them is `final_loss`. (Records that a sweep
        left on disk are read as a whole; `xarray.open_zarr` leaves them there.)

        Raises:
            ImportError: xarray is not installed.
        """
        told = ("num_steps", "compile_seconds", "run_seconds", "algorithm")
        attributes = {name: getattr(self, name) for name in told}
        return tables.to_xarray(self.state, self.info, self.hparams, attributes)


def _predict(network, params: Params, inputs, shape):
    """By all members; leaves of `params` lead with `shape`, `[H, S]`."""
    check_array("inputs", inputs)
    stacked = np.ndim(inputs) == 3
    network.check_inputs(inputs[0] if stacked else inputs)
    if stacked and len(inputs) != shape[1]:
        raise ValueError(
            f"inputs have shape {np.shape(inputs)}, stacked for {len(inputs)} keys, but there are {shape[1]}"
        )
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
    # On CPUs one after the other is the quickest, as in a sweep.
    alone = jax.default_backend() == "cpu"
    size = 1 if alone else max(1, MOST_NUMBERS // (np.shape(inputs)[-2] * sum(network.sizes) + 1))
    predicted = _each(Static(network), size, flat, inputs, np.arange(shape[0] * shape[1]) % shape[1])
    return predicted.reshape(*shape, *predicted.shape[1:])


@partial(jax.jit, static_argnums=(0, 1))
def _each(static, size, params, inputs, seeds):
    """`[M, n, k]`, `size` members at a time."""
    inputs = jnp.asarray(inputs)

    def one(member):
        params, seed = member
        return static.value.predict(params, inputs if inputs.ndim == 2 else inputs[seed])

    predicted = jax.lax.map(one, (params, seeds), batch_size=min(size, len(seeds)))
    settle(static)
    return predicted
