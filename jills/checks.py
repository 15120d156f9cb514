"""Bad input is refused here, before anything is compiled: what was given, what is allowed, what to do.

Shapes and dtypes are always checked. Values are checked where they are known; inside a trace
(`jit`, `vmap`, a sweep's `problem`) they are not, and there a bad value becomes a result code.
"""

import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.tree_util import Partial

from jills.activations import Activation
from jills.arrays import (
    brief,
    check_array,
    is_argument,
    is_deleted,
    is_number,
    is_plain,
    known,
    native_dtype,
    typed_keys,
)
from jills.batches import of_other_rows
from jills.losses import Allowed, Loss
from jills.network import Network
from jills.results import Stop
from jills.types import Batch, Member, Params, State
from jills.warn import warn


def check_parts(network, loss) -> None:
    """Raises ValueError where an algorithm is built of something else than a network and a loss."""
    check_kind("network", network, Network, "a jills.Network(sizes, activation)")
    check_kind("loss", loss, Loss, "one of jills.losses, such as squared_error, or a jills.Loss(…)")


def check_kind(name: str, value, kind: type, wanted: str) -> None:
    """Raises ValueError where a value is of another class than `kind`, which is `wanted` in words."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {brief(value)}, but must be {wanted}")


def check_params(network: Network, params: Params) -> None:
    """Raises ValueError where params are not those of the network, or in no precision to train in."""
    network.check_params(params)
    dtype = native_dtype(params[0].weight)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"params are {dtype}; all must be float32 or all float64")
    if dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError("params are float64, but JAX has 64 bits off; give them in float32, or set jax_enable_x64")


def check_batch(network: Network, batch: Batch, dtype) -> None:
    """Raises ValueError where the batch does not fit the network, or (if known) is not finite in `dtype`."""
    check_batch_shapes(network, batch)
    if known(batch):
        _check_values(batch, dtype)


def check_batch_shapes(network: Network, batch: Batch) -> None:
    """Raises ValueError where the kinds or shapes of a batch do not fit the network; looks at no value."""
    if not isinstance(batch, Batch):
        raise ValueError(f"batch is a {type(batch).__name__}, but must be a jills.Batch(inputs, targets, weights=None)")
    inputs, targets, weights = batch
    check_array("inputs", inputs)
    check_array("targets", targets)
    sizes, n = network.sizes, np.shape(inputs)[:1]
    for name, array, width in (("inputs", inputs, sizes[0]), ("targets", targets, sizes[-1])):
        shape = np.shape(array)
        if len(shape) != 2 or shape[1] != width or shape[:1] != n:
            hint = _hint(shape, width) if name == "targets" else ""
            raise ValueError(
                f"{name} have shape {shape}, but network sizes {sizes} want (n, {width}) with the n "
                f"of the inputs, {np.shape(inputs)}{hint}"
            )
    if n == (0,):
        raise ValueError("the batch has no rows; at least one is needed")
    if weights is not None:
        check_array("weights", weights)
    if weights is not None and np.shape(weights) != n:
        raise ValueError(f"weights have shape {np.shape(weights)}, but must be (n,) = {n}, one number for each row")


def _hint(shape, width):
    """What may have been meant by targets of another shape."""
    column = "give one output as targets[:, None]" if len(shape) == 1 else ""
    one_hot = f"give labels of {width} classes as jax.nn.one_hot(labels, {width})"
    labels = one_hot if width > 1 and shape[1:] in ((), (1,)) else ""
    return "".join(f"; {hint}" for hint in (column, labels) if hint)


def check_targets(allowed: Allowed | None, batch: Batch) -> None:
    """Raises ValueError where known targets are not those that a loss allows, rows of weight zero aside."""
    if allowed is None or not known(batch):
        return
    targets = np.asarray(batch.targets).astype(np.float64)
    used = np.ones(len(targets), bool) if batch.weights is None else np.asarray(batch.weights) > 0
    targets = np.where(used[:, None], targets, 0.0)
    bad = used & ~allowed.holds(targets)
    if bad.any():
        raise ValueError(
            f"targets of this loss must {allowed.text}; {bad.sum()} of {bad.size} rows are others, "
            f"first row {bad.argmax()}: {np.array2string(targets[bad.argmax()], precision=3, threshold=6)}"
        )


def _check_values(batch, dtype):
    used = np.ones(np.shape(batch.inputs)[0], bool)
    if batch.weights is not None:
        weights = np.asarray(batch.weights)
        with np.errstate(invalid="ignore"):  # a NaN of bfloat16 would warn
            allowed = (weights >= 0) & np.isfinite(weights)
        if not allowed.all():
            raise ValueError("weights hold negative, NaN or infinite values; each must be finite and ≥ 0")
        used = weights > 0
        if not used.any():
            raise ValueError("all weights are zero: no row is left to train on")
    for name, array in (("inputs", batch.inputs), ("targets", batch.targets)):
        with np.errstate(all="ignore"):
            bad = used & ~np.isfinite(np.asarray(array).astype(dtype)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name} hold NaN or inf in {bad.sum()} of {bad.size} rows, first in row {bad.argmax()}; "
                "drop or fill them, or give those rows weight zero"
            )


def warn_outside_range(output: Activation, batch: Batch) -> None:
    """Warns how many known targets the output activation cannot reach."""
    if known(batch):
        targets = np.asarray(batch.targets)
        if batch.weights is not None:
            targets = targets[np.asarray(batch.weights) > 0]
        count = int(np.sum(output.outside(targets)))
        if count:
            low, high = output.range
            warn(
                f"{count} of {targets.size} targets lie outside the range ({low:g}, {high:g}) of the "
                "output activation and were projected into it; scale the targets, or give the "
                "network output=jills.activations.identity"
            )


def check_hparams(hparams, defaults, scalar: bool, dtype=None) -> None:
    """Raises ValueError for hparams of another kind than `defaults`, or known to be outside its `limits`.

    A NaN or infinite number is only warned of: in a sweep it is one member's failure.

    Args:
        hparams: what was given.
        defaults: of the algorithm; its class may have `limits`, field → `jills.hparams.Limit`.
        scalar: whether every leaf must be a scalar, as for one network.
        dtype: that they are used in: what rounds to a number outside is refused too. None: as they are.
    """
    kind = type(defaults)
    if type(hparams) is not kind:
        raise ValueError(
            f"hparams are {type(hparams).__module__}.{type(hparams).__qualname__}, but this algorithm "
            f"wants {kind.__module__}.{defaults!r}"
        )
    _check_numbers(hparams, defaults, scalar)
    if known(hparams):
        for field, limit in getattr(kind, "limits", {}).items():
            _check_limit(field, np.asarray(getattr(hparams, field), np.float64), limit, dtype)


def _check_limit(field, values, limit, dtype):
    """Of one hyperparameter, `()` or `(H,)`."""
    with np.errstate(all="ignore"):
        used = values if dtype is None else values.astype(dtype)
    finite = np.isfinite(used)
    bad = finite & ~(limit.holds(values) & limit.holds(used))
    if bad.any():
        given, rounded = values[bad][0], used[bad][0]
        becomes = "" if not limit.holds(given) else f", which in {used.dtype} is {rounded:g}"
        raise ValueError(f"{field} is {given:.16g}{becomes}, but must lie in {limit}")
    if not finite.all():
        count = np.sum(~finite)
        warn(f"{field} is NaN or infinite in {count} of {values.size}; training fails")


def _check_numbers(hparams, defaults, scalar):
    same = jax.tree.structure(hparams) == jax.tree.structure(defaults)
    leaves = jax.tree.leaves(hparams)
    if not same or not all(map(is_number, leaves)):
        raise ValueError(
            f"hparams are {brief(hparams)}, but each must be a number or an array of numbers, such as {defaults}"
        )
    if scalar and any(np.ndim(leaf) > 0 for leaf in leaves):
        shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves)
        raise ValueError(f"hparams have shapes {shapes}, but one network takes scalars; for several use jills.sweep")


def check_stop(stop: Stop, detail) -> None:
    """Raises ValueError where a stop is no numbers, or looks at a gradient that the algorithm does not tell of.

    Args:
        stop: what was given.
        detail: the algorithm's `blank_detail`.
    """
    if not isinstance(stop, Stop) or not all(is_number(value) and np.ndim(value) == 0 for value in stop):
        raise ValueError(
            f"stop is {brief(stop)}, but must be a jills.Stop of numbers, such as jills.Stop(target_loss=1e-4)"
        )
    if not hasattr(detail, "gradient_norm") and known(stop) and np.any(np.asarray(stop.gradient_norm) >= 0):
        raise ValueError(
            "stop.gradient_norm is given, but this algorithm tells of no gradient (its detail has no gradient_norm); "
            "give update_norm instead"
        )


def checked_count(name: str, value) -> int:
    """A number of steps or members.

    Raises:
        ValueError: it is not a positive integer, of 32 bits as steps are.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= int(value) < 2**31:
        raise ValueError(f"{name} is {brief(value)}, but must be at least 1, and an integer below 2**31")
    return int(value)  # NumPy's of few bits would overflow


