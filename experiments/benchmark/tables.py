"""The tables of the benchmark for readers: Markdown that is printed and written."""

import pandas as pd

from experiments.benchmark.config import MINIBATCHES
from experiments.benchmark.ratios import BEST, BOUNDS, FAMILIES, best_of, overall, show, slower
from experiments.records import as_markdown


def markdown(summary: pd.DataFrame, tuning: dict[str, dict], ours: str) -> str:
    """The whole report."""
    parts = [f"# Time to target: each peer over {ours}", HOW, "## Geometric means", overall_table(summary)]
    parts += ["## All problems", families_table(summary, ours)]
    parts += ["## Where it is slower than the quickest peer", slower_list(summary, ours), "## Each problem"]
    for problem, part in summary.groupby("problem", sort=False):
        parts += [f"### {heading(part)}", f"`{problem}`. {tuned_line(tuning.get(str(problem)))}", problem_table(part)]
    return "\n\n".join(parts) + "\n"


HOW = (
    "Target: the lowest training loss of full-batch Adam, at a rate tuned on other seeds, within its steps; each run is"
    " given ten times the seconds of those, or the limit of the config. Medians over seeds, in brackets the quartiles."
    " A run that did not get there counts with its end as a lower bound: `≥` and `≤` mark values that rest on one, `?`"
    " those that are bounded on neither side. Ratios above 1 are in our favour. Run time only, unless said. With"
    " compilation Gauss–Newton, Adam on all rows and Optax L-BFGS are taken in the tier that is done sooner."
)


def overall_table(summary: pd.DataFrame) -> str:
    """A row for each group of problems; in brackets how many they are, and how many of them are bounds."""
    means, rows = overall(summary), []
    for group, part in means.groupby("group", sort=False):
        cells = {"": str(group)} | dict.fromkeys(FAMILIES, "")
        for row in part.to_dict("records"):
            bounds = f", {row['not_exact']} bounds" if row["not_exact"] else ""
            cells[row["family"]] = f"{show(*(row[bound] for bound in BOUNDS))} ({row['problems']}{bounds})"
        rows.append(cells)
    return as_markdown(pd.DataFrame(rows))


def families_table(summary: pd.DataFrame, ours: str) -> str:
    """A row for each problem: our seconds, ratios of the families, and some with compilation, too."""
    every = [family for family in FAMILIES if family != BEST]
    known = {family: best_of(summary, family, "ratio").set_index("problem") for family in every}
    compiled = {family: best_of(summary, family, "ratio_compiled").set_index("problem") for family in IN_FULL}
    rows = []
    for problem, part in summary.groupby("problem", sort=False):
        own = part.loc[part.peer == ours]
        cells = {"problem (parameters)": f"{part.title.iloc[0]} ({part.parameters.iloc[0]})"}
        cells[f"{ours}, s"] = bounded(own.iloc[0], "seconds") if len(own) else ""
        for tables, name, words in ((known, "ratio", ""), (compiled, "ratio_compiled", ", with compilation")):
            for family, table in tables.items():
                cells[f"{family}{words}"] = (
                    _of_family(family, table.loc[problem], name) if problem in table.index else ""
                )
        rows.append(cells)
    return as_markdown(pd.DataFrame(rows))


# Families shown with compilation, too: Adam on minibatches compiles as long as Adam on all rows.
IN_FULL = tuple(family for family in FAMILIES if family not in (MINIBATCHES, BEST))


def _of_family(family, row, name):
    """A ratio, and where a family has several kinds of peers, of which."""
    return bounded(row, name) + (f" ({row.peer.split()[0]})" if len(FAMILIES[family]) > 1 else "")


def slower_list(summary: pd.DataFrame, ours: str) -> str:
    """A line for each such problem, without and with compilation."""
    lines = []
    for name, words in (("ratio", "run time"), ("ratio_compiled", "with compilation")):
        rows = slower(summary, name).sort_values(f"{name}_point_median")
        lines += [f"* {row['title']}, {words}: {row['peer']}, ratio {bounded(row, name)}" for _, row in rows.iterrows()]
    problems = best_of(summary, BEST, "ratio").problem.nunique()
    return "\n".join(lines) or f"{ours} is slower on none of {problems} problems."


def heading(part: pd.DataFrame) -> str:
    """Title and size."""
    row = part.iloc[0]
    return f"{row.title}: {row.parameters} parameters, {row.rows} rows, {part.seeds.max()} seeds"


def tuned_line(tuning: dict | None) -> str:
    """What was tuned, and how it went."""
    if not tuning:
        return ""
    losses = ", ".join(f"{rate}: {loss:.3g}" for rate, loss in tuning["full_batch"]["losses"].items())
    return f"Loss of full-batch Adam on the tuning seeds by rate: {losses}."


def problem_table(part: pd.DataFrame) -> str:
    """A row for each peer, the quickest first."""
    rows, known = [], part.dropna(axis=1, how="all").columns
    for _, row in part.iterrows():
        cells = {"peer": " ".join([row.peer, f"({row.setting})" if row.setting else ""]).strip()}
        cells |= {"reached": f"{row.reached}/{row.seeds}", "seconds": ranged(row, "seconds")}
        cells |= {"ratio": ranged(row, "ratio"), "with compilation": ranged(row, "ratio_compiled")}
        cells |= {words: f"{row[name]:.3g}" for name, words in SHOWN.items() if name in known}
        rows.append(cells)
    return as_markdown(pd.DataFrame(rows))


SHOWN = {
    "compile_seconds_median": "compilation, s",
    "loss_when_ours_median": "loss when ours is there",
    "loss_at_budget_median": "loss at Adam's end",
    "test_loss_median": "test loss",
    "test_accuracy_median": "test accuracy",
    "mebibytes": "memory, MiB",
}


def bounded(row: pd.Series, name: str, quartile: str = "median") -> str:
    """A number with its sign."""
    bounds = [row.get(f"{name}_{bound}_{quartile}") for bound in BOUNDS]
    known = [float(bound) for bound in bounds if bound is not None and bound == bound]
    return show(*known) if len(known) == len(BOUNDS) else ""


def ranged(row: pd.Series, name: str) -> str:
    """Median and quartiles, each with its sign."""
    middle = bounded(row, name)
    return middle and f"{middle} [{bounded(row, name, 'q25')}, {bounded(row, name, 'q75')}]"
