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
    if "print(" in code:
        assert "ILLS" in capsys.readouterr().out


def test_the_first_example_is_about_twenty_lines():
    first = blocks("python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 24


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
