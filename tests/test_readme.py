"""The README's promises: its code runs, its two commands are those that CI runs."""

import re
import tomllib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_code_runs(code, capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    told = capsys.readouterr().out
    if "jills.ills" in code:
        assert "ILLS" in told
    elif "RMSE" in code:
        error, share = (float(line.split()[-1]) for line in told.splitlines()[-2:])
        assert error < 62  # of a linear model 58, of a constant 75
        assert 0.8 <= share <= 1.0
    elif "GroupedRegressor" in code:
        assert float(told.split()[-1]) < 0.12  # noise of 0.2
    else:
        assert float(told.split()[-1]) < 0.06  # noise of 0.04


def test_the_first_example_is_short():
    first = blocks("python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 14


def test_two_commands():
    main_job, tests = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert "python -m experiments.compare configs/sunspots.toml" in main_job
    assert "python -m pytest" in tests
    assert all(command.startswith("python3 -m venv") for command in (main_job, tests))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.findall(r"\[(\w+)\]", command)[0] for command in (main_job, tests)} <= set(extras)
    assert "-m pytest" in (ROOT / ".ci/run").read_text()


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!http|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def anchors(path):
    """The anchors that GitHub gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "experiments" / "README.md"], ids=lambda path: path.parent.name
)
def test_links_and_figures_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_claim_links_to_its_experiment():
    claims = README.split("## What holds")[1].split("\n## ")[0]
    rows = [line for line in claims.splitlines() if line.startswith("| ")][2:]
    verdicts = ("confirmed", "partly", "not confirmed", "answered")
    assert len(rows) >= 8
    for row in rows:
        assert row.split("|")[2].strip().startswith(verdicts), row
        assert "experiments/README.md#" in row, row
