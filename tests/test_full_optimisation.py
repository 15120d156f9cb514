"""The suite compiles with little optimisation; the core of the contract is run once more with XLA's defaults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = (
    "test_it_learns_and_tells_the_true_loss[float64-{}]",
    "test_a_row_of_weight_zero_changes_nothing[{}]",
    "test_a_failing_member_leaves_its_neighbours_bit_for_bit[{}]",
)


@pytest.mark.slow
def test_the_core_holds_as_users_compile_it():
    names = [test.format(algorithm) for test in CORE for algorithm in ("ills", "gauss_newton", "adam")]
    chosen = [f"tests/test_contract.py::{name}" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{len(chosen)} passed" in done.stdout, done.stdout[-3000:]
