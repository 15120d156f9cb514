"""Networks that choose their own regularisation: MacKay's evidence framework, for thousands of them at once.

The data are `y = f(x; θ) + ε` with noise of variance 1/β, and parameters of group g have the prior N(0, 1/α_g). A
step lowers the objective of the present α and β by quasi-Newton iterations that begin with the Gauss–Newton matrix, and
moves both to where the curvature of that same step says that the data are likeliest:

    S(θ) = Σ β e + ½ Σ_g α_g ‖θ_g‖²,   H = G + diag(α),   G = Σ_n J_nᵀ Λ_n J_n
    θ ← θ − t B ∂S/∂θ, ten times with one H (B: H⁻¹ and the pairs seen since), the output layer solved in between
    γ_g = Σ_(i in g) (1 − α_g H⁻¹_ii),   α_g ← γ_g / ‖θ_g‖²,   β ← τ (N − γ) / 2 Σ e,   τ = 1 − γ_hidden / N
    log evidence = −S − ½ log det H + ½ Σ_g p_g log α_g − N Σ log Z(β)

So no decay, no rate and no validation rows have to be chosen. `e` is minus the log likelihood of a row but for β and
constants: half the squared error; Huber's loss likewise, with the normalisation of its density; the cross-entropies and
counts have no noise, β is one and only α moves.

**Units.** Inputs, and targets that have a unit (squared error, Huber's; identity as output), are standardised inside:
α and β mean standardised data, and parameters, predictions and log evidence are given in the units that came in. N is
the sum of the row weights as they were given: 1 for a row, 2 for one seen twice, 0 for one left out.

**Noise and groups.** N − γ counts what a linear model would take from the noise. Hidden layers turn their basis towards
it besides, so training takes the noise for larger than it is, by 1/τ; without them τ is one, as MacKay has it.
Several groups share one α for twelve steps, and none lies below the common one after: a group may be held more
than the whole, never less. (Pruned from the start, columns are lost before the network knows what they are good for.)

**The beginning.** At the minimum under the prior of a start all hidden units are alike, and what tells them apart again
is rounding. So the first six steps take three iterations each, and α and β move from the third step on.

**Curvature.** `dense` up to 2048 parameters; beyond, each layer by itself, and Kronecker factors for layers of more
than that (`by_size`). With blocks the step is solved by conjugate gradients on the whole H all the same, three times
with one H, and α and β come from where it began; γ, log evidence and variances are those of the blocks: cheaper and
cruder.

**Two starts.** A strong prior at first (α = 10) serves noisy tables, but can hold a network at a constant or a straight
line. So where log evidence comes to rest, or the loss is that of a constant after twelve steps, the start is tried once
more with a hundredth of α, beside the state, which takes the second course if its log evidence gets better by 0.1 nats
a row within 20 steps. Then, at rest, a member ends.

**How many steps.** 20 to 30 serve most tables, more where noise is low, layers are several or a network is held at a
constant; more do little harm. Predict with the mean of ten networks (`jills.ensemble`). Do not choose among networks by
their evidence: between restarts it is next to uncorrelated with the test error, and between sizes it may rank the wrong
way. Out-of-fold error (`jills.folds`) does.

References: MacKay, Neural Computation 4, 1992; Foresee & Hagan, ICNN 1997; Immer et al., arXiv 2104.04975; for the
steps with one H: Shamanskii 1967, Nocedal 1980.

The modules of this package are private; what is public stands here.
"""

from jills import checks, losses
from jills.evidence.algorithm import Detail, Evidence, Hparams
from jills.evidence.curvature import Curvature, block_diagonal, by_size, dense, kronecker
from jills.evidence.predicting import predict
from jills.evidence.priors import Prior, by_input, by_layer, one_group
from jills.network import Network


def build(
    network: Network,
    loss: losses.Loss = losses.squared_error,
    prior: Prior = one_group,
    *,
    noise_per_output: bool = False,
    curvature: Curvature = by_size,
) -> Evidence:
    """A network that chooses its own regularisation.

    Args:
        network: any activations, any depth.
        loss: any with gradient and curvature; its `likelihood` and `noise` say what it means as a probability.
        prior: which parameters share an α: `one_group` (all), `by_layer`, `by_input` (a group for each input column:
            holds down those that tell little; the better choice for most tables of up to some dozen columns), or
            `network → groups`, like the params but of integers.
        noise_per_output: whether every output has its own β; else one for all standardised targets.
        curvature: `by_size`, `dense`, `block_diagonal`, `kronecker`, or `network → blocks`.

    Raises:
        ValueError: groups that do not fit the network, or a β for each output of a loss without noise.
    """
    checks.check_parts(network, loss)
    checks.check_function("prior", prior)
    checks.check_function("curvature", curvature)
    if noise_per_output and loss.noise is None:
        raise ValueError(
            "evidence: noise_per_output is given, but this loss has no noise to learn; squared_error and huber have"
        )
    return Evidence(
        network=network, loss=loss, prior=prior, noise_per_output=bool(noise_per_output), curvature=curvature
    )


Hparams.__module__ = __name__  # where messages and pickles look for it

__all__ = [
    "Detail",
    "Evidence",
    "Hparams",
    "block_diagonal",
    "build",
    "by_input",
    "by_layer",
    "by_size",
    "dense",
    "kronecker",
    "one_group",
    "predict",
]
