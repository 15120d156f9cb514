"""x."""

from jills import losses
from jills.evidence.algorithm import Detail, Evidence, Hparams
from jills.evidence.predicting import predict
from jills.evidence.priors import by_input, by_layer, one_group
from jills.network import Network


def build(network: Network, loss: losses.Loss = losses.squared_error, prior=one_group, *, noise_per_output=False):
    """Builds."""
    return Evidence(network=network, loss=loss, prior=prior, noise_per_output=noise_per_output)


__all__ = ["Detail", "Evidence", "Hparams", "build", "by_input", "by_layer", "one_group", "predict"]