def check_function(name: str, function) -> None:
    """Raises ValueError where something cannot be called, or is a `Partial` of what JAX knows no arrays of."""
    if not callable(function):
        raise ValueError(f"{name} is {brief(function)}, but must be a function")
    for leaf in jax.tree.leaves(function) if isinstance(function, Partial) else ():
        if not is_argument(leaf):
            check_array(f"the arguments of {name}'s Partial", leaf)


def checked_member(returned) -> Member:
    """What a problem returned, as a `Member`.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(returned, Batch | State) or not isinstance(returned, tuple | list) or len(returned) not in (2, 3, 4):
        raise ValueError(f"problem(key) returned {brief(returned)}, but must return a jills.Member(params, batch)")
    made = Member(*returned)
    if made.metrics is not None:
        check_function("the metrics of a member", made.metrics)
    return made


def checked_keys(keys) -> jax.Array:
    """Random keys of either kind as typed ones, `(S,)`.

    Raises:
        ValueError: they are none, or of another shape.
    """
    keys = typed_keys("keys", keys, "jax.random.split(jax.random.key(0), S)")
    if keys.ndim != 1 or keys.shape[0] < 1:
        raise ValueError(f"keys have shape {keys.shape}, but must be (S,) with S ≥ 1: jax.random.split(key, S)")
    return keys


def check_state_kind(state) -> None:
    """Raises ValueError where something is no state."""
    check_kind("the state to go on from", state, State, "a jills.State, such as algorithm.init(params, batch) makes")


def checked_state(state: State, blank: State, lead: tuple[int, ...] = ()) -> State:
    """A state to go on from, where a start would have the shapes of `blank`; arrays of NumPy are copied.

    Activations of other rows have other shapes; zeros take their place, and `resume` finds them anew.

    Args:
        state: what was given.
        blank: of the algorithm's `blank`.
        lead: of a sweep `(H, S)`: its leaves are `[H, S, …]`.

    Raises:
        ValueError: the state is one of another algorithm, network, dtype or number of members.
    """
    check_state_kind(state)
    if _is_one_integer(state.result):  # as somebody writes who lets all of them go on
        state = state._replace(result=np.full(lead, np.asarray(state.result), np.int32))
    anew = _are_of_other_rows(state.activations, blank.activations, lead)
    if anew:
        zeros = tuple(np.zeros((*lead, *leaf.shape), leaf.dtype) for leaf in blank.activations)
        state = state._replace(activations=zeros)
    differs = "its structure is another" if jax.tree.structure(state) != jax.tree.structure(blank) else ""
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(blank), strict=False)
    for (place, leaf), model in pairs if not differs else ():
        given, wanted = _described(leaf, model.dtype), f"{model.dtype}{[*lead, *model.shape]}"
        if given != wanted:
            differs = f"{jax.tree_util.keystr(place)} is {given}, but {wanted} is expected"
            break
    if differs:
        raise ValueError(
            f"the state to go on from is of another algorithm, network, dtype or number of members: {differs}"
        )
    copy = lambda leaf, model: leaf if isinstance(leaf, jax.Array) else np.array(leaf, model.dtype)  # noqa: E731
    state = jax.tree.map(copy, state, blank)
    return state._replace(fingerprint=of_other_rows(state.fingerprint)) if anew else state


def _are_of_other_rows(kept, blank, lead):
    """Whether activations were left out, or are some of other shapes than those to be kept."""
    if not isinstance(kept, tuple) or not all(is_plain(leaf) and is_number(leaf) for leaf in kept):
        return False
    return [leaf.shape for leaf in kept] != [(*lead, *leaf.shape) for leaf in blank]


def _is_one_integer(value):
    whole = isinstance(value, int) or (is_number(value) and jnp.issubdtype(value.dtype, jnp.integer))
    return whole and known(value) and np.ndim(value) == 0 and abs(int(value)) < 2**31


def _described(leaf, dtype):
    """A leaf's dtype and shape; a number of Python has the dtype asked for, if it fits; else what it is."""
    if is_deleted(leaf):
        return "deleted"
    if isinstance(leaf, jax.Array) or (is_number(leaf) and hasattr(leaf, "dtype")):
        return f"{native_dtype(leaf)}{list(leaf.shape)}"
    whole = isinstance(leaf, int) and jnp.issubdtype(dtype, jnp.integer)
    fits = is_number(leaf) and jnp.issubdtype(dtype, jnp.floating)
    if fits or (whole and np.iinfo(dtype).min <= leaf <= np.iinfo(dtype).max):
        return f"{dtype}[]"
    return brief(leaf)
