"""Does Gauss–Newton end no higher than it started, and at least as low as a constant, whatever the problem?

    python -m experiments.studies.robustness [--problems N] [--seed N] [--steps N] [--results FOLDER]

10 000 random small problems in float32, in sweeps: bad scales, duplicated columns, constant targets, one row, more
parameters than rows, saturated starts, zero inputs, mixtures of these (`hard_problems`), several network shapes, tanh
and ReLU. Three checks for every member:

* its final loss is finite and at most `start · (1 + 1e-5)`;
* its final loss is at most `constant · (1 + 1e-5) + 1e-8 · (mean square of its targets)`, where `constant` is the
  loss of the weighted mean of its targets: asked of 95 % of the members. (The second term lets a prediction be wrong
  by a ten-thousandth of the targets' size where a constant has no error at all.)
* the status of `jills.diagnose` and the result code are counted.

Leaves a new folder with `members.csv`, `summary.csv`, versions and device. The exit status is 1
where a member violates the first check or too many the second. Ctrl-C keeps the families of networks that are complete.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jills
from experiments import measuring, records
from experiments.records import STATUSES
from experiments.studies import hard_problems
from experiments.studies.hard_problems import FAMILIES, KINDS, Family

RELATIVE = 1e-5  # of losses, for the rounding of float32
FLOOR = 1e-8  # of the mean square of the targets
SHARE = 0.95  # of the members that reach the loss of the best constant
COLUMNS = ("family", "index", "kind", "start_loss", "final_loss", "constant_loss", "not_higher", "reaches_constant")

Build = Callable[[jills.Network], jills.Algorithm]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where members violate, 130 after Ctrl-C."""
    parser = measuring.command_line("studies.robustness", __doc__, "results")
    parser.add_argument("--problems", type=int, default=10_000, metavar="N", help="in all (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="of each member (default: 50)")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", False)
    folder = records.new_folder(options.results, "robustness")
    records.write_environment(folder)
    work = each_family(options.problems, options.seed, options.steps)
    done, interrupted = measuring.collect(work, len(FAMILIES), lambda part: str(part["family"].iloc[0]))
    if not done:
        print(f"interrupted before a family was complete; nothing to keep but {folder}")
        return 130
    members = pd.concat(done, ignore_index=True)
    with measuring.uninterrupted():
        failed = finish(folder, members)
    print(f"{'interrupted; ' if interrupted else ''}results in {folder}")
    return 130 if interrupted else int(failed)


def each_family(num_problems: int, seed: int, num_steps: int) -> Iterator[pd.DataFrame]:
    """The members of one family after the other."""
    keys = jax.random.split(jax.random.key(seed), len(FAMILIES))
    for index, (family, key) in enumerate(zip(FAMILIES, keys, strict=True)):
        count = (num_problems + len(FAMILIES) - 1 - index) // len(FAMILIES)
        if count:
            yield run_family(family, key, count, num_steps, jills.gauss_newton.build)


def run_family(family: Family, key: jax.Array, count: int, num_steps: int, build: Build) -> pd.DataFrame:
    """One row per member. Problem `index` of a family has the key `fold_in(key, index)`, however many there are."""
    keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(key, np.arange(count, dtype=np.uint32))
    algorithm = build(family.network)
    result = measuring.whole_sweep(
        algorithm, algorithm.defaults, hard_problems.make_problem(family, "float32"), keys, num_steps, num_steps
    )
    known = jax.tree.map(np.asarray, hard_problems.facts(family, "float32", keys))
    start, final = np.asarray(result.info.loss[0, :, 0], float), np.asarray(result.state.loss[0], float)
    table = pd.DataFrame({"family": family.name, "index": np.arange(count)})
    table["kind"] = np.array(KINDS)[known.kind]
    table["troubles"] = [", ".join(np.array(hard_problems.TROUBLES)[has]) for has in known.troubles]
    constant, square = known.constant_loss.astype(float), known.mean_square.astype(float)
    table = table.assign(start_loss=start, final_loss=final, constant_loss=constant, mean_square=square)
    table["not_higher"] = np.isfinite(final) & (final <= start * (1 + RELATIVE))
    table["reaches_constant"] = final <= constant * (1 + RELATIVE) + FLOOR * square
    table["status"] = jills.diagnose(result.state, result.info).word[0]
    table["result"] = np.asarray(result.state.result[0])
    return table


def summarize(members: pd.DataFrame) -> pd.DataFrame:
    """One row per kind in the order of `KINDS`, and one for all."""
    groups = [(kind, members.loc[members["kind"] == kind]) for kind in KINDS] + [("all", members)]
    rows = []
    for kind, part in groups:
        if part.empty:
            continue
        row = {"kind": kind, "members": len(part)}
        row |= {name: float(np.mean(part[name].to_numpy())) for name in ("not_higher", "reaches_constant")}
        row["worst_rise"] = float(np.max(_rise(part)))
        row |= {status: int(np.sum(part["status"].to_numpy() == status)) for status in STATUSES}
        codes = part["result"].to_numpy()
        row |= {f"result {code}": int(np.sum(codes == code)) for code in sorted(set(members["result"]))}
        rows.append(row)
    return pd.DataFrame(rows)


def _rise(part):
    """Final over start loss; infinite where the final one is not finite, 1 where both are zero."""
    start, final = part["start_loss"].to_numpy(), part["final_loss"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((start == 0) & (final == 0), 1.0, final / start)
    return np.where(np.isfinite(final), ratio, np.inf)


def finish(folder: Path, members: pd.DataFrame) -> bool:
    """Writes the tables, prints the summary; whether the checks failed."""
    table = summarize(members)
    members.to_csv(folder / "members.csv", index=False)
    table.to_csv(folder / "summary.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    for code, text in jills.results.MESSAGES.items():
        if code in set(members["result"]):
            print(f"result {code}: {text}")
    wrong = members.loc[~members["not_higher"].to_numpy(bool)]
    share = float(np.mean(members["reaches_constant"].to_numpy()))
    print(f"{len(wrong)} of {len(members)} members end higher than they started, or not finite; ")
    print(f"{share:.2%} reach the loss of the best constant, {SHARE:.0%} are asked for")
    if len(wrong):
        print(wrong.loc[:, list(COLUMNS)].head(20).to_string(index=False, float_format="{:.6g}".format))
    return bool(len(wrong)) or share < SHARE


if __name__ == "__main__":
    sys.exit(main())
