"""What a saved sweep says of its algorithm: the same for the same one in any process, another for another."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from contract import CASES, NETWORK, Rate

import jills
from jills.training.description import describe, differences


def lines(algorithm: Any) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in describe(algorithm).splitlines())


def test_known_things_go_by_their_public_names():
    algorithm = jills.ills.build(
        jills.Network((3, 5, 7, 2), (jills.activations.tanh, jills.activations.leaky_relu(0.25))),
        jills.losses.huber(0.5),
        jills.solvers.qr,
        target=jills.ills.working_response,
        margin=1e-3,
    )
    told = lines(algorithm)
    assert told["class"] == "jills.ills.Ills"
    assert told["network"] == "jills.Network"
    assert told["network.sizes"] == "(3, 5, 7, 2)"
    assert told["network.activation[0]"] == "jills.activations.tanh"
    assert told["network.activation[1].forward.slope"] == "0.25"
    assert told["network.output"] == "jills.activations.identity"
    assert told["loss.value.delta"] == "0.5"
    assert told["solver"] == "jills.solvers.qr"
    assert told["target"] == "jills.targets.working_response"
    assert told["margin"] == "0.001"
    assert told["linearized"] == "False"


def decaying(steps, table):
    """A new optimizer that closes over a number and an array."""
    return lambda hparams: optax.sgd(lambda count: hparams.learning_rate * table[count // steps])


def build(steps=10, table=(1.0, 0.5)):
    return jills.adam.build(NETWORK, optimizer=decaying(steps, np.array(table)), defaults=Rate())


def test_functions_of_a_user_go_by_name_and_contents():
    told = lines(build())["optimizer"]
    assert "test_description.decaying.<locals>.<lambda> " in told
    assert lines(build()) == lines(build())
    assert lines(build(steps=11)) != lines(build())
    assert lines(build(table=(1.0, 0.25))) != lines(build())
    assert lines(build())["defaults"] == "contract.Rate"
    assert lines(build())["defaults.learning_rate"] == "0.05"


def test_what_cannot_be_read_is_unknown():
    random = np.random.default_rng(0)
    told = lines(jills.adam.build(NETWORK, optimizer=lambda hparams: optax.sgd(random.normal()), defaults=Rate()))
    assert told["optimizer"].endswith("<lambda> unknown")


@pytest.mark.parametrize("name", CASES)
def test_each_algorithm_differs_from_all_others(name):
    others = [describe(case.algorithm) for other, case in CASES.items() if other != name]
    assert describe(CASES[name].algorithm) not in others


def test_differences_say_what_was_and_what_is():
    one, other = (describe(jills.adam.build(jills.Network(sizes))) for sizes in ((3, 5, 2), (3, 7, 2)))
    assert differences(one, other) == "network.sizes was (3, 5, 2) and is (3, 7, 2)"
    assert differences(one, one) == ""
    assert differences(one, describe(CASES["ills"].algorithm)).endswith(", …")


SCRIPT = """
from contract import CASES
from jills.training.description import describe
import test_description
algorithms = (*(case.algorithm for case in CASES.values()), test_description.build())
print("\\n\\n".join(map(describe, algorithms)))
"""


def test_another_process_says_the_same():
    """Whatever the order of its sets and the addresses of its objects are."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7", "JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    expected = [describe(each) for each in (*(case.algorithm for case in CASES.values()), build())]
    told = done.stdout.replace("\n\n", "\0").strip().split("\0")
    assert [text.replace("training.test_description", "test_description") for text in expected] == told
