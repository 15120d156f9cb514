"""What the files of fitted estimators have in common: a text in JSON and trees, in one `.npz` without pickle."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jills.training import load, save

FORMAT = 1
ENTRY = "jills_estimator"  # holds the text


def write(path: str | Path, kind: str, described: dict[str, Any], tree: dict[str, Any]) -> None:
    """Writes one, whole or not at all."""
    save(path, {ENTRY: json.dumps({"format": FORMAT, "kind": kind, **described}), **tree})


def read(path: str | Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Its kind, what describes it, and its trees.

    Raises:
        ValueError: the file holds something else, or was written by a later version.
    """
    tree = load(path)
    if not isinstance(tree, dict) or ENTRY not in tree:
        raise ValueError(f"{path} holds no estimator of jills; other trees: jills.load(path)")
    described = json.loads(tree.pop(ENTRY))
    if described.pop("format") > FORMAT:
        raise ValueError(f"{path} was written by a later version of jills; update it to read the file")
    return described.pop("kind", "networks"), described, tree


def as_text(labels: np.ndarray) -> str:
    """Labels of any dtype, texts too."""
    return json.dumps([str(labels.dtype), labels.tolist()])


def of_text(text: str) -> np.ndarray:
    """The inverse of `as_text`."""
    dtype, values = json.loads(text)
    return np.asarray(values, dtype)
