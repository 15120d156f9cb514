"""How a member's training went, as a status and the reason for it: the paper's failure signatures, after the run."""

from typing import NamedTuple

import jax
import numpy as np

from jills import results
from jills.types import Info, State

FLAT = 0.01  # the best loss falls by less than this share in the last fifth of the steps
RISE = 10.0  # the final loss exceeds that of the start by this factor
AT_REST = 1e-3  # the last update is below this share of the parameters' norm


class Diagnosis(NamedTuple):
    """NumPy arrays of strings, of the shape of the members: `()`, `(S,)`, `(H, S)` and so on."""

    word: np.ndarray  # converged, improving, stalled, diverged or ill-conditioned
    why: np.ndarray  # a sentence with the figures, and what to do


def diagnose(state: State, info: Info) -> Diagnosis:
    """Tells how training went, from the state and `Info` that `run` or `sweep` returned.

    The first rule that holds gives the word. "Flat" is: the best loss fell by less than 1 % in the
    last fifth of the steps; of a loss that may be negative, by less than 1 % of all that was gained.

    * diverged: NaN or inf, a final loss that has risen by more than nine times that of the start (of this `info`),
      or row weights that leave nothing to train on.
    * converged: stopped by a target or tolerance; or flat, and the last update moved the parameters
      by less than 0.1 % of their norm.
    * improving: not flat; more steps would help.
    * ill-conditioned: flat, and in at least half of the last fifth a layer solve had missing ranks
      or a reciprocal condition below `√ε` (of algorithms that tell, such as ILLS).
    * stalled: flat otherwise: it still moves, but the loss does not fall.

    Args:
        state: leaves `[…]`.
        info: leaves `[…, T]`.
    """
    shape = np.shape(state.loss)
    losses = np.concatenate([np.asarray(info.loss), np.asarray(state.loss)[..., None]], axis=-1)
    losses = losses.reshape(-1, losses.shape[-1])
    window = max(1, (losses.shape[1] - 1) // 5)
    sign = _share_ill_conditioned(info, window).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged member may hold anything
        moved = _last_relative_update(state, info).reshape(-1)
    codes = np.asarray(state.result).reshape(-1)
    pairs = [_judge(*member, window) for member in zip(codes, losses, moved, sign, strict=True)]
    words, reasons = (np.array(column, dtype=object).reshape(shape) for column in zip(*pairs, strict=True))
    return Diagnosis(words.astype(str), reasons.astype(str))


def _judge(code, losses, moved, ill_conditioned, window):
    start, final = losses[0], losses[-1]
    bad = ~np.isfinite(losses)
    if code == results.BAD_WEIGHTS:
        return "diverged", results.Code(code).message
    if code == results.NON_FINITE or bad.any():
        when = f"after {bad.argmax()} steps" if bad.any() else "in the parameters"
        return "diverged", f"NaN or inf {when}; best_params holds the last good ones; {_GENTLER}"
    if final - start > (RISE - 1.0) * abs(start):
        return "diverged", f"the loss rose from {start:.3g} to {final:.3g}; {_GENTLER}"
    if code != results.RUNNING:
        return "converged", f"{results.Code(code).message}, at loss {final:.3g}"
    best = np.minimum.accumulate(losses)
    # Of the loss; where it may be negative and its zero means nothing, of all that was gained.
    whole = best[-1 - window] if best[-1] >= 0 else start - best[-1]
    fall = (best[-1 - window] - best[-1]) / whole if whole > 0 else 0.0
    lately = f"best loss fell by {fall:.2%} in the last {window} steps, to {best[-1]:.3g}"
    if fall >= FLAT:
        return "improving", f"{lately}; more steps would help"
    if moved <= AT_REST:
        return "converged", f"{lately}; the last update was {moved:.1g} of the parameters' norm"
    if ill_conditioned >= 0.5:
        return "ill-conditioned", (
            f"{lately}; in {ill_conditioned:.0%} of them a layer solve was rank-deficient or nearly so; "
            "add ridge, or take fewer hidden units"
        )
    return "stalled", f"{lately}, while updates are {moved:.1g} of the parameters' norm; {_GENTLER}"


_GENTLER = "try a lower learning rate, or more ridge"


def _share_ill_conditioned(info, window):
    detail = info.detail
    if not hasattr(detail, "rcond"):
        return np.zeros(np.shape(info.loss)[:-1])
    rcond = np.asarray(detail.rcond)[..., -window:]
    missing = np.asarray(getattr(detail, "rank_deficit", np.zeros_like(rcond)))[..., -window:]
    rcond = np.where(np.isnan(rcond), 1.0, rcond)  # of members that stood still
    return np.mean((rcond < np.finfo(rcond.dtype).eps ** 0.5) | (missing > 0), axis=-1)


def _last_relative_update(state, info):
    lead = np.ndim(state.loss)
    squares = [np.sum(np.square(leaf), axis=tuple(range(lead, np.ndim(leaf)))) for leaf in _leaves(state.params)]
    norm = np.sqrt(np.sum(squares, axis=0))
    return np.asarray(info.update_norm)[..., -1] / np.where(norm > 0, norm, 1.0)


def _leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
