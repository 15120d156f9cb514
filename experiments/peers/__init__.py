"""What a user would pick instead, each optimizer behind one signature: `peer.run(problem, budget) → Trace`.

Fair means: the same data, start and dtype; run time apart from compilation; each library with its best settings, by
measurement; the true training loss, never a surrogate. Measuring and recording do not count as a peer's time.
"""

from experiments.peers import with_curvature, with_optax, with_optimistix, with_scipy, with_sklearn, with_torch
from experiments.peers.base import Budget, Peer, Problem, Trace

PEERS: tuple[Peer, ...] = (
    *with_optax.PEERS,
    *with_optimistix.PEERS,
    *with_scipy.PEERS,
    *with_sklearn.PEERS,
    *with_torch.PEERS,
    *with_curvature.PEERS,
)


def choose(problem: Problem, peers: tuple[Peer, ...] = PEERS) -> tuple[list[Peer], list[str]]:
    """The peers that can work on a problem here, and a line for each that could if it were installed."""
    fitting = [peer for peer in peers if peer.applies(problem)]
    return [peer for peer in fitting if not peer.missing()], [peer.missing() for peer in fitting if peer.missing()]


__all__ = ["PEERS", "Budget", "Peer", "Problem", "Trace", "choose"]
