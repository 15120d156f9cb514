"""Least squares against NumPy: accuracy, rank, weights, ridge, and one bad member among good ones."""

import functools
import pickle
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jills import solvers

SOLVERS = {"lstsq": solvers.lstsq, "qr": solvers.qr, "cholesky": solvers.cholesky}
COMPILED = {name: jax.jit(solver.solve) for name, solver in SOLVERS.items()}
every = pytest.mark.parametrize("name", SOLVERS)
n, p, k = 11, 5, 2

# The table in the docstring of jills/solvers.py: largest relative error of x, see there.
CONDITIONS = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, "rank 5")
ERRORS = {
    ("lstsq", "float32"): (6.0e-07, 1.3e-06, 4.8e-06, 6.4e-05, 2.9e-04, 2.5e-03, 5.7e-07),
    ("qr", "float32"): (2.8e-07, 7.8e-07, 4.6e-06, 6.5e-05, 2.9e-04, 2.5e-03, 5.7e-07),
    ("cholesky", "float32"): (1.0e-07, 3.7e-07, 4.8e-06, 6.4e-05, 2.9e-04, 2.5e-03, 5.7e-07),
    ("lstsq", "float64"): (1.6e-15, 2.2e-15, 4.8e-15, 3.7e-14, 1.3e-12, 1.2e-11, 1.3e-15),
    ("qr", "float64"): (2.1e-15, 2.1e-15, 6.6e-15, 3.8e-14, 1.3e-12, 1.2e-11, 1.3e-15),
    ("cholesky", "float64"): (2.1e-15, 2.5e-15, 1.7e-14, 8.4e-14, 1.4e-12, 1.4e-09, 1.3e-15),
}


def solve(name, a, b, ridge=0.0, weights=None):
    """The solution as NumPy arrays; always with a traced ridge, so that tests share what is compiled."""
    return jax.tree.map(np.asarray, COMPILED[name](a, b, ridge, weights))


def eps_of(dtype):
    return float(np.finfo(dtype).eps)


def matrix(rng, rows, columns, condition=10.0, rank=None):
    """A random matrix of the given condition number, from its singular value decomposition."""
    full = min(rows, columns)
    values = np.geomspace(1.0, 1.0 / condition, full if rank is None else rank)
    left, _ = np.linalg.qr(rng.standard_normal((rows, full)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, full)))
    return (left[:, : len(values)] * values) @ right[:, : len(values)].T


def problem(dtype="float64", rows=n, columns=p, seed=1, condition=10.0, rank=None):
    rng = np.random.default_rng(seed)
    return matrix(rng, rows, columns, condition, rank).astype(dtype), rng.standard_normal((rows, k)).astype(dtype)


def reference(a, b):
    """NumPy in float64; what is nothing in the dtype of `a` counts as nothing."""
    return np.linalg.lstsq(a.astype(float), b.astype(float), rcond=a.shape[1] * eps_of(a.dtype))[0]


def assert_near(actual, expected, dtype, factor=1e3):
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=factor * eps_of(dtype) * scale)


# Accuracy


def largest_error(name, dtype, condition):
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        deficient = condition == "rank 5"
        a = matrix(rng, 50, 8, 10.0 if deficient else condition, 5 if deficient else None).astype(dtype)
        b = (a.astype(float) @ rng.standard_normal((8, k))).astype(dtype)
        expected = reference(a, b)
        errors.append(np.linalg.norm(solve(name, a, b).x - expected) / np.linalg.norm(expected))
    return max(errors)


@every
def test_errors_are_those_of_the_table(name, dtype):
    measured = np.array([largest_error(name, dtype, condition) for condition in CONDITIONS])
    stated = np.array(ERRORS[name, dtype])
    assert np.all(measured < 10 * stated), measured
    assert np.all(measured > 0.1 * stated), f"better than stated, tell the docstring: {measured}"


def test_the_docstring_shows_the_table():
    heads = [condition if isinstance(condition, str) else f"{condition:.0e}" for condition in CONDITIONS]
    lines = ["    " + " " * 16 + "".join(f"{head:>9s}" for head in heads)]
    for (name, dtype), errors in ERRORS.items():
        lines.append(f"    {name + ' ' + dtype:16s} " + "".join(f"{error:9.1e}" for error in errors))
    table = "\n".join(line.rstrip() for line in lines)
    assert table in str(solvers.__doc__), f"expected in the docstring of jills/solvers.py:\n{table}"


