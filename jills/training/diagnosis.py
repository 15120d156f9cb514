"""How a member's training went, as a status and the reason for it: the paper's failure signatures, after the run."""

from typing import NamedTuple

import jax
import numpy as np

from jills import results
from jills.training.history import FLAT, History, fall, scale
from jills.types import Info, State

RISE = 10.0  # the final loss exceeds that of the start by this factor
OVERFITTED = 0.05  # the lowest validation loss of the last fifth lies above the lowest of all by more than this share
SATURATED = 1 / 3  # a share of the first layer's units that is worth a word
USELESS = 0.9  # a share that leaves next to nothing to train
MOVING = 0.05  # effective parameters that change by this share have not come to rest
HIDDEN_NOISE = 0.99e8  # a β at its limit
PRUNED = 0.5  # effective parameters of a group
DETERMINED = 0.9  # a share of all parameters


class Diagnosis(NamedTuple):
    """NumPy arrays of strings, of the shape of the members: `()`, `(S,)`, `(H, S)` and so on."""

    word: np.ndarray  # converged, improving, stalled, overfitted, diverged or ill-conditioned
    why: np.ndarray  # a sentence with the figures, and what to do


def diagnose(state: State, info: Info) -> Diagnosis:
    """Tells how training went, from the state and `Info` that `run` or `sweep` returned.

    The first rule that holds gives the word. "Flat" is: the best loss fell by less than 1 % in the
    last fifth of the steps; of a loss that may be negative, by less than 1 % of all that was gained.

    * diverged: NaN or inf, a final loss that has risen by more than nine times that of the start (of this `info`),
      or row weights that leave nothing to train on.
    * overfitted: a validation loss is known, its lowest value in the last fifth of the steps lies more than 5 %
      above the lowest of all, and the training loss is no higher than it was there.
    * converged: stopped by `patience`, with the best parameters of the validation rows.
    * of `jills.evidence`, unless validation rows judge it: converged, or improving while its effective parameters
      change by more than 5 % in the last fifth; with what is pruned, or beyond what the data can tell.
    * converged: reached the target loss.
    * stalled: nine tenths of the first layer's units started saturated (`state.saturated`), and it is flat or has
      stopped, at a loss that is not zero to rounding.
    * converged: stopped by a tolerance, or flat; and at rest, see below, within 1 % of the best loss; or flat with a
      loss of zero to rounding.
    * improving: not flat; more steps would help.
    * ill-conditioned: flat, and in at least half of the last fifth a layer solve had missing ranks
      or a reciprocal condition below `√ε` (of algorithms that tell, such as ILLS).
    * stalled: flat otherwise, or stopped though its gradient is not small.

    "At rest" is: the last gradient was small, and the last update moved the parameters by less than 0.1 % of their
    norm; what is not told does not count. Where a `relative_gradient` is told, as by Gauss–Newton, small is 0.01, and
    updates do not count. Where a `gradient_norm` is told, small is a tenth of its largest in this `info`, or of
    `loss / ‖parameters‖`.

    A validation loss is what `metrics` recorded under the name `validation_loss` or `val_loss`, or as its only
    number for each step, without a name (a metric that is no loss needs one: `{"accuracy": …}`). "Flat" is then
    said of it: while it falls the word is improving, and where it does not but the training loss still falls,
    converged.

    Args:
        state: leaves `[…]`.
        info: leaves `[…, T]`.
    """
    shape = np.shape(state.loss)
    state = state._replace(
        activations=(),
        inner=(),
        best_params=(),
        fingerprint=(),
        saturated=np.broadcast_to(state.saturated, shape),
        validation=(),
        since_best=(),
    )
    members: tuple[State, Info] = jax.tree.map(np.asarray, (state, info))
    with np.errstate(all="ignore"):  # a diverged member may hold anything
        pairs = [judge(History.of(*_at(members, index))) for index in np.ndindex(shape)]
    words, reasons = (np.array(column, dtype=object).reshape(shape) for column in zip(*pairs, strict=True))
    return Diagnosis(words.astype(str), reasons.astype(str))


def _at(members, index):
    return jax.tree.map(lambda leaf: leaf[index], members)


def judge(history: History) -> tuple[str, str]:
    """The word and the reason of one member."""
    told = _failed(history) or _waited(history) or _overfitted(history) or _by_evidence(history)
    if told is None and history.code == results.TARGET_REACHED:
        told = "converged", _ending(history)
    word, why = told or (_by_trend(history) if history.code == results.RUNNING else _stopped(history))
    standardised = history.evidence is not None  # inside
    if history.code == results.TARGET_REACHED or history.is_exact or standardised:
        return word, why
    if history.saturated >= USELESS and word in ("converged", "ill-conditioned"):
        word = "stalled"
    if history.saturated >= SATURATED:
        why += (
            f"; {history.saturated:.0%} of the first layer's units were saturated at the start (or dead, as ReLUs "
            "are): standardise the inputs"
        )
    return word, why


def _failed(history):
    losses, code = history.losses, history.code
    bad = ~np.isfinite(losses)
    if code == results.BAD_WEIGHTS:
        return "diverged", results.Code(code).message
    if bad[0] and not np.isfinite(history.best_loss):
        return "diverged", "NaN or inf at the start; look at the parameters, inputs and targets that it starts from"
    if code == results.NON_FINITE or bad.any():
        when = f"after {bad.argmax()} steps" if bad.any() else "in the parameters"
        return "diverged", f"NaN or inf {when}; best_params holds the best before; {_gentler(history)}"
    start, final = losses[0], losses[-1]
    if final - start > (RISE - 1.0) * abs(start) + history.floor:
        return "diverged", f"the loss rose from {start:.3g} to {final:.3g}; {_gentler(history)}"
    return None


