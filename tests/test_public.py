"""What users and papers rely on: the fixed names, and the direction of the imports."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import jills

ROOT = Path(__file__).parent.parent
FIXED = {
    "Network": "sizes activation output",
    "run": "algorithm hparams params batch num_steps",
    "grid": "train hparams keys",
    "sweep": "algorithm hparams problem keys num_steps chunk_steps on_chunk mesh",
    "ills.build": "network loss solver",
    "ills.solve_params": "params activations batch layer target",
    "ills.shift_activations": "params activations batch layer target",
    "gauss_newton.build": "network loss solver",
    "adam.build": "network loss",
}
FIELDS = {
    "Batch": "inputs targets weights",
    "Layer": "weight bias",
    "State": "params activations inner step loss best_params best_loss result",
    "Info": "loss update_norm finite detail metrics",
    "ills.Hparams": "learning_rate ridge",
    "gauss_newton.Hparams": "weight_decay damping learning_rate momentum rate_decay",
    "adam.Hparams": "learning_rate b1 b2 eps",
}
LAYERS = [
    {"types", "activations"},
    {"network", "batching"},
    {"losses", "solvers", "results", "linearization", "conjugate_gradients"},
    {"checks", "targets", "kronecker", "scaling", "damping"},
    {"algorithm", "view"},
    {"block_problem"},
    {"line_search"},
    {"ills", "gauss_newton", "adam"},
    {"run"},
    {"chunks"},
    {"sweep", "diagnosis", "checkpoint"},
    {"__init__"},
]


def find(path) -> Any:
    value: Any = jills
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_all_is_what_there_is():
    assert sorted(jills.__all__) == jills.__all__
    assert all(hasattr(jills, name) for name in jills.__all__)
    hidden = {"algorithm", "batching", "block_problem", "checkpoint", "checks", "chunks", "conjugate_gradients"}
    hidden |= {"damping", "line_search", "view"}
    hidden |= {"diagnosis", "kronecker", "linearization", "network", "scaling", "targets", "types"}
    public = {name for name in vars(jills) if not name.startswith("_")}
    assert public - hidden == set(jills.__all__)


@pytest.mark.parametrize("path", FIXED)
def test_parameter_names_are_fixed(path):
    wanted = FIXED[path].split()
    assert list(inspect.signature(find(path)).parameters)[: len(wanted)] == wanted


@pytest.mark.parametrize("path", FIELDS)
def test_field_names_are_fixed(path):
    assert list(find(path)._fields) == FIELDS[path].split()


@pytest.mark.parametrize("path", ["Activation", "Loss", "Network", "Solver", "Algorithm", "run", "grid", "sweep"])
def test_public_things_say_what_they_do(path):
    assert len(inspect.getdoc(find(path)) or "") > 60


def imports_of(path):
    """The rooms of jills that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "jills":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jills."):
            names.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("experiments")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
            names.add("experiments")
    return names


def test_imports_run_one_way():
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    files = {path.stem: path for path in (ROOT / "jills").glob("*.py")}
    assert set(files) == set(rank)
    for name, path in files.items():
        imported = imports_of(path)
        assert "experiments" not in imported
        for other in imported & set(rank):
            allowed = rank[other] < rank[name] or {name, other} <= {"types", "activations"}
            assert allowed, f"jills/{name}.py imports {other}"


def test_importing_jills_sets_no_global_flag():
    for path in (ROOT / "jills").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "jax.config.update" not in text
        assert "os.environ" not in text