@every
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(n, p), (p, n)]),
    scales=st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    condition=st.floats(0, 4),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_residual_is_orthogonal_to_the_columns(name, seed, shape, scales, condition, dtype):
    a, b = problem(dtype, *shape, seed=seed, condition=10.0**condition)
    a, b = (a * 10.0 ** scales[0]).astype(dtype), (b * 10.0 ** scales[1]).astype(dtype)
    x, a, b = (array.astype(float) for array in (solve(name, a, b).x, a, b))
    gradient = np.linalg.norm(a.T @ (b - a @ x))
    size = np.linalg.norm(a)
    assert gradient <= 30 * eps_of(dtype) * size * (size * np.linalg.norm(x) + np.linalg.norm(b))


# Rank


@every
def test_the_answer_of_a_rank_deficient_matrix_is_the_shortest(name, dtype):
    a, b = problem(dtype, rank=3)
    solution = solve(name, a, b)
    assert solution.x.dtype == dtype
    assert_near(solution.x, reference(a, b), dtype)
    assert solution.rank == 3
    assert solution.rcond < p * eps_of(dtype)


@every
def test_a_duplicated_column_shares_its_coefficient(name, dtype):
    a, b = problem(dtype)
    a[:, 3] = a[:, 1]
    solution = solve(name, a, b)
    assert solution.rank == p - 1
    assert_near(solution.x[3], solution.x[1], dtype)
    assert_near(solution.x, reference(a, b), dtype)


@every
def test_a_wide_matrix_is_fitted_by_the_shortest_answer(name, dtype):
    a, b = problem(dtype, rows=p, columns=n)
    solution = solve(name, a, b)
    assert solution.rank == p
    assert_near(solution.x, reference(a, b), dtype)
    assert_near(a @ solution.x, b, dtype)


@every
def test_the_answer_to_a_zero_matrix_is_zero(name, dtype):
    _, b = problem(dtype)
    for ridge in (0.0, 0.1):
        solution = solve(name, np.zeros((n, p), dtype), b, ridge)
        np.testing.assert_array_equal(solution.x, np.zeros((p, k)))
        assert solution.rank == 0
        assert solution.rcond == 0.0


@every
def test_a_full_rank_is_reported(name, dtype):
    solution = solve(name, *problem(dtype))
    assert solution.rank == p
    assert solution.rank.dtype == jnp.int32


@every
@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("condition", [1.0, 30.0, 1000.0])
def test_rcond_is_the_true_one_or_a_bound_below_it(name, condition, ridge):
    a, b = problem(condition=condition)
    shift = ridge * np.trace(a.T @ a) / p
    truth = 1.0 / np.linalg.cond(np.concatenate([a, np.sqrt(shift) * np.eye(p)]))
    stated = solve(name, a, b, ridge).rcond
    if name == "lstsq":
        np.testing.assert_allclose(stated, truth, rtol=1e-9)
    else:  # ‖R‖ ‖R⁻¹‖ in the Frobenius norm is at most p times the condition number
        assert truth / p * (1 - 1e-9) <= stated <= truth * (1 + 1e-9)


def test_the_cheap_methods_are_taken_where_they_can_be_and_only_there():
    kinds = [problem(condition=condition) for condition in (10.0, 1e6, 1e9)] + [problem(rank=3)]
    taken = {}
    for name, solver in SOLVERS.items():
        trusts = jax.jit(lambda a, b, method=solver.method: method(a, b, jnp.zeros(())).trusted)
        taken[name] = [bool(trusts(*kind)) for kind in kinds]
        assert not trusts(*problem(rows=p, columns=n))
    assert taken == {
        "lstsq": [False, False, False, False],
        "qr": [True, True, True, False],
        "cholesky": [True, True, False, False],
    }


# Right-hand sides and weights


@every
def test_several_right_hand_sides_are_several_problems(name):
    a, b = problem()
    together = solve(name, a, b)
    for column in range(k):
        alone = solve(name, a, b[:, column])
        assert alone.x.shape == (p,)
        assert_near(alone.x, together.x[:, column], "float64")
        assert alone.rank == together.rank


