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
    "product": "kind",
    "sweep": "algorithm hparams problem keys num_steps chunk_steps on_chunk mesh",
    "ills.build": "network loss solver",
    "ills.solve_params": "params activations batch layer target",
    "ills.shift_activations": "params activations batch layer target",
    "gauss_newton.build": "network loss linear_solver",
    "adam.build": "network loss",
    "evidence.build": "network loss prior",
    "evidence.predict": "algorithm state batch inputs",
    "ensemble": "predictions",
    "SweepResult.member": "self h s",
    "SweepResult.best": "self by",
    "SweepResult.predict": "self inputs",
    "SweepResult.to_dataframe": "self curves",
    "SweepResult.to_xarray": "self",
}
FIELDS = {
    "Batch": "inputs targets weights",
    "Layer": "weight bias",
    "Member": "params batch metrics validation",
    "Prediction": "mean variance noise moderated",
    "State": "params activations inner step loss best_params best_loss result fingerprint saturated validation "
    "since_best",
    "Trained": "state info",
    "Info": "loss update_norm finite detail metrics validation",
    "evidence.Hparams": "alpha beta",
    "ills.Hparams": "learning_rate ridge",
    "gauss_newton.Hparams": "weight_decay damping",
    "gauss_newton.MinibatchHparams": "weight_decay damping learning_rate momentum",
    "adam.Hparams": "learning_rate b1 b2 eps",
}
LAYERS = [
    {"transformations", "warn"},
    {"types", "activations", "arrays", "linalg", "contents"},
    {"functions"},
    {"traces"},
    {"compilation"},
    {"programs"},
    {"network", "batches", "hparams", "states", "predictions"},
    {"losses", "solvers", "conjugate_gradients", "quasi_newton", "results", "linearization"},
    {"checks", "targets"},
    {"algorithm"},
    {"ills", "gauss_newton", "adam"},
    {"evidence"},
    {"training"},
    {"estimators"},
    {"plots"},
    {"__init__"},
]
"""Modules of jills from the ground up: imports go down only."""
WINGS = {
    "gauss_newton": [
        {"damping"},
        {"coordinates"},
        {"block", "kronecker", "blocks"},
        {"rows"},
        {"model"},
        {"dense", "iterative", "line_search", "gradients"},
        {"quasi_newton", "start"},
        {"solve"},
        {"full_batch"},
        {"minibatch"},
        {"__init__"},
    ],
    "evidence": [
        {"priors", "standard", "likelihood", "factors"},
        {"curvature"},
        {"objective"},
        {"updates", "descent"},
        {"algorithm"},
        {"predicting"},
        {"__init__"},
    ],
    "training": [
        {"validation", "history", "progress", "words", "memory", "interruption", "spread"},
        {"run", "structure", "diagnosis", "members"},
        {"chunks", "description", "tables"},
        {"result"},
        {"resuming", "records"},
        {"checkpoint", "identity", "task"},
        {"checkpoints"},
        {"keeping"},
        {"processes"},
        {"models", "streams", "sweep"},
        {"__init__"},
    ],
    "estimators": [
        {"forward", "rows", "files"},
        {"methods", "graph"},
        {"fitted"},
        {"fitted_groups"},
        {"training"},
        {"minibatches"},
        {"base"},
        {"regression", "classification", "grouped"},
        {"__init__"},
    ],
}
"""The same inside each wing. Outside, nothing but its tests imports a wing's modules."""


def find(path) -> Any:
    value: Any = jills
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_all_is_what_there_is():
    assert sorted(jills.__all__) == jills.__all__
    assert all(hasattr(jills, name) for name in jills.__all__)
    hidden = {path.stem for path in (ROOT / "jills").glob("*.py")}
    public = {name for name in vars(jills) if not name.startswith("_")}
    assert public - hidden <= set(jills.__all__)


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
    """What a file imports, as dotted names: of `from jills import solvers` it is `jills.solvers`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {module if is_module(module) else node.module for module in modules}
    return names


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def place(path):
    """The parts of a file's dotted name below `jills`, such as `("gauss_newton", "model")`."""
    return path.relative_to(ROOT / "jills").with_suffix("").parts


def check_ranks(layers, name, imported):
    rank = {module: level for level, modules in enumerate(layers) for module in modules}
    assert name in rank, f"{name} has no place in LAYERS or WINGS"
    for other in imported - {name}:
        assert rank[other] < rank[name], f"{name} imports {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "jills").rglob("*.py")), ids=lambda path: "/".join(place(path)))
def test_imports_run_one_way_and_wings_hide_their_modules(path):
    wing, *inside = place(path)
    imported: list[list[str]] = [name.split(".")[1:] for name in imports_of(path) if name.split(".")[0] == "jills"]
    check_ranks(LAYERS, wing, {name[0] for name in imported if name})
    for name in imported:
        hidden = len(name) > 1 and name[0] in WINGS and name[1] not in getattr(jills, name[0]).__all__
        assert not hidden or name[0] == wing, f"{path} imports {'.'.join(name)}"
    if inside:
        check_ranks(WINGS[wing], inside[0], {name[1] for name in imported if name[:1] == [wing] and len(name) > 1})


def test_every_module_has_a_place():
    files = {place(path)[0] for path in (ROOT / "jills").rglob("*.py")}
    assert files == set().union(*LAYERS)
    for wing, layers in WINGS.items():
        folder = ROOT / "jills" / wing
        packages = {path.parent.name for path in folder.glob("*/__init__.py")}
        assert packages | {path.stem for path in folder.glob("*.py")} == set().union(*layers)


def test_experiments_use_what_is_public():
    names = {(), *((name,) for name in jills.__all__)}
    for path in (ROOT / "experiments").rglob("*.py"):
        used = {tuple(name.split(".")[1:]) for name in imports_of(path) if name.split(".")[0] == "jills"}
        assert {name for name in used if name[:1] not in names or len(name) > 1} == set(), path
    for path in (ROOT / "jills").rglob("*.py"):
        assert not any(name.split(".")[0] == "experiments" for name in imports_of(path)), path


def test_importing_jills_sets_no_global_flag():
    for path in (ROOT / "jills").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.stem == "compilation":  # what users call to have a cache
            before, function = text.split("def enable_compilation_cache")
            assert "jax.config.update" in function
            text = before
        assert "jax.config.update" not in text
        assert "os.environ" not in text
