"""Fitted networks as a graph of ONNX, for programs without JAX or Python: units, all members, their mean.

It is built node by node: a network is a product, a sum and a function per layer. Nothing of it is compiled, and only
`onnx` is wanted.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from jills.estimators.forward import Forward

OPSET, VERSION = 17, 8  # of 2022: older runtimes read them too
FUNCTIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus", "arcsinh": "Asinh"}


class Graph:
    """A graph while it is built; what it computes is known by names."""

    def __init__(self):
        try:
            self._onnx: Any = importlib.import_module("onnx")
        except ModuleNotFoundError as error:
            raise ImportError("to_onnx wants onnx; install it with: pip install 'jills[onnx]'") from error
        self._nodes, self._constants, self._inputs, self._outputs = [], [], [], []

    def given(self, name: str, dtype: Any, *shape: int | str, doc: str = "") -> str:
        """An input; a word in its shape is a number that is open."""
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, self.kind(dtype), shape, doc))
        return name

    def constant(self, values: Any, dtype: Any) -> str:
        """An array of the graph's own."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """What an operation of ONNX makes of them."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def told(self, name: str, values: str, dtype: Any, *shape: int | str) -> None:
        """An output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [values], [name], name))
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, self.kind(dtype), shape))

    def kind(self, dtype: Any) -> int:
        """The number by which ONNX knows a dtype; texts are object arrays."""
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def write(self, path: str | Path) -> None:
        """To a file."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, "jills", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="jills", opset_imports=opsets, ir_version=VERSION)
        self._onnx.checker.check_model(model, full_check=True)
        self._onnx.save(model, path)


def write(
    path: str | Path,
    forward: Forward,
    dtype: str,
    classes: np.ndarray | None = None,
    columns: tuple[str, ...] | None = None,
    flat: bool = True,
    groups: bool = False,
) -> None:
    """Writes networks that predict a mean, or classes with their mean probabilities.

    Args:
        path: the file.
        forward: the networks.
        dtype: of inputs and outputs.
        classes: the labels, where outputs are logits.
        columns: names of the inputs, for those who look into the file.
        flat: whether the mean of one output is `(n,)`.
        groups: whether leaves lead with `[G, M]`, and the second input tells each row's group.

    Raises:
        ImportError: there is no `onnx`.
        ValueError: a dtype that it does not have.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"to_onnx: dtype is {dtype!r}, but must be 'float32' or 'float64'")
    graph, (d, k) = Graph(), (forward.inputs.mean.shape[-1], forward.targets.mean.shape[-1])
    inputs = graph.given("inputs", dtype, "n", d, doc=", ".join(columns or ()))
    which = graph.given("groups", np.int64, "n") if groups else None
    own = graph.constant
    if which is not None:
        own = lambda leaf, dtype: graph.node("Gather", graph.constant(leaf, dtype), which, axis=0)  # noqa: E731
    values = graph.node("Sub", inputs, own(forward.inputs.mean, dtype))
    values = _cast(graph, graph.node("Div", values, own(forward.inputs.scale, dtype)), np.float32)
    if groups:  # (n, 1, 1, d), for weights (n, M, d, fan_out)
        values = graph.node("Unsqueeze", values, graph.constant([1, 2], np.int64))
    values = _each(graph, forward, values, own)
    if classes is not None:
        _classes(graph, values, dtype, classes)
        return graph.write(path)
    values = _cast(graph, graph.node("ReduceMean", values, axes=[1, 2] if groups else [0], keepdims=0), dtype)
    values = graph.node("Mul", values, own(forward.targets.scale, dtype))
    values = graph.node("Add", values, own(forward.targets.mean, dtype))
    if flat and k == 1:
        values = graph.node("Reshape", values, graph.constant([-1], np.int64))
    graph.told("mean", values, dtype, *(("n",) if flat and k == 1 else ("n", k)))
    return graph.write(path)


def _each(graph, forward, values, own):
    """What every member's output layer tells, `(M, n, k)`; of groups `(n, M, 1, k)`; in standardised units."""
    for layer, (weight, bias) in enumerate(zip(forward.weights, forward.biases, strict=True)):
        values = graph.node("MatMul", values, own(weight, np.float32))
        values = graph.node("Add", values, own(bias[..., None, :], np.float32))
        if layer < len(forward.weights) - 1:
            values = _activated(graph, forward.activation, values)
    return values


def _activated(graph, activation, values):
    if activation == "silu":
        return graph.node("Mul", values, graph.node("Sigmoid", values))
    return graph.node(FUNCTIONS[activation], values)


def _classes(graph, logits, dtype, classes):
    """Labels, and the mean probabilities of the members."""
    if len(classes) > 2:
        values = graph.node("ReduceMean", graph.node("Softmax", logits, axis=-1), axes=[0], keepdims=0)
    else:
        second = graph.node("ReduceMean", graph.node("Sigmoid", logits), axes=[0], keepdims=0)
        first = graph.node("Sub", graph.constant(1.0, np.float32), second)
        values = graph.node("Concat", first, second, axis=1)
    kind = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}.get(classes.dtype.kind, np.object_)
    labels = classes.astype(str) if kind is np.object_ else classes
    likeliest = graph.node("ArgMax", values, axis=1, keepdims=0)
    graph.told("labels", graph.node("Gather", graph.constant(labels, kind), likeliest, axis=0), kind, "n")
    graph.told("probabilities", _cast(graph, values, dtype), dtype, "n", len(classes))


def _cast(graph, values, dtype):
    return graph.node("Cast", values, to=graph.kind(dtype))
