"""experiments/README.md with all its figures as one HTML file that opens offline.

python -m experiments.claims.html_report [--results FOLDER] [--output FILE]

`experiments.claims` writes the same, and behind it what was run on this machine.
"""

import base64
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import markdown
import pandas as pd

from experiments import records
from experiments.measuring import command_line

HERE = Path(__file__).parents[1]
README = HERE / "README.md"
PAGES = HERE.parent / "site" / "index.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; margin: 1rem 0 }
th, td { border: 1px solid #ccc; padding: 0.25rem 0.5rem; text-align: left }
th { background: #f3f3f3 }
img { max-width: 100% }
pre, code { background: #f5f5f5; font-size: 0.9em }
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = command_line("claims.html_report", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="(default: report.html)"
    )
    print(f"report: {write(parser.parse_args(arguments).output, {})}")
    return 0


def write(path: Path, folders: Mapping[str, Path]) -> Path:
    """Writes the report.

    Args:
        path: of the HTML file.
        folders: experiment → the folder of its results; what is there is shown behind what is published.
    """
    body = markdown.markdown(README.read_text(encoding="utf-8"), extensions=["tables", "fenced_code", "toc"])
    body = re.sub(r'src="([^"]+\.png)"', lambda match: f'src="{as_data(HERE / match[1])}"', body)
    own = "".join(section(name, folder) for name, folder in folders.items() if (folder / f"{name}.png").exists())
    own = f"<h1>What was run here</h1>{own}" if own else ""
    head = f"<meta charset='utf-8'><title>jills: the claims</title><style>{STYLE}</style>"
    records.write_text(path, f"<!doctype html><html lang='en'>{head}<body>{link(path)}{body}{own}</body></html>\n")
    return path


def link(path: Path, pages: Path = PAGES) -> str:
    """To the pages of the API, where they have been built: the README has the command."""
    if not pages.exists():
        return ""
    there = Path(os.path.relpath(pages, path.absolute().parent)).as_posix()
    return f'<p><a href="{there}">Pages of the API</a></p>'


def section(name: str, folder: Path) -> str:
    """Figure and table of an experiment that was run here."""
    summary = next(iter(folder.glob("summary*.csv")), None)
    table = "" if summary is None else pd.read_csv(summary).to_html(index=False, na_rep="")
    return f'<h2>{name}</h2><img alt="{name}" src="{as_data(folder / f"{name}.png")}">{table}'


def as_data(path: Path) -> str:
    """A PNG as a data URI; an empty one where it is not there."""
    if not path.exists():
        return "data:,"
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def publish(name: str, folder: Path, readme: Path = README) -> None:
    """Copies an experiment's figure beside the README, and its table in between the markers that bear its name."""
    (readme.parent / "figures" / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    table = records.as_markdown(pd.read_csv(folder / "summary.csv", dtype=str, keep_default_na=False))
    begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
    text = readme.read_text(encoding="utf-8")
    if begin not in text:
        raise ValueError(f"{readme}: has no line {begin}, so the table of {name} has no place")
    before, rest = text.split(begin)
    readme.write_text(f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
