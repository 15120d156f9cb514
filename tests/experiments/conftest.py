import socket

import jax
import pytest


@pytest.fixture
def usual_jax():
    """Scripts run with JAX's usual promotion, and set 64 bits themselves."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_x64", True)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a loader must not reach for the network")

    monkeypatch.setattr(socket, "socket", refuse)