def _waited(history):
    if history.code != results.PATIENCE:
        return None
    validation = history.validation
    best = "" if validation is None else f": {validation.min():.3g}, after {validation.argmin()} steps"
    return "converged", f"{results.Code(history.code).message}{best}"


def _by_evidence(history):
    """By what moves while a network chooses its own regularisation: training losses rise and fall with it."""
    evidence = history.evidence
    if evidence is None or history.validation is not None:
        return None
    effective, log_evidence = evidence.effective.sum(axis=1), evidence.log_evidence
    before = effective[-1 - min(history.window, len(effective) - 1)]
    told = (
        f"{effective[-1]:.0f} of {evidence.parameters} parameters are determined by the data ({before:.0f} "
        f"{history.window} steps before), log evidence is {log_evidence[-1]:.5g}{_limits(evidence)}"
    )
    if history.code != results.RUNNING:
        return "converged", f"{_ending(history)}; {told}"
    moving = abs(effective[-1] - before) > MOVING * effective[-1] + 1
    return ("improving", f"{told}; more steps move it on") if moving else ("converged", told)


def _limits(evidence):
    """What a user should know of how far the evidence reached."""
    effective, told = evidence.effective[-1], ""
    if evidence.most_beta >= HIDDEN_NOISE:
        told += "; the noise is below what the data can tell"
    pruned = int(np.sum(effective < PRUNED))
    if len(effective) > 1 and pruned:
        told += f"; {pruned} of {len(effective)} groups of parameters are pruned"
    if effective.sum() > DETERMINED * evidence.parameters:
        told += "; nearly all parameters are determined: a larger network may fit better, unless rows are few"
    return told


def _overfitted(history):
    validation, losses = history.validation, history.losses
    if validation is None:
        return None
    best, late = validation.argmin(), validation[-history.window :].min()
    risen = late - validation[best] > OVERFITTED * scale(validation) + history.floor
    if not risen or losses[-history.window :].min() > losses[best]:
        return None
    return "overfitted", (
        f"the validation loss was lowest after {best} steps, {validation[best]:.3g}, and is {validation[-1]:.3g} now, "
        f"while the training loss went from {losses[best]:.3g} to {losses[-1]:.3g}; stop there, or take more ridge or "
        "weight decay"
    )


def _stopped(history):
    if history.is_exact:
        return "converged", f"it has stopped at loss {history.losses[-1]:.3g}, which is zero to rounding"
    why = _ending(history)
    if history.code == results.STUCK:
        return "stalled", why
    if history.is_small is False:
        return "stalled", f"{why}, though its {_gradient(history)}; ask for a smaller tolerance"
    if history.is_above_best:
        return "stalled", f"{why}, while its lowest was {np.min(history.losses):.3g}; {_gentler(history)}"
    return "converged", why


def _ending(history):
    return f"{results.Code(history.code).message}; its loss is {history.losses[-1]:.3g}"


def _by_trend(history):
    window, losses, validation = history.window, history.losses, history.validation
    falls = fall(losses, window, history.floor)
    steps = f"{window} steps" if window > 1 else "step"
    lately = f"best loss fell by {falls:.2%} in the last {steps}, to {np.min(losses):.3g}"
    judged = falls
    if validation is not None:
        judged = fall(validation, window, history.floor)
        lately += f", that of validation by {judged:.2%}, to {np.min(validation):.3g}"
    if history.is_above_best:
        lately += f" (it ends at {losses[-1]:.3g})"
    if judged >= FLAT:
        return "improving", f"{lately}; more steps would help"
    if len(losses) == 1 and history.moved > 0:
        return "improving", f"only one loss is known, {losses[0]:.3g}; more steps would tell"
    if falls >= FLAT:
        return "converged", f"{lately}; more steps would fit nothing but the training rows"
    return _flat(history, lately)


def _flat(history, lately):
    moved = f"the last update was {history.moved:.1g} of the parameters' norm"
    resting = history.finds_its_length or history.is_still
    if history.is_exact:
        return "converged", f"{lately}, which is zero to rounding"
    if resting and history.is_small is not False and not history.is_above_best:
        return "converged", f"{lately}; {moved if history.is_small is None else 'its ' + _gradient(history)}"
    signs = history.ill_conditioned
    share = 0.0 if signs is None else np.mean(signs[-history.window :])
    if share >= 0.5:
        return "ill-conditioned", (
            f"{lately}; in {share:.0%} of them a layer solve was rank-deficient or nearly so; "
            "add ridge, or take fewer hidden units"
        )
    if resting and history.is_small is False:
        return "stalled", f"{lately}, though its {_gradient(history)}; {_livelier(history)}"
    return "stalled", f"{lately}; {moved}; {_gentler(history)}"


def _gradient(history):
    return f"gradient is {history.gradient:.2g} of its scale, where {history.small:g} is small"


def _gentler(history):
    if history.finds_its_length:
        return "try more weight decay or damping, or another start"
    return "try a lower learning rate" + ("" if history.ill_conditioned is None else ", or more ridge")


def _livelier(history):
    if history.finds_its_length:
        precise = " in float64" if history.in_float32 else ""
        return f"rounding, an outlier or a bend of ReLU may hide what it gains: take more steps{precise}"
    if history.moved == 0:
        return "it does not move any more: rounding may hide what it gains"
    return f"its last update was {history.moved:.1g} of the parameters' norm: try a higher learning rate"
