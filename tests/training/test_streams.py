"""Rows in files: each once an epoch, in another order; trained on, cut short and gone on with, to the same bits."""

import os
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import contract
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jills
from jills.training import streams
from jills.training.streams import steps

MINIBATCH = ("adam_minibatch", "gauss_newton_minibatch")


def table(n=53, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (n, 3)).astype(dtype)
    return inputs, np.stack([np.sin(2 * inputs[:, 0]), inputs[:, 1] * inputs[:, 2]], axis=1)


def numbered(n, **options):
    """Rows whose inputs are their numbers, from one on."""
    inputs = np.arange(1.0, n + 1)[:, None]
    return streams.batches(inputs, -inputs, **options)


def order_of(batches):
    batches = list(batches)
    inputs, targets, weights = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    np.testing.assert_array_equal(inputs, -targets)
    np.testing.assert_array_equal(weights, inputs[:, 0] != 0)  # what fills the last one up
    return inputs[weights > 0, 0].astype(int).tolist()


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@given(
    n=st.integers(1, 90), batch_size=st.integers(1, 17), buffer_rows=st.integers(1, 100), first=st.integers(0, 12),
    shuffle=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_each_row_comes_once_an_epoch_in_batches_of_one_length(n, batch_size, buffer_rows, first, shuffle):
    rows = numbered(n, batch_size=batch_size, buffer_rows=buffer_rows, shuffle=shuffle)
    epoch = list(rows.epoch(3))
    assert sorted(order_of(epoch)) == list(range(1, n + 1))
    assert len(epoch) == len(rows) == -(-n // batch_size)
    assert {len(batch.inputs) for batch in epoch} == {batch_size}
    assert_same(list(rows.epoch(3, first)), epoch[first:])
    if not shuffle:
        assert order_of(rows) == list(range(1, n + 1))
    if n >= batch_size:
        whole = numbered(n, batch_size=batch_size, buffer_rows=buffer_rows, shuffle=shuffle, drop_last=True)
        assert_same(list(whole.epoch(3)), epoch[: n // batch_size])
        assert len(whole) == n // batch_size


@pytest.mark.parametrize("buffer_rows", [7, 64, 1000])
def test_each_epoch_and_each_seed_has_an_order_of_its_own(buffer_rows):
    rows, other = (numbered(200, batch_size=8, seed=seed, buffer_rows=buffer_rows) for seed in (0, 1))
    orders = [order_of(rows.epoch(0)), order_of(rows.epoch(1)), order_of(other.epoch(0)), list(range(1, 201))]
    assert len({tuple(order) for order in orders}) == 4
    assert order_of(rows) == order_of(rows) == orders[0]
    buffers = [set(order[:64]) for order in orders[:2]]
    assert buffers[0] != buffers[1] or buffer_rows > 200  # not only are the rows of the same buffers shuffled anew


def test_rows_of_one_block_are_spread_over_the_batches_of_a_buffer():
    """Files are often sorted: a batch is to have rows from all over them."""
    first = next(iter(numbered(6400, batch_size=64, buffer_rows=640))).inputs[:, 0]
    blocks = (first - 1) // 20  # of 640 / 32 rows
    assert len(set(blocks)) > 15
    assert first.max() - first.min() > 4000


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_a_file_mapped_into_memory_gives_the_same_bits(tmp_path, mode):
    inputs, targets = table()
    weights = np.random.default_rng(1).integers(0, 3, 53).astype("float32")
    np.save(tmp_path / "table.npy", np.concatenate([inputs, targets], axis=1))
    mapped = np.load(tmp_path / "table.npy", mmap_mode=mode)
    if mode == "c":
        mapped[5, 0] = inputs[5, 0] = 7.0  # is nowhere but in memory, and must not be lost
    found = streams.batches(mapped[:, :3], mapped[:, 3:], 8, weights, buffer_rows=20)
    wanted = streams.batches(inputs, targets, 8, weights, buffer_rows=20)
    for _ in range(2):
        assert_same(list(found.epoch(1)), list(wanted.epoch(1)))
    assert_same(list(streams.batches(jax.numpy.asarray(inputs), targets, 8, weights, buffer_rows=20)), list(wanted))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    path = tmp_path / "table.npy"
    np.lib.format.open_memmap(path, "w+", "float32", (2_000_000, 6))[:] = 1.0
    mapped = np.load(path, mmap_mode="r")
    before, most = resident(), 0
    for index, _ in enumerate(streams.batches(mapped[:, :5], mapped[:, 5:], 1000, buffer_rows=50_000)):
        most = max(most, resident() if index % 50 == 0 else 0)
    assert most - before < 24e6  # half of the file


def test_there_is_one_buffer_at_a_time():
    inputs = np.zeros((100_000, 5), "float32")
    rows = streams.batches(inputs, inputs[:, :1], 100, buffer_rows=20_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows) == 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * 20_000 * (6 + 1 + 2) * 4  # inputs and targets, weights, the order


def resident():
    """Bytes of this process in memory, those of mapped files among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": np.zeros(53)}, r"targets \(53,\).*targets\[:, None\]"),
        ({"inputs": np.zeros((52, 3))}, r"inputs \(52, 3\).*one n ≥ 1"),
        ({"inputs": np.zeros((0, 3)), "targets": np.zeros((0, 2))}, "one n ≥ 1"),
        ({"inputs": [[1.0]]}, r"inputs are a list.*give numpy.asarray\(inputs, float\)"),
        ({"weights": np.zeros((53, 1))}, r"weights \(53, 1\)"),
        ({"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ({"buffer_rows": 1.5}, "buffer_rows is 1.5"),
        ({"seed": -1}, "seed is -1, but must be an integer, zero or more"),
        ({"batch_size": 54, "drop_last": True}, "there are 53 rows.*smaller batch_size"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(change, words):
    inputs, targets = table()
    with pytest.raises(ValueError, match=words):
        streams.batches(**{"inputs": inputs, "targets": targets, "batch_size": 8} | change)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_columns_of_files_are_those_of_arrays(tmp_path, suffix):
    pyarrow = pytest.importorskip("pyarrow")
    inputs, targets = table()
    columns = dict(zip("abcyz", np.concatenate([inputs, targets], axis=1).T, strict=True))
    columns |= {"weight": np.arange(53) % 3, "name": np.repeat("x", 53)}
    paths = [tmp_path / f"{part}{suffix}" for part in range(2)]
    for path, part in zip(paths, (slice(0, 30), slice(30, 53)), strict=True):
        write(pyarrow, path, pyarrow.table({name: column[part] for name, column in columns.items()}))
    rows = streams.files(paths, ["a", "b", "c"], ["y", "z"], 8, "weight", shuffle=False)
    weights = columns["weight"].astype("float32")
    assert_same(list(rows), list(streams.batches(inputs, targets, 8, weights, shuffle=False)))
    shuffled = list(streams.files(paths, ["a"], ["a"], 8, buffer_rows=14).epoch(2))
    found = np.concatenate([batch.inputs[batch.weights > 0, 0] for batch in shuffled])
    assert found.tolist() != inputs[:, 0].tolist()
    np.testing.assert_array_equal(np.sort(found), np.sort(inputs[:, 0]))
    wide = next(iter(streams.files(paths[0], ["weight"], ["y"], 8, dtype="float64", shuffle=False)))
    assert wide.inputs.dtype == wide.targets.dtype == wide.weights.dtype == np.float64
    np.testing.assert_array_equal(wide.inputs[:, 0], np.arange(8) % 3)


def write(pyarrow, path, content):
    import pyarrow.ipc
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(content, path, row_group_size=7)
    else:
        with pyarrow.ipc.new_file(path, content.schema) as file:
            file.write_table(content, max_chunksize=7)


def test_files_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    write(pyarrow, tmp_path / "t.parquet", pyarrow.table({"a": [1.0, None], "b": ["x", "y"]}))
    write(pyarrow, tmp_path / "empty.parquet", pyarrow.table({"a": pyarrow.array([], "float64")}))
    assert np.isnan(next(iter(streams.files(tmp_path / "t.parquet", ["a"], ["a"], 2, shuffle=False))).inputs[1, 0])
    for path, inputs, words in (
        ("t.parquet", ["c"], r"no column 'c'; its columns are \['a', 'b'\]"),
        ("t.parquet", ["b"], "column 'b' is of string, but must be of numbers"),
        ("t.parquet", "a", r"inputs are 'a', but must be names of columns"),
        ("t.csv", ["a"], "must end in .parquet, .arrow or .feather"),
        ("empty.parquet", ["a"], "hold no rows"),
    ):
        with pytest.raises(ValueError, match=words):
            streams.files(tmp_path / path, inputs, ["a"], 2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'jills\[streams\]'"):
        streams.files(tmp_path / "t.parquet", ["a"], ["a"], 2)


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "jills-prefetch"]


def wait_until(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)
    assert holds()


def test_prefetch_reads_ahead_in_a_thread_that_ends_with_its_consumer():
    read, closed = [], []

    def items():
        try:
            for number in range(100):
                read.append(number)
                yield number, threading.current_thread().name
        finally:
            closed.append(True)

    ahead = streams.prefetch(items(), 2)
    assert not read
    assert [next(ahead) for _ in range(3)] == [(number, "jills-prefetch") for number in range(3)]
    wait_until(lambda: len(read) == 6)  # 3 taken, 2 wait, 1 in hand
    time.sleep(0.02)
    assert len(read) == 6
    ahead.close()
    wait_until(lambda: not readers())
    assert closed == [True]
    assert len(read) <= 7
    assert list(streams.prefetch(range(9))) == list(range(9))
    wait_until(lambda: not readers())


def test_prefetch_passes_exceptions_on_after_the_items_before_them():
    def items():
        yield from (1, 2, 3)
        raise OSError("the disk is gone")

    ahead = streams.prefetch(items())
    assert [next(ahead) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    wait_until(lambda: not readers())
    with pytest.raises(ValueError, match="count is 0"):
        streams.prefetch(items(), 0)


def problem(name, dtype="float64"):
    case = contract.CASES[name]
    inputs, targets = table(dtype=dtype)
    rows = streams.batches(inputs, targets, 8, buffer_rows=20)
    return case.algorithm, case.hparams, contract.NETWORK.init(jax.random.key(1), dtype), rows


def fit(*arguments, **options):
    return streams.fit(*arguments, **{"progress": False} | options)


@pytest.mark.parametrize("name", MINIBATCH)
def test_a_fit_takes_the_steps_of_its_algorithm(name, dtype):
    algorithm, hparams, params, rows = problem(name, dtype)
    state, record = fit(algorithm, hparams, params, rows, epochs=2)
    batches = [*rows.epoch(0), *rows.epoch(1)]
    wanted, losses = contract.init(algorithm, params, batches[0]), []
    for batch in batches:
        wanted, info = contract.step(algorithm, hparams, wanted, batch)
        losses.append(info.loss)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4), state.params, wanted.params)
    np.testing.assert_allclose(record.loss, losses, rtol=1e-4)
    assert record.loss.dtype == dtype
    assert (state.step, len(record.loss), record.epoch, record.batch, record.interrupted) == (14, 14, 1, 7, False)
    assert np.mean(record.loss[-7:]) < 0.5 * record.loss[0]
    assert not record.validation.size


@pytest.mark.parametrize("name", MINIBATCH)
def test_what_fills_a_batch_up_does_not_matter(name):
    algorithm, hparams, params, rows = problem(name)
    last = list(rows)[-1]
    assert np.sum(last.weights) == 5
    state = contract.init(algorithm, params, last)
    filled = contract.step(algorithm, hparams, state, last)[0]
    wrong = last._replace(inputs=np.where(last.weights[:, None] > 0, last.inputs, np.nan))
    assert_same(filled, contract.step(algorithm, hparams, state, wrong)[0])
    short = jills.Batch(*(array[:5] for array in last))
    alone = contract.step(algorithm, hparams, contract.init(algorithm, params, short), short)[0]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9), filled.params, alone.params)


@pytest.mark.parametrize("name", MINIBATCH)
@pytest.mark.parametrize("cut", [3, 7, 10])
def test_a_resumed_fit_equals_an_uninterrupted_one(name, cut, tmp_path):
    algorithm, hparams, params, rows = problem(name)
    options = {"validation": jills.Batch(*table(19, "float64", 1)), "validation_steps": 4}
    whole = fit(algorithm, hparams, params, rows, 20, **options)
    path = tmp_path / "training.npz"
    part = fit(algorithm, hparams, params, rows, cut, checkpoint=path, **options)
    assert len(part[1].loss) == jills.load(path).state.step == cut
    assert_same(fit(algorithm, hparams, params, rows, 20, checkpoint=path, checkpoint_seconds=0, **options), whole)
    assert_same(fit(algorithm, hparams, params, rows, 20, checkpoint=path, **options), whole)  # nothing is left to do
    assert os.listdir(tmp_path) == ["training.npz"]
    kept = jills.load(path)
    assert isinstance(kept, streams.Checkpoint)
    assert kept.state.step == 20


def interrupting(rows, at, times=1):
    """The batches, with Ctrl-C while one of them is read."""
    before = signal.getsignal(signal.SIGINT)

    def reading():
        for index, batch in enumerate(rows):
            for _ in range(times if index == at else 0):
                os.kill(os.getpid(), signal.SIGINT)
                wait_until(lambda: signal.getsignal(signal.SIGINT) is before)  # it has been noted
            yield batch

    return reading()


def test_ctrl_c_returns_what_is_done_and_the_next_call_goes_on(tmp_path):
    algorithm, hparams, params, rows = problem("adam_minibatch")
    before = signal.getsignal(signal.SIGINT)
    batches = [*rows.epoch(0), *rows.epoch(1)]
    state, record = fit(algorithm, hparams, params, interrupting(batches, 6), checkpoint=tmp_path / "training.npz")
    assert record.interrupted
    assert 1 <= len(record.loss) == state.step == record.batch <= 7
    whole = fit(algorithm, hparams, params, batches)
    np.testing.assert_array_equal(record.loss, whole[1].loss[: len(record.loss)])
    assert_same(fit(algorithm, hparams, params, batches, checkpoint=tmp_path / "training.npz"), whole)
    with pytest.raises(KeyboardInterrupt):
        fit(algorithm, hparams, params, interrupting(batches, 0, times=2))
    assert signal.getsignal(signal.SIGINT) is before
    wait_until(lambda: not readers())


def test_an_error_of_the_reader_reaches_the_caller_and_what_is_done_is_kept(tmp_path):
    algorithm, hparams, params, rows = problem("adam_minibatch")

    def failing():
        yield from list(rows)[:5]
        raise OSError("the disk is gone")

    path = tmp_path / "training.npz"
    with pytest.raises(OSError, match="the disk is gone"):
        fit(algorithm, hparams, params, failing(), checkpoint=path)
    wait_until(lambda: not readers())
    assert jills.load(path).state.step == 5
    assert_same(fit(algorithm, hparams, params, list(rows), checkpoint=path), fit(algorithm, hparams, params, rows))


@pytest.mark.parametrize("name", MINIBATCH)
def test_validation_rows_choose_the_best_parameters_and_the_end(name):
    algorithm, hparams, params, rows = problem(name)
    validation = jills.Batch(*table(19, "float64", 1), np.arange(19) % 2.0)
    options = {"validation": validation, "validation_steps": 3}
    state, record = fit(algorithm, hparams, params, rows, 50, **options)
    assert record.validation_step.tolist() == [*range(0, 50, 3), 50]
    lowest = int(np.argmin(record.validation))
    assert state.best_loss == record.validation[lowest]
    assert algorithm.loss_of(state.best_params, validation) == pytest.approx(float(state.best_loss), rel=1e-9)
    until = max(int(record.validation_step[lowest]), 1)
    there, _ = fit(algorithm, hparams, params, rows, until, **options)
    assert_same(state.best_params, there.params)
    rise = jills.Batch(validation.inputs, -50.0 * validation.targets)  # what is learnt is always wrong here
    ended, record = fit(algorithm, hparams, params, rows, 50, validation=rise, validation_steps=3, patience=10)
    waited = record.validation_step[-1] - record.validation_step[np.argmin(record.validation)]
    assert 10 <= waited < 13
    assert ended.result == jills.results.Code.PATIENCE
    assert ended.step == record.validation_step[-1] < 50


def test_it_goes_on_from_a_state_and_leaves_it_as_it_is():
    algorithm, hparams, params, rows = problem("adam_minibatch")
    first, _ = fit(algorithm, hparams, params, rows)
    second, _ = fit(algorithm, hparams, first, rows, 3)
    again, _ = fit(algorithm, hparams, first, rows, 3)
    assert_same(second, again)
    assert (first.step, second.step) == (7, 10)


def test_a_loss_that_is_not_finite_ends_it():
    algorithm, hparams, params, rows = problem("adam_minibatch")
    state, record = fit(algorithm, hparams._replace(learning_rate=1e200), params, rows, 500)
    assert state.result == jills.results.Code.NON_FINITE
    assert len(record.loss) < 20
    assert np.isfinite(jax.tree.leaves(state.best_params)[0]).all()


def test_one_program_serves_all_batches_and_all_numbers():
    algorithm, hparams, params, rows = problem("adam_minibatch")
    fit(algorithm, hparams, params, rows)
    program: Any = steps.step
    count = program._cache_size()
    inputs, targets = table(29, "float64", 3)
    fit(algorithm, hparams._replace(learning_rate=0.03), params, streams.batches(inputs, targets, 8), epochs=2)
    assert program._cache_size() == count


def test_threads_read_in_the_precision_of_the_caller():
    algorithm, hparams, _, rows = problem("adam_minibatch")
    with jax.enable_x64(False):
        params = contract.NETWORK.init(jax.random.key(1), "float32")
        state, record = fit(algorithm, hparams, params, rows)
    assert record.loss.dtype == state.loss.dtype == np.float32
    wide = problem("adam_minibatch")
    whole = fit(*wide)
    jax.config.update("jax_enable_x64", False)
    try:
        with jax.enable_x64(True):
            assert_same(fit(*wide), whole)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_the_bar_shows_steps_and_losses(capsys, tmp_path):
    algorithm, hparams, params, rows = problem("adam_minibatch")
    options = {"validation": jills.Batch(*table(19, "float64", 1)), "checkpoint": tmp_path / "training.npz"}
    fit(algorithm, hparams, params, rows, 4, **options)
    assert not capsys.readouterr().err
    streams.fit(algorithm, hparams, params, rows, 9, **options)
    told = capsys.readouterr().err
    assert "9/9" in told
    assert "loss" in told
    assert "validation" in told


def test_another_training_than_that_of_the_checkpoint_is_refused(tmp_path):
    algorithm, hparams, params, rows = problem("adam_minibatch")
    path = tmp_path / "training.npz"
    fit(algorithm, hparams, params, rows, 2, checkpoint=path)
    inputs, targets = table(dtype="float64")
    other_rows = streams.batches(inputs, targets, 8, buffer_rows=20, seed=1)
    other = jills.adam.build(contract.NETWORK, jills.losses.huber(1.0), full_batch=False)
    for given_algorithm, rate, given_rows, words in (
        (algorithm, 0.02, rows, r"hparams.learning_rate was 0.1 and is 0.02.*jills.load\(path\).state"),
        (algorithm, 0.1, other_rows, "batches was .*seed=0.* and is .*seed=1"),
        (other, 0.1, rows, "loss"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(given_algorithm, hparams._replace(learning_rate=rate), params, given_rows, checkpoint=path)
    jills.save(path, params)
    with pytest.raises(ValueError, match="holds something else than a training on a stream"):
        fit(algorithm, hparams, params, rows, checkpoint=path)


def test_what_cannot_be_trained_on_is_refused():
    algorithm, hparams, params, rows = problem("adam_minibatch")
    batch = next(iter(rows))
    spoilt = [batch, batch, batch._replace(inputs=np.full_like(batch.inputs, np.nan))]
    full = jills.adam.build(contract.NETWORK)
    validated = {"validation": batch._replace(inputs=batch.inputs[:, :2])}
    for given_algorithm, source, options, words in (
        (full, rows, {}, "build it with full_batch=False"),
        (algorithm, batch, {}, r"single jills.Batch; give \[batch\]"),
        (algorithm, 5, {}, r"batches is 5, but must be streams.batches\(…\)"),
        (algorithm, [], {}, "no batches in epoch 0"),
        (algorithm, iter([batch]), {"epochs": 2}, "no batches in epoch 1.*an iterator can be read once only"),
        (algorithm, spoilt, {}, "batch 2 of epoch 0: inputs hold NaN"),
        (algorithm, [(1, 2)], {}, "batch 0 of epoch 0: batch is a tuple"),
        (algorithm, rows, {"num_steps": 0}, "num_steps is 0"),
        (algorithm, rows, {"epochs": 0.5}, "epochs is 0.5"),
        (algorithm, rows, {"patience": 3}, "there are no validation rows"),
        (algorithm, rows, validated, "of the validation rows: inputs have shape"),
        (algorithm, rows, {"checkpoint_seconds": -1}, "checkpoint_seconds is -1"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(given_algorithm, hparams, params, source, **options)
    wait_until(lambda: not readers())
