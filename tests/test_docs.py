"""The pages of the API: the README's command builds them without a warning, and they say what the source says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("pdoc", reason="the extra `docs` is not installed")


@pytest.mark.slow
def test_the_command_of_the_readme_builds_the_pages(tmp_path):
    command = re.findall(r"`python (-m pdoc .*?)`", (ROOT / "README.md").read_text(encoding="utf-8"))[0]
    arguments = [str(tmp_path) if word == "site" else word for word in shlex.split(command)]
    told = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert "Warn" not in told.stderr
    page = lambda name: (tmp_path / name).read_text(encoding="utf-8")  # noqa: E731 used at once
    assert "<pre><code>S(θ) = Σ β e" in page("jills/evidence.html")  # an equation, line by line
    assert "T; less than asked for only if interrupted" in page("jills.html")  # a comment behind a field
    assert "Alias for field number" not in page("jills.html")
    assert "jaxlib" not in page("jills/training.html")
