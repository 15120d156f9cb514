"""Gauss–Newton: damped linear least-squares problems per layer and for all layers, and quasi-Newton on top of them.

Where ILLS asks what a layer's input should have been, this asks what its parameters should do to the
output. It needs no inverse, so ReLU, any depth and any loss with a curvature work; it uses
sensitivities, so it is not free of backpropagation. A step visits blocks of layers, by default the
layers from the top down and then all of them together. For a block with parameters θ:

    u_n(Δ) = (∂ h^L_n / ∂ θ) Δ                                    the network linearised in the block
    g = ∂ loss / ∂ θ,  G = Σ_n ω_n (∂h^L_n/∂θ)ᵀ Λ_n (∂h^L_n/∂θ)   ω_n = w_n / Σ w,  Λ = ∂² loss / ∂ h²
    (G + δI + λDI) Δ = −(g + δθ)                                  δ: weight_decay,  D = tr(G) / p + δ
    keep the first of θ + Δ, θ + Δ/4, … whose objective,  loss + ½ δ ‖all parameters‖²,  is finite and lower
    λ follows the gain: actual over predicted decrease, of the undamped model

Since a block is kept only if the objective falls, it never rises as long as the batch stays the same.

All layers of a network with more than 100 parameters are one block, and its step is not one solve: ten trials of a
quasi-Newton method on the objective itself, which starts from the Kronecker factors of `G` instead of solving with `G`
(`QuasiNewton`); its λ follows refusals. On noisy tables it takes half the time or less to the same loss, and compiles
sooner. Smaller networks, and others with `Automatic(quasi_newton=None)`, solve block by block, as above; blocks of your
own do too, but that a last block of all layers is lowered by quasi-Newton.

Going from the top down leaves the activations below a block as they are, so each trial costs the
layers from the block upwards only. The layers one by one are fast at first, all together at the end.
From five layers on a step takes fewer blocks, so that neither its arithmetic nor its graph grows with the square of
the depth; `default_blocks` tells which. Steps on minibatches are another class, see `build`.

Ways to lower a block, chosen by size (`Automatic`; `linear_solver=` takes another choice):

* an output layer with the identity and squared error is exactly quadratic: solved undamped but for `λ = ε`, by
  conjugate gradients to rounding (with weight decay or not), preconditioned by the second moment of all rows: its least
  squares, the shortest where there are several. Where its inputs and the rows are both more than 2048, the moment is
  that of 1024 rows, and twelve products lead towards it, not always to it;
* a block of up to 100 parameters: its Gram matrix, by Cholesky, or its rows by one of `jills.solvers`;
* all layers, more than 100 parameters, as the last block: quasi-Newton, `QuasiNewton(trials=10, pairs=5)`;
* any other: conjugate gradients on `G` as a product, with a Kronecker preconditioner. Preconditioner
  and D are taken once a step, before the first such block, for the sake of time; the gradient and the products
  are always those of the present parameters. The block of all layers starts from the direction
  that the step before took. A factor much wider than there are rows is kept as its columns, so that nothing grows with
  the square of a width; with more than 32 outputs each row stands for one random combination of them (`kronecker`).

Units. Inside the solves of the first layer the inputs are centred and scaled (`coordinates`): a damping of `I` could
not hold inputs of 1e6 and of 1 together. Where the loss knows its units (squared error, Huber's) and the output is the
identity, targets and the output layer's parameters are taken in units of the targets' size, a power of two. λ and D
mean these coordinates; no floor is absolute. A start that was drawn for data of size one is adapted in the first step
(`start`): an output layer that dwarfs the targets is shrunk, and a first layer whose total inputs have a root mean
square above 30, or hardly vary, is taken for scaled inputs. The step is kept only if it ends below the start given.

References: Levenberg 1944; Marquardt 1963; Nielsen 1999 (damping); Nocedal 1980 (quasi-Newton); Martens & Grosse 2015
(arXiv 1503.05671, preconditioner); Schraudolph 2002 (products with Gauss–Newton matrices).

The modules of this package are private; what is public stands here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jills import checks, losses
from jills.gauss_newton.blocks import checked, default_blocks, one_by_one, together
from jills.gauss_newton.dense import Dense
from jills.gauss_newton.full_batch import Detail, FullBatch, Hparams
from jills.gauss_newton.minibatch import Minibatch, MinibatchHparams, heavy_ball, minibatch_hparams
from jills.gauss_newton.quasi_newton import QuasiNewton
from jills.gauss_newton.solve import Automatic, LinearSolver, as_automatic
from jills.linearization import Block
from jills.network import Network

if TYPE_CHECKING:
    import optax


def build(
    network: Network,
    loss: losses.Loss = losses.squared_error,
    linear_solver: LinearSolver = Automatic(),
    *,
    full_batch: bool = True,
    blocks: tuple[Block, ...] | None = None,
    optimizer: "Callable[[Any], optax.GradientTransformation] | None" = None,
    defaults: Any = None,
) -> FullBatch | Minibatch:
    """Gauss–Newton for a network.

    Args:
        network: any activations, any depth.
        loss: any with gradient and curvature.
        linear_solver: `Automatic()` chooses by size. `Dense()`, one of `jills.solvers` (on the rows themselves;
            squared error only, other losses take the Gram matrix all the same) or `jills.ConjugateGradients(…)`:
            for every block, whatever its size, but for an output layer that is exactly quadratic.
        full_batch: False where steps receive different batches. All layers are then one block, with the
            hyperparameters `MinibatchHparams`; `minibatch_hparams` gives some to start with.
        blocks: full batch only: pairs `(first, last)` of layers, counted from zero, solved in this order in each
            step; see `one_by_one`, `together` and `default_blocks`. None: all layers by quasi-Newton, or
            `default_blocks` where that does not apply.
        optimizer: minibatches only: `hparams → optax.GradientTransformation`, which receives the direction −Δ in
            place of a gradient, and the parameters (not the loss: no line searches). None: `heavy_ball`. Define it at
            module level: two builds with one function are equal and share what is compiled.
        defaults: minibatches only: the hparams that `optimizer` takes, a NamedTuple with `weight_decay`, `damping`
            and whatever else it needs.

    Raises:
        ValueError: an option that does not apply, blocks that are not runs of layers of the network, a linear
            solver of another kind, or defaults without `weight_decay` and `damping`.

    A rate that falls to zero in 1000 steps, for example::

        def falling(hparams):
            schedule = optax.linear_schedule(hparams.learning_rate, 0.0, 1000)
            return optax.sgd(schedule, hparams.momentum)

        algorithm = jills.gauss_newton.build(network, full_batch=False, optimizer=falling)
    """
    checks.check_parts(network, loss)
    solver = as_automatic(linear_solver)
    if full_batch:
        _refuse("full_batch=True", optimizer=optimizer, defaults=defaults)
        if blocks is None:
            whole = (0, network.num_layers - 1)
            blocks = (whole,) if solver.is_quasi_newton(network, whole) else default_blocks(network, loss)
        blocks = checked(blocks, network)
        return FullBatch(network=network, loss=loss, blocks=blocks, linear_solver=solver)
    _refuse("full_batch=False", blocks=blocks)
    defaults = MinibatchHparams() if defaults is None else defaults
    if not all(hasattr(defaults, name) for name in ("weight_decay", "damping")):
        raise ValueError(f"gauss_newton: defaults are {defaults}, but must have weight_decay and damping among them")
    optimizer = heavy_ball if optimizer is None else optimizer
    return Minibatch(network=network, loss=loss, linear_solver=solver, optimizer=optimizer, defaults=defaults)


def _refuse(choice, **given):
    """Options that the other kind of step has."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"gauss_newton: {name} does not apply with {choice}; leave it out")


for _public in (Hparams, MinibatchHparams):
    _public.__module__ = __name__  # where messages and pickles look for them

__all__ = [
    "Automatic",
    "Dense",
    "Detail",
    "FullBatch",
    "Hparams",
    "Minibatch",
    "MinibatchHparams",
    "QuasiNewton",
    "build",
    "default_blocks",
    "heavy_ball",
    "minibatch_hparams",
    "one_by_one",
    "together",
]