@every
def test_weights_multiply_the_squares_of_residuals(name, dtype):
    a, b = problem(dtype)
    weights = np.random.default_rng(2).random(n).astype(dtype)
    root = np.sqrt(weights)[:, None]
    solution = solve(name, a, b, 0.0, weights)
    assert solution.x.dtype == dtype
    assert_near(solution.x, reference(root * a, root * b), dtype)
    assert not np.allclose(solution.x, reference(a, b), rtol=0.1)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_of_weight_zero_may_hold_anything(name, bad, dtype):
    a, b = problem(dtype)
    weights = np.linspace(0.5, 2.0, n).astype(dtype)
    weights[3] = 0.0
    healthy = solve(name, a, b, 1e-3, weights)
    a[3], b[3, 1] = bad, bad
    spoilt = solve(name, a, b, 1e-3, weights)
    jax.tree.map(np.testing.assert_array_equal, spoilt, healthy)
    used = np.arange(n) != 3
    assert_near(spoilt.x, closed_form(a[used], b[used], 1e-3, weights[used]), dtype)


# Ridge


def closed_form(a, b, ridge, weights=None):
    a, b = a.astype(float), b.astype(float)
    weighted = a if weights is None else weights.astype(float)[:, None] * a
    gram = weighted.T @ a
    return np.linalg.solve(gram + ridge * np.trace(gram) / a.shape[1] * np.eye(a.shape[1]), weighted.T @ b)


@every
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 30.0])
def test_ridge_is_relative_to_the_mean_square_of_the_columns(name, ridge, dtype):
    a, b = problem(dtype)
    weights = np.linspace(0.5, 2.0, n).astype(dtype)
    assert_near(solve(name, a, b, ridge).x, closed_form(a, b, ridge), dtype)
    assert_near(solve(name, a, b, ridge, weights).x, closed_form(a, b, ridge, weights), dtype)
    # It means the same for data of any scale.
    assert_near(1024 * solve(name, 1024 * a, b, ridge).x, solve(name, a, b, ridge).x, dtype)


@every
@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
@pytest.mark.parametrize("shape", [(n, p), (p, n)], ids=["rank 3", "wide"])
def test_ridge_restores_full_rank(name, shape, ridge, dtype):
    a, b = problem(dtype, *shape, rank=3)
    solution = solve(name, a, b, ridge)
    assert solution.rank == shape[1]
    assert_near(solution.x, closed_form(a, b, ridge), dtype, factor=1e3 / ridge)


@every
def test_another_ridge_does_not_trace_again(name):
    traces = []

    @jax.jit
    def answer(a, b, ridge):
        traces.append(ridge)
        return SOLVERS[name](a, b, ridge)

    ridges = (0.0, 1e-3, 1.0)
    answers = [np.asarray(answer(*problem(), ridge)) for ridge in ridges]
    assert len(traces) == 1
    for ridge, x in zip(ridges, answers, strict=True):
        np.testing.assert_array_equal(x, solve(name, *problem(), ridge).x)
    assert np.linalg.norm(answers[0]) > np.linalg.norm(answers[1]) > np.linalg.norm(answers[2])


# Rows in blocks, as for devices. Four blocks of eleven rows, longer than their triangles; then shorter ones.


@every
@pytest.mark.parametrize("rows", [44, 12])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_rows_in_blocks_give_the_same_answer(name, rows, rank, ridge, dtype):
    a, b = problem(dtype, rows, rank=rank)
    weights = np.linspace(0.5, 2.0, rows).astype(dtype)
    weights[3] = 0.0
    blocks = jax.tree.map(np.asarray, jax.jit(SOLVERS[name].in_blocks(4).solve)(a, b, ridge, weights))
    whole = solve(name, a, b, ridge, weights)
    assert_near(blocks.x, whole.x, dtype)
    assert blocks.rank == whole.rank
    np.testing.assert_allclose(blocks.rcond, whole.rcond, rtol=1e-3, atol=p * eps_of(dtype))


@every
def test_each_of_many_may_have_its_rows_in_blocks(name):
    a, b = (np.stack(leaves) for leaves in zip(*(problem(rows=44, seed=i) for i in range(3)), strict=True))
    together = jax.jit(jax.vmap(SOLVERS[name].in_blocks(4)))(a, b)
    for at in range(3):
        assert_near(together[at], reference(a[at], b[at]), "float64")


def test_the_derivative_in_blocks_is_the_same():
    a, b = problem(rows=44)
    slope = lambda solver: jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(solver(a, b, 1e-3)))))(a)  # noqa: E731 used at once
    assert_near(slope(solvers.qr.in_blocks(4)), slope(solvers.qr), "float64")


