"""The claims: every experiment at toy size, resuming, the report; distances and statistics against other ways."""

import re
from itertools import pairwise, permutations, product
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import jills
from experiments.claims import __main__ as claims
from experiments.claims import base, ground_truth, html_report, stability, statistics
from experiments.claims.__main__ import EXPERIMENTS
from experiments.data import MissingData

pytestmark = pytest.mark.usefixtures("usual_jax")
CONFIG = 'title = "a toy"\nseeds = 3\n\n[quick]\nseeds = 2\n'


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The results of everything at toy size."""
    results = tmp_path_factory.mktemp("claims")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert claims.main(["--quick", "--results", str(results), "--data", str(results / "none")]) == 0
    jax.config.update("jax_enable_x64", True)
    return results


@pytest.mark.timeout(400)
def test_every_experiment_leaves_a_table_a_summary_and_a_figure(quick):
    for one in EXPERIMENTS:
        folder = claims.folder_of(quick, one, quick=True)
        table = pd.read_csv(folder / "table.csv")
        assert len(table) > 0
        assert len(table) == sum(len(pd.read_csv(path)) for path in (folder / "pieces").glob("*.csv"))
        assert len(pd.read_csv(next(iter(folder.glob("summary*.csv"))))) > 0
        assert (folder / f"{one.name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "cpu" in (folder / "environment.json").read_text(encoding="utf-8")


def test_the_report_shows_every_figure_and_asks_for_nothing_online(quick):
    page = (quick / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= len(EXPERIMENTS)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for one in EXPERIMENTS:
        assert f"<h2>{one.name}</h2>" in page


def test_what_is_finished_is_not_run_again(quick, monkeypatch, capsys):
    monkeypatch.setattr(claims, "run_pieces", lambda *_: pytest.fail("ran again"))
    whole = [one for one in EXPERIMENTS if (claims.folder_of(quick, one, quick=True) / "summary.csv").exists()]
    assert len(whole) > 5
    names = [one.name for one in whole]
    assert claims.main(["--quick", "--only", *names, "--results", str(quick)]) == 0
    assert capsys.readouterr().out.count("complete in") == len(names)


def toy(monkeypatch, tmp_path, name="toy", *, broken=None, missing=None, stop_at=None, calls=None):
    """An experiment of four pieces, each counted when it runs; one of them may raise."""
    calls = [] if calls is None else calls

    def piece(number, seeds):
        calls.append(number)
        for at, error in (
            (broken, ValueError("broken")),
            (missing, MissingData("no data")),
            (stop_at, KeyboardInterrupt()),
        ):
            if number == at:
                raise error
        return [{"number": number, "seeds": seeds}]

    def pieces(config, folder):
        for number in range(4):
            yield base.Piece(f"piece-{number}", lambda number=number: piece(number, config.seeds))

    configs = tmp_path / "configs" / "claims"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / f"{name}.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setattr(base, "ROOT", tmp_path)
    experiment = base.Experiment(name, base.ClaimConfig, pieces, lambda table: Figure(), lambda table: table)
    monkeypatch.setattr(claims, "EXPERIMENTS", (experiment,))
    return experiment, calls


def run(tmp_path, *options):
    return claims.main([*options, "--results", str(tmp_path / "results")])


def test_an_interrupted_run_goes_on_at_the_last_finished_piece(monkeypatch, tmp_path, capsys):
    one, calls = toy(monkeypatch, tmp_path, stop_at=2)
    assert run(tmp_path) == 130
    assert "goes on" in capsys.readouterr().err
    assert calls == [0, 1, 2]
    one, calls = toy(monkeypatch, tmp_path)
    assert run(tmp_path) == 0
    assert calls == [2, 3]
    table = pd.read_csv(claims.folder_of(tmp_path / "results", one, quick=False) / "table.csv")
    assert table.to_dict("list") == {"number": [0, 1, 2, 3], "seeds": [3] * 4}
    run(tmp_path)
    assert calls == [2, 3]


def test_another_config_is_another_folder_and_runs(monkeypatch, tmp_path):
    _, calls = toy(monkeypatch, tmp_path)
    run(tmp_path)
    run(tmp_path, "--quick")
    assert calls == [0, 1, 2, 3] * 2
    assert len(list((tmp_path / "results").glob("toy-*"))) == 2


def test_missing_data_leave_out_a_piece_and_are_looked_for_again(monkeypatch, tmp_path, capsys):
    one, calls = toy(monkeypatch, tmp_path, missing=1)
    assert run(tmp_path) == 0
    assert "no data" in capsys.readouterr().err
    folder = claims.folder_of(tmp_path / "results", one, quick=False)
    assert list(pd.read_csv(folder / "table.csv").number) == [0, 2, 3]
    assert not (folder / "summary.csv").exists()
    toy(monkeypatch, tmp_path, calls=calls)
    assert run(tmp_path) == 0
    assert calls == [0, 1, 2, 3, 1]
    assert list(pd.read_csv(folder / "summary.csv").number) == [0, 1, 2, 3]
    assert not (folder / "summary-of-part.csv").exists()


def test_a_broken_experiment_is_told_and_leaves_the_others(monkeypatch, tmp_path, capsys):
    bad, _ = toy(monkeypatch, tmp_path, "bad", broken=0)
    good, _ = toy(monkeypatch, tmp_path, "good")
    monkeypatch.setattr(claims, "EXPERIMENTS", (bad, good))
    assert run(tmp_path) == 1
    assert "broke: bad" in capsys.readouterr().err
    assert (claims.folder_of(tmp_path / "results", good, quick=False) / "summary.csv").exists()


def test_a_bad_config_is_told_in_a_line(monkeypatch, tmp_path, capsys):
    toy(monkeypatch, tmp_path)
    path = tmp_path / "configs" / "claims" / "toy.toml"
    path.write_text(CONFIG.replace("seeds = 3", "seeds = 0"), encoding="utf-8")
    assert run(tmp_path) == 2
    assert re.fullmatch(r".*toy.toml: seeds: .*greater than or equal to 1\n", capsys.readouterr().err)


def test_every_experiment_has_a_full_config_with_seeds_enough():
    for one in EXPERIMENTS:
        config = base.load_config(one, quick=False)
        assert config.seeds >= {"images": 5, "classification": 5, "cost": 1, "guide": 5}.get(one.name, 20)


def test_publishing_puts_a_table_between_its_markers(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (tmp_path / "figures").mkdir()
    (folder / "toy.png").write_bytes(b"figure")
    pd.DataFrame({"a": ["1", ""], "b": ["x", "y"]}).to_csv(folder / "summary.csv", index=False)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table: toy -->\nold\n<!-- end: toy -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        html_report.publish("toy", folder, readme)
        expected = (
            "before\n<!-- table: toy -->\n\n| a | b |\n| --- | --- |\n| 1 | x |\n|  | y |\n\n<!-- end: toy -->\nafter\n"
        )
        assert readme.read_text(encoding="utf-8") == expected
    assert (tmp_path / "figures" / "toy.png").read_bytes() == b"figure"
    with pytest.raises(ValueError, match="has no line <!-- table: other -->"):
        html_report.publish("other", _renamed(folder, "other"), readme)


def test_a_report_links_to_the_pages_of_the_api_where_they_are(tmp_path):
    report, pages = tmp_path / "results" / "report.html", tmp_path / "site" / "index.html"
    assert html_report.link(report, pages) == ""
    pages.parent.mkdir()
    pages.write_text("pages")
    assert 'href="../site/index.html"' in html_report.link(report, pages)


def _renamed(folder, name):
    (folder / f"{name}.png").write_bytes(b"")
    return folder


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(3, 4, 1), (2, 3, 2), (2, 2, 2, 1), (2, 3, 2, 1)]))
def test_distance_does_not_see_permutations_and_signs_and_nothing_is_nearer(seed, sizes):
    random = np.random.default_rng(seed)
    truth = tuple(
        LAYER(random.normal(size=(below, above)), random.normal(size=above)) for below, above in pairwise(sizes)
    )
    noisy = jax.tree.map(lambda leaf: leaf + 0.3 * random.normal(size=leaf.shape), truth)
    moved, still = shuffled(truth, random), shuffled(noisy, random)
    assert ground_truth.distance(moved, truth) < 1e-12
    np.testing.assert_allclose(ground_truth.distance(still, truth), nearest(noisy, truth), rtol=1e-9)


LAYER: Any = jills.Layer  # of arrays of NumPy


def shuffled(params, random):
    """The same function with hidden units permuted and signs flipped, one matrix at a time."""
    layers = [[np.array(layer.weight), np.array(layer.bias)] for layer in params]
    for below, above in pairwise(layers):
        order, signs = random.permutation(len(below[1])), random.choice([-1.0, 1.0], len(below[1]))
        below[0], below[1] = below[0][:, order] * signs, below[1][order] * signs
        above[0] = above[0][order] * signs[:, None]
    return tuple(LAYER(weight, bias) for weight, bias in layers)


def nearest(params, truth):
    """The distance by trying everything."""
    best, widths = np.inf, [len(layer.bias) for layer in truth[:-1]]
    every = [[(p, s) for p in permutations(range(w)) for s in product((-1.0, 1.0), repeat=w)] for w in widths]
    for choice in product(*every):
        matrices = [np.eye(len(order))[:, list(order)] * np.array(signs) for order, signs in choice]
        total, before = 0.0, np.eye(truth[0].weight.shape[0])
        for layer, true, after in zip(params, truth, [*matrices, np.eye(len(truth[-1].bias))], strict=True):
            total += np.sum((before.T @ layer.weight @ after - true.weight) ** 2)
            total += np.sum((layer.bias @ after - true.bias) ** 2)
            before = after
        best = min(best, total)
    return np.sqrt(best / sum(np.sum(leaf**2) for layer in truth for leaf in layer))


def test_intervals_hold_the_median_and_count_failures_as_worst():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, middle, high = statistics.median_interval(random.exponential(size=30), 300)
        assert low <= middle <= high
        hits += low <= np.log(2) <= high
    assert 0.88 <= hits / 200 <= 1.0
    assert statistics.median_interval([1.0, np.nan, np.inf])[1] == np.inf
    assert statistics.median_interval([1.0, 2.0, np.nan])[1] == 2.0


@given(st.integers(1, 10_000), st.integers(2, 60))
def test_checkpoints_hold_the_ends(num_steps, points):
    steps = base.checkpoints(num_steps, points)
    assert steps[0] == 0
    assert steps[-1] == num_steps
    assert np.all(np.diff(steps) > 0)


def test_the_tuned_rate_has_the_lowest_median_at_the_end():
    rows = [
        {"net": "a", "learning_rate": rate, "seed": seed, "loss": loss, "status": status}
        for rate, losses in ((0.1, [1.0, 9.0, 9.0]), (0.2, [2.0, 2.0, np.nan]), (0.3, [0.1, np.nan, np.nan]))
        for seed, loss in enumerate(losses)
        for status in ("stalled",)
    ]
    early = {"net": "a", "learning_rate": 0.3, "seed": 0, "loss": 0.0}
    best = statistics.tuned(pd.DataFrame([*rows, early]), ["net"])
    assert set(best.learning_rate) == {0.2}


def test_outcomes_follow_their_definitions():
    cases = {  # start, variance, final loss, status → diverged, slow, stalled
        (1.0, 0.5, np.nan, "diverged"): (True, False, False),
        (1.0, 0.5, 11.0, "diverged"): (True, False, False),
        (0.01, 0.5, 0.2, "stalled"): (False, False, True),  # far above its start, but below what knows nothing
        (1.0, 0.5, 0.2, "improving"): (False, True, False),
        (1.0, 0.5, 0.04, "stalled"): (False, False, False),
    }
    columns = ["start", "variance", "loss", "status"]
    table = stability.outcomes(pd.DataFrame(list(cases), columns=pd.Index(columns)))
    told = table[["diverged", "slow", "stalled"]].to_numpy(bool).tolist()
    assert [tuple(row) for row in told] == list(cases.values())
