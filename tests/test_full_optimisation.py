"""The suite compiles with little optimisation; the core of the contract is run once more with XLA's defaults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = [f"test_it_learns_and_tells_the_true_loss[float64-{name}]" for name in ("ills", "gauss_newton", "adam")]
CORE += ["test_a_failing_member_leaves_its_neighbours_bit_for_bit[gauss_newton]"]


@pytest.mark.slow
def test_the_core_holds_as_users_compile_it():
    chosen = [f"tests/test_contract.py::{name}" for name in CORE]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{len(chosen)} passed" in done.stdout, done.stdout[-3000:]