def test_rows_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="11 rows cannot be cut into 4 blocks"):
        solvers.qr.in_blocks(4)(*problem())
    for blocks in (0, 2.5):
        with pytest.raises(ValueError, match="must be a positive integer"):
            solvers.qr.in_blocks(blocks)  # pyright: ignore[reportArgumentType] the point of the test
    assert solvers.qr.in_blocks(1) == solvers.qr


# Many at once


def members(shape):
    """`a`, `b` and ridge of many members, some of them rank-deficient."""
    count = int(np.prod(shape))
    pairs = [problem(seed=i, rank=3 if i % 3 == 2 else None) for i in range(count)]
    a, b = (np.stack(leaves).reshape(*shape, n, -1) for leaves in zip(*pairs, strict=True))
    return a, b, np.where(np.arange(count) % 2, 1e-3, 0.0).reshape(shape)


WAYS = pytest.mark.parametrize(
    ("way", "shape"), [("cpu", (3,)), ("cpu", (2, 3)), ("default", (2, 3))], ids=["flat", "nested", "accelerators"]
)


@functools.cache
def batched(name, way, depth):
    """`solve` under `depth` vmaps, over the batch in the way of the CPU or in that of accelerators."""
    # A method of its own, since the solve over a batch is cached by the method.
    solver = solvers.Solver(lambda a, b, ridge: SOLVERS[name].method(a, b, ridge))

    def chosen(*args, **ways):
        return ways[way](*args)

    def one(a, b, ridge):
        with mock.patch.object(solvers.lax, "platform_dependent", chosen):
            return solver.solve(a, b, ridge)

    for _ in range(depth):
        one = jax.vmap(one)
    compiled = jax.jit(one)
    return lambda *args: jax.tree.map(np.asarray, compiled(*args))


@every
@WAYS
def test_a_batch_is_its_members_one_by_one(name, way, shape):
    a, b, ridge = members(shape)
    together = batched(name, way, len(shape))(a, b, ridge)
    for place in np.ndindex(shape):
        alone = solve(name, a[place], b[place], float(ridge[place]))
        assert_near(together.x[place], alone.x, "float64")
        assert together.rank[place] == alone.rank
        np.testing.assert_allclose(together.rcond[place], alone.rcond, rtol=1e-9, atol=1e-15)


@every
@WAYS
def test_a_bad_member_harms_no_neighbour(name, way, shape):
    compiled, healthy = batched(name, way, len(shape)), members(shape)
    expected = compiled(*healthy)
    assert np.all(np.isfinite(expected.x))
    bad, other = (0,) * len(shape), np.ones(shape, bool)
    other[bad] = False
    for argument, place, value in ((0, (7, 3), np.nan), (1, (2, 0), np.nan), (0, (0, 0), np.inf), (2, (), np.nan)):
        spoilt = [array.copy() for array in healthy]
        spoilt[argument][(*bad, *place)] = value
        solution = compiled(*spoilt)
        assert np.all(np.isnan(solution.x[bad]))
        assert solution.rank[bad] == 0
        assert solution.rcond[bad] == 0.0
        for leaf, leaf_expected in zip(solution, expected, strict=True):
            np.testing.assert_array_equal(leaf[other], leaf_expected[other])


@every
def test_each_of_nested_batches_can_share_its_own_argument(name):
    a, b, ridge = members((2, 3))
    a, ridge = a[:, 0], np.array([0.0, 1e-3, 1e-1])  # the inner batch shares a matrix, the outer one the ridges
    inner = jax.vmap(SOLVERS[name].solve, in_axes=(None, 0, 0))
    outer = jax.vmap(inner, in_axes=(0, 1, None))
    shared = jax.jit(outer)(a, b.swapaxes(0, 1), ridge)
    assert shared.x.shape == (2, 3, p, k)
    for place in np.ndindex(2, 3):
        alone = solve(name, a[place[0]], b[place], float(ridge[place[1]]))
        assert_near(shared.x[place], alone.x, "float64")


# What is refused


@pytest.mark.parametrize(
    ("dtypes", "match"),
    [
        (("float16", "float16"), "a is float16 and b float16"),
        (("int32", "int32"), "a is int32 and b int32; give both as float32 or both as float64"),
        (("float32", "float64"), "a is float32 and b float64"),
    ],
)
def test_dtypes_that_are_refused(dtypes, match):
    with pytest.raises(ValueError, match=match):
        solvers.lstsq(np.ones((n, p), dtypes[0]), np.ones((n, k), dtypes[1]))


