"""ILLS once more, in NumPy float64, with loops over rows and neurons: what `jills.ills` is held against.

It shares no code with jills. Written from the equations: `A^l = [h^(l-1), 1]`, targets from the top
down, the deviation in the parameters below, a shift by the rate, a projection, the inverse.
"""

import numpy as np


class Tanh:
    range = (-1.0, 1.0)
    forward = staticmethod(np.tanh)
    inverse = staticmethod(np.arctanh)

    @staticmethod
    def derivative(value):
        return 1.0 / np.cosh(value) ** 2


class Sigmoid:
    range = (0.0, 1.0)

    @staticmethod
    def forward(value):
        return 1.0 / (1.0 + np.exp(-value))

    @staticmethod
    def inverse(value):
        return np.log(value / (1.0 - value))

    @staticmethod
    def derivative(value):
        return 1.0 / (2.0 + np.exp(value) + np.exp(-value))


class Leaky:
    range = (-np.inf, np.inf)

    def __init__(self, slope):
        self.slope = slope

    def forward(self, value):
        return value if value > 0 else self.slope * value

    def inverse(self, value):
        return value if value > 0 else value / self.slope

    def derivative(self, value):
        return 1.0 if value > 0 else self.slope


def least_squares(matrix, right, ridge):
    """Minimum-norm `argmin ‖M x − r‖² + λ‖x‖²` with the cut-off `ε p` on singular values."""
    p = matrix.shape[1]
    penalty = ridge * np.sum(matrix**2) / p
    matrix = np.vstack([matrix, np.sqrt(penalty) * np.eye(p)])
    right = np.concatenate([right, np.zeros(p)])
    return np.linalg.lstsq(matrix, right, rcond=p * np.finfo(np.float64).eps)[0]


def forward(params, functions, inputs):
    """Total inputs and activations of every layer, row by row and neuron by neuron."""
    totals, activations, below = [], [], inputs
    for (weight, bias), function in zip(params, functions, strict=True):
        total = np.zeros((len(inputs), len(bias)))
        for n in range(len(inputs)):
            for j in range(len(bias)):
                total[n, j] = bias[j] + sum(below[n, i] * weight[i, j] for i in range(len(weight)))
        below = np.array([[function.forward(value) for value in row] for row in total])
        totals.append(total)
        activations.append(below)
    return totals, activations


def project(value, function, margin):
    low, high = function.range
    return min(max(value, low + margin), high - margin)


def step(params, functions, inputs, targets, rate, ridge, margin, weights=None):
    """One ILLS step; returns new params as a list of (weight, bias)."""
    n = len(inputs)
    root = np.ones(n) if weights is None else np.sqrt(weights)
    totals, activations = forward(params, functions, inputs)
    params = [(weight.copy(), bias.copy()) for weight, bias in params]
    output = functions[-1]
    wanted = np.array([[output.inverse(project(value, output, margin)) for value in row] for row in targets])
    for layer in reversed(range(len(params))):
        below = inputs if layer == 0 else activations[layer - 1]
        rows = np.array([[*below[i], 1.0] for i in range(n)])
        weight, bias = params[layer]
        for j in range(len(bias)):  # every neuron is a problem of its own
            solved = least_squares(rows * root[:, None], wanted[:, j] * root, ridge)
            weight[:, j], bias[j] = solved[:-1], solved[-1]
        if layer == 0:
            return params
        function = functions[layer - 1]
        lower = inputs if layer == 1 else activations[layer - 2]
        lower_rows = np.array([[*lower[i], 1.0] for i in range(n)])
        width, fan_in = below.shape[1], lower_rows.shape[1]
        matrix, right = [], []
        for i in range(n):
            for k in range(len(bias)):
                entries = []
                for j in range(width):
                    slope = function.derivative(totals[layer - 1][i, j])
                    entries += [weight[j, k] * slope * lower_rows[i, m] for m in range(fan_in)]
                fitted = bias[k] + sum(below[i, j] * weight[j, k] for j in range(width))
                matrix.append(np.array(entries) * root[i])
                right.append((wanted[i, k] - fitted) * root[i])
        deviation = least_squares(np.array(matrix), np.array(right), ridge).reshape(width, fan_in)
        shifted = np.zeros((n, width))
        for i in range(n):
            for j in range(width):
                slope = function.derivative(totals[layer - 1][i, j])
                moved = below[i, j] + rate * slope * (lower_rows[i] @ deviation[j])
                shifted[i, j] = function.inverse(project(moved, function, margin))
        wanted = shifted
    raise AssertionError("unreachable: layer 0 returns")
