"""Which blocks of layers a full-batch step visits, and in which order."""

from jills.linearization import Block
from jills.losses import Loss, squared_error
from jills.network import Network

MOST_LAYERS_ONE_BY_ONE = 5


def one_by_one(network: Network) -> tuple[Block, ...]:
    """Blocks for `build`: each layer alone, from the top down."""
    return tuple((layer, layer) for layer in reversed(range(network.num_layers)))


def together(network: Network) -> tuple[Block, ...]:
    """Blocks for `build`: the output layer, then all layers as one block."""
    top = network.num_layers - 1
    return ((0, 0),) if top == 0 else ((top, top), (0, top))


def default_blocks(network: Network, loss: Loss = squared_error) -> tuple[Block, ...]:
    """Each layer from the top down, then all together; fewer where that serves better.

    From `MOST_LAYERS_ONE_BY_ONE` layers on: the output layer, then all together. With squared error, both
    there and where hidden activations have kinks (ReLU), the output layer moves with all others only: solved
    exactly by itself it gets large weights, which sharpen every bend of the layers below.
    """
    top = network.num_layers - 1
    whole = (0, top)
    if top == 0:
        return (whole,)
    deep = network.num_layers >= MOST_LAYERS_ONE_BY_ONE
    nonsmooth = any(activation.nonsmooth for activation in network.activations[:-1])
    layers = ((top, top),) if deep else one_by_one(network)
    return (*(layers[1:] if loss.quadratic and (deep or nonsmooth) else layers), whole)


def checked(blocks: tuple[Block, ...], network: Network) -> tuple[Block, ...]:
    """The blocks as pairs of integers.

    Raises:
        ValueError: none, or one that is not a run of layers of the network.
    """
    blocks = tuple((int(first), int(last)) for first, last in blocks)
    if not blocks or not all(0 <= first <= last < network.num_layers for first, last in blocks):
        raise ValueError(
            f"gauss_newton: blocks are {blocks}, but must be pairs (first, last) with "
            f"0 <= first <= last <= {network.num_layers - 1}, at least one; see gauss_newton.one_by_one"
        )
    return blocks
