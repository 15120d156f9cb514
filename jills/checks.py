"""Bad input is refused here, before anything is compiled: what was given, what is allowed, what to do.

Shapes and dtypes are always checked. Values are checked where they are known; inside a trace
(`jit`, `vmap`, a sweep's `problem`) they are not, and there a bad value becomes a result code.
"""

import numbers
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jills.activations import Activation
from jills.losses import Allowed, Loss
from jills.network import Network
from jills.results import Stop
from jills.types import Batch, Layer, Params


def known(*trees) -> bool:
    """Whether all arrays are at hand, that is, none of them is a tracer.

    Arrays closed over are at hand even inside a trace, as long as only NumPy looks at them.
    """
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_parts(network, loss) -> None:
    """Raises ValueError where an algorithm is built of something else than a network and a loss."""
    if not isinstance(network, Network):
        raise ValueError(f"network is {network!r}, but must be a jills.Network(sizes, activation)")
    if not isinstance(loss, Loss):
        raise ValueError(
            f"loss is {loss!r}, but must be one of jills.losses, such as squared_error, or a jills.Loss(…)"
        )


def check_params(network: Network, params: Params) -> None:
    """Raises ValueError where params are not those of the network."""
    if not isinstance(params, tuple) or not all(isinstance(layer, Layer) for layer in params):
        raise ValueError("params must be a tuple of jills.Layer(weight, bias); make them with network.init(key)")
    expected = [((i, o), (o,)) for i, o in zip(network.sizes[:-1], network.sizes[1:], strict=True)]
    given = [(np.shape(layer.weight), np.shape(layer.bias)) for layer in params]
    if given != expected:
        raise ValueError(
            f"params have shapes {given}, but a network of sizes {network.sizes} has {expected}; "
            "make them with network.init(key)"
        )
    dtypes = {jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(params)}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype("float32"), jnp.dtype("float64")}:
        names = sorted(str(dtype) for dtype in dtypes)
        raise ValueError(f"params are {', '.join(names)}; all must be float32 or all float64")


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
    sizes, n = network.sizes, np.shape(inputs)[:1]
    for name, array, width in (("inputs", inputs, sizes[0]), ("targets", targets, sizes[-1])):
        check_array(name, array)
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


def check_array(name: str, array) -> None:
    """Raises ValueError where something is no plain array of real numbers; the message has the line to write."""
    kind = type(array)
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f"{name} are a masked array; fill them ({name}.filled(…)) and give those rows weight zero")
    if hasattr(array, "to_numpy"):
        raise ValueError(f"{name} are a {kind.__name__}, but must be an array of numbers; give {name}.to_numpy()")
    if not (isinstance(array, jax.Array) or kind in (np.ndarray, np.memmap)):
        raise ValueError(
            f"{name} are a {kind.__name__}, but must be an array of numbers; give numpy.asarray({name}, float)"
        )
    real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if not real or jnp.issubdtype(array.dtype, np.timedelta64):  # an integer, as NumPy has it
        raise ValueError(
            f"{name} are of dtype {array.dtype}, but must be real numbers; where they are numbers under another name, "
            f"give numpy.asarray({name}, float)"
        )


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
        if not np.all((weights >= 0) & np.isfinite(weights)):
            raise ValueError("weights hold negative, NaN or infinite values; each must be finite and ≥ 0")
        used = weights > 0
        if not used.any():
            raise ValueError("all weights are zero: no row is left to train on")
    for name, array in (("inputs", batch.inputs), ("targets", batch.targets)):
        with np.errstate(over="ignore"):
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
            warnings.warn(
                f"{count} of {targets.size} targets lie outside the range ({low:g}, {high:g}) of the "
                "output activation and were projected into it; scale the targets, or give the "
                "network output=jills.activations.identity",
                stacklevel=4,
            )


def check_hparams(hparams, defaults, scalar: bool) -> None:
    """Raises ValueError for hparams of another kind than `defaults`, or known to be outside its `limits`.

    A NaN or infinite number is only warned of: in a sweep it is one member's failure.

    Args:
        hparams: what was given.
        defaults: of the algorithm; its class may have `limits`, field → `jills.hparams.Limit`.
        scalar: whether every leaf must be a scalar, as for one network.
    """
    kind = type(defaults)
    if type(hparams) is not kind:
        raise ValueError(
            f"hparams are {type(hparams).__module__}.{type(hparams).__qualname__}, but this algorithm "
            f"wants {kind.__module__}.{defaults!r}"
        )
    _check_numbers(hparams, defaults, scalar)
    if not known(hparams):
        return
    for field, limit in getattr(kind, "limits", {}).items():
        values = np.asarray(getattr(hparams, field), np.float64)
        finite = np.isfinite(values)
        bad = values[finite & ~limit.holds(values)]
        if bad.size:
            raise ValueError(f"{field} is {bad[0]:g}, but must lie in {limit}")
        if not finite.all():
            count = np.sum(~finite)
            warnings.warn(f"{field} is NaN or infinite in {count} of {values.size}; training fails", stacklevel=4)


def _check_numbers(hparams, defaults, scalar):
    same = jax.tree.structure(hparams) == jax.tree.structure(defaults)
    leaves = jax.tree.leaves(hparams)
    if not same or not all(hasattr(leaf, "dtype") or isinstance(leaf, int | float) for leaf in leaves):
        raise ValueError(f"hparams are {hparams}, but each must be a number or an array of numbers, such as {defaults}")
    if scalar and any(np.ndim(leaf) > 0 for leaf in leaves):
        shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves)
        raise ValueError(f"hparams have shapes {shapes}, but one network takes scalars; for several use jills.sweep")


def check_stop(stop: Stop, detail) -> None:
    """Raises ValueError where a stop is no numbers, or looks at a gradient that the algorithm does not tell of.

    Args:
        stop: what was given.
        detail: the algorithm's `blank_detail`.
    """
    if not isinstance(stop, Stop) or not all(_is_number(value) for value in stop):
        raise ValueError(f"stop is {stop!r}, but must be a jills.Stop of numbers, such as jills.Stop(target_loss=1e-4)")
    if not hasattr(detail, "gradient_norm") and known(stop) and np.any(np.asarray(stop.gradient_norm) >= 0):
        raise ValueError(
            "stop.gradient_norm is given, but this algorithm tells of no gradient (its detail has no gradient_norm); "
            "give update_norm instead"
        )


def _is_number(value) -> bool:
    array = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.number)
    return (array or isinstance(value, int | float)) and np.ndim(value) == 0


def check_count(name: str, value) -> None:
    """Raises ValueError where a number of steps or members is not a positive integer."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} is {value}, but must be at least 1, and an integer")


def check_state(state, expected, lead: tuple[int, ...]) -> None:
    """Raises ValueError where a state is not one of this algorithm, problem and number of members."""
    differs = "its structure is another" if jax.tree.structure(state) != jax.tree.structure(expected) else ""
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=False)
    for (place, leaf), model in pairs if not differs else ():
        given, wanted = (jnp.asarray(leaf).dtype, np.shape(leaf)), (model.dtype, (*lead, *model.shape))
        if given != wanted:
            name = jax.tree_util.keystr(place)
            differs = f"{name} is {given[0]}{list(given[1])}, but {wanted[0]}{list(wanted[1])} is expected"
            break
    if differs:
        raise ValueError(
            f"the state to go on from is of another algorithm, network, dtype or number of members: {differs}"
        )