@pytest.mark.parametrize(
    ("a", "b", "weights"),
    [
        ((n,), (n,), None),
        ((3, n, p), (3, n, k), None),
        ((n, p), (p, k), None),
        ((n, p), (n, k, 1), None),
        ((n, p), (), None),
        ((0, p), (0, k), None),
        ((n, 0), (n, k), None),
        ((n, p), (n, k), (p,)),
        ((n, p), (n, k), (n, 1)),
    ],
)
def test_shapes_that_are_refused(a, b, weights):
    with pytest.raises(ValueError, match=r"shapes are a \(.*must be \(n, p\), \(n, k\) or \(n,\), and \(n,\)"):
        solvers.qr.solve(np.ones(a), np.ones(b), 0.0, None if weights is None else np.ones(weights))


@every
def test_solvers_compare_hash_and_pickle_by_value(name):
    again = pickle.loads(pickle.dumps(SOLVERS[name]))
    assert again == SOLVERS[name]
    assert hash(again) == hash(SOLVERS[name])
    assert [other for other, solver in SOLVERS.items() if solver == again] == [name]


@pytest.mark.parametrize("name", ["lstsq", "qr", "cholesky"])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_entries_of_any_size(name, size, ridge):
    """Squares of float32 entries beyond 1e19 overflow; nothing may come of it."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((11, 3)), rng.standard_normal((11, 2))
    solve = getattr(solvers, name).solve
    plain = solve(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), ridge)
    scaled = solve(jnp.asarray(size * a, jnp.float32), jnp.asarray(size * b, jnp.float32), ridge)
    np.testing.assert_allclose(scaled.x, plain.x, rtol=1e-5)
    assert scaled.rank == 3


@pytest.mark.parametrize("name", ["lstsq", "qr", "cholesky"])
def test_a_negative_ridge_gives_nan(name):
    assert jnp.isnan(getattr(solvers, name)(jnp.eye(3), jnp.ones(3), -1.0)).all()


def assert_derivatives(function, primals, tangents, slope):
    """In forward and in reverse mode, with a `vmap` around each as for many members."""
    forward = jax.jit(jax.vmap(lambda *one: jax.jvp(function, primals, one)[1]))(*(one[None] for one in tangents))
    np.testing.assert_allclose(forward[0], slope, rtol=1e-6, atol=1e-8)
    cotangent = np.random.default_rng(3).standard_normal(slope.shape)
    backward = jax.jit(jax.vmap(lambda one: jax.vjp(function, *primals)[1](one)))(cotangent[None])
    total = sum(np.vdot(one[0], tangent) for one, tangent in zip(backward, tangents, strict=True))
    np.testing.assert_allclose(total, np.vdot(cotangent, slope), rtol=1e-6)


@pytest.mark.parametrize(("rows", "rank"), [(n, p), (n, 3), (3, 3)], ids=["full rank", "rank deficient", "wide"])
def test_derivatives_are_those_of_the_shortest_answer(rows, rank):
    """Along a path of matrices of the same rank, against differences of NumPy's."""
    rng, width = np.random.default_rng(2), 1e-6
    pairs = [rng.standard_normal((2, *shape)) for shape in ((rows, rank), (rank, p), (rows, k))]
    (left, left_change), (right, right_change), (b, b_change) = pairs

    def answer(t):
        return reference((left + t * left_change) @ (right + t * right_change), b + t * b_change)

    slope = (answer(width) - answer(-width)) / (2 * width)
    change = left_change @ right + left @ right_change
    assert_derivatives(solvers.lstsq, (left @ right, b), (change, b_change), slope)


def test_derivatives_in_ridge_and_weights():
    """Against differences of the normal equations; a weight of zero takes no part."""
    a, b = problem()
    rng, width = np.random.default_rng(2), 1e-6
    primals: Any = (a, b, np.asarray(0.3), np.arange(n) / n)
    tangents = tuple(rng.standard_normal(np.shape(one)) for one in primals)
    tangents[3][0] = 0.0

    def answer(t):
        a, b, ridge, weights = (one + t * change for one, change in zip(primals, tangents, strict=True))
        gram = a.T @ (weights[:, None] * a)
        return np.linalg.solve(gram + ridge * np.trace(gram) / p * np.eye(p), a.T @ (weights[:, None] * b))

    slope = (answer(width) - answer(-width)) / (2 * width)
    assert_derivatives(solvers.qr, primals, tangents, slope)
    weights = jax.grad(lambda weights: jnp.sum(solvers.qr(a, b, primals[2], weights)))(primals[3])
    assert weights[0] == 0
