"""Does Gauss–Newton end no higher than it started, and at least as low as a constant, whatever the problem?

    python -m experiments.studies.robustness [--problems N] [--seed N] [--steps N] [--results FOLDER]

10 000 random small problems in float32, in sweeps: units from 1e-15 to 1e15, bad scales, duplicated, collinear, dead,
one-hot and wide inputs, raw years, constant targets, one row, more parameters than rows, empty folds, row weights over
many powers of ten, saturated starts, zero inputs, mixtures of these (`hard_problems`), several network shapes, tanh and
ReLU. Four checks for every member:

* its final loss is finite and at most `start · (1 + 1e-5)`;
* its final loss is at most `constant · (1 + 1e-5) + 1e-8 · (mean square of its targets)`, where `constant` is the
  loss of the weighted mean of its targets, in float64: asked of 99 % of the members. (The second term lets a prediction
  be wrong by a ten-thousandth of the targets' size where a constant has no error at all.)
* it is refused, with the result code for weights, if and only if all its weights are zero; the two above are asked of
  the others;
* the status of `jills.diagnose` and the result code are counted.

Leaves a new folder with `members.csv`, `summary.csv`, versions and device. The exit status is 1
where a member violates the first or third check or too many the second. Ctrl-C keeps the families of networks that are
complete. One member again, of the family in row `family` of `members.csv` and its `index` there::

    algorithm, params, batch = robustness.member(seed, family, index)
    state, info = jills.run(algorithm, algorithm.defaults, params, batch, 50)
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
from experiments.studies.hard_problems import FAMILIES, KINDS, NOTHING, Family

RELATIVE = 1e-5  # of losses, for the rounding of float32
FLOOR = 1e-8  # of the mean square of the targets
SHARE = 0.99  # of the members that reach the loss of the best constant
COLUMNS = ("family", "index", "troubles", "start_loss", "final_loss", "constant_loss", "status", "result")
SHOWN = 40  # failing members on the screen; `members.csv` has all

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
    for index, family in enumerate(FAMILIES):
        count = (num_problems + len(FAMILIES) - 1 - index) // len(FAMILIES)
        if count:
            yield run_family(family, family_key(seed, family), count, num_steps, jills.gauss_newton.build)


def family_key(seed: int, family: Family) -> jax.Array:
    """Of which the keys of its problems are made."""
    return jax.random.split(jax.random.key(seed), len(FAMILIES))[FAMILIES.index(family)]


def member(seed: int, family: str, index: int) -> tuple[jills.Algorithm, jills.Params, jills.Batch]:
    """One problem again, as `members.csv` names it: the algorithm, the start and the rows."""
    chosen = next(each for each in FAMILIES if each.name == family)
    key = jax.random.fold_in(family_key(seed, chosen), index)
    return jills.gauss_newton.build(chosen.network), *jax.jit(hard_problems.make_problem(chosen, "float32"))(key)


def run_family(family: Family, key: jax.Array, count: int, num_steps: int, build: Build) -> pd.DataFrame:
    """One row per member. Problem `index` of a family has the key `fold_in(key, index)`, however many there are."""
    keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(key, np.arange(count, dtype=np.uint32))
    algorithm = build(family.network)
    result = measuring.whole_sweep(
        algorithm, algorithm.defaults, hard_problems.make_problem(family, "float32"), keys, num_steps, num_steps
    )
    known = hard_problems.facts(family, "float32", keys)
    start, final = np.asarray(result.info.loss[0, :, 0], float), np.asarray(result.state.loss[0], float)
    table = pd.DataFrame({"family": family.name, "index": np.arange(count)})
    table["kind"] = np.array(KINDS)[known.kind]
    table["troubles"] = [", ".join(np.array(hard_problems.TROUBLES)[has]) for has in known.troubles]
    constant, square = known.constant_loss, known.mean_square
    table = table.assign(start_loss=start, final_loss=final, constant_loss=constant, mean_square=square)
    table["not_higher"] = np.isfinite(final) & (final <= start * (1 + RELATIVE))
    table["reaches_constant"] = final <= constant * (1 + RELATIVE) + FLOOR * square
    table["status"] = jills.diagnose(result.state, result.info).word[0]
    table["result"] = np.asarray(result.state.result[0])
    table["refused"] = table["result"] == jills.results.BAD_WEIGHTS
    return table


def summarize(members: pd.DataFrame) -> pd.DataFrame:
    """One row per kind in the order of `KINDS`, one per family, and one for all; shares of those not refused."""
    groups = [("kind", kind) for kind in KINDS] + [("family", family.name) for family in FAMILIES]
    parts = [(name, members.loc[members[column] == name]) for column, name in groups] + [("all", members)]
    rows = []
    for name, part in parts:
        if part.empty:
            continue
        trained = part.loc[~part["refused"].to_numpy(bool)]
        row = {"kind": name, "members": len(part), "refused": len(part) - len(trained)}
        for check in ("not_higher", "reaches_constant"):
            row[check] = float(np.mean(trained[check].to_numpy())) if len(trained) else np.nan
        row["worst_rise"] = float(np.max(_rise(trained))) if len(trained) else np.nan
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
    refused = members["refused"].to_numpy(bool)
    trained = members.loc[~refused]
    wrong = trained.loc[~trained["not_higher"].to_numpy(bool)]
    missing = trained.loc[~trained["reaches_constant"].to_numpy(bool)]
    mistaken = members.loc[refused != (members["kind"].to_numpy() == NOTHING)]
    share = 1 - len(missing) / max(len(trained), 1)
    print(f"{np.sum(refused)} of {len(members)} members refused, {len(mistaken)} of them or of the others by mistake")
    show(mistaken)
    print(f"{len(wrong)} of {len(trained)} members end higher than they started, or not finite")
    show(wrong)
    print(f"{share:.2%} reach the loss of the best constant, {SHARE:.0%} are asked for; the others:")
    show(missing)
    return bool(len(wrong) or len(mistaken)) or share < SHARE


def show(members: pd.DataFrame) -> None:
    """The first of some members, on the screen."""
    if len(members):
        print(members.loc[:, list(COLUMNS)].head(SHOWN).to_string(index=False, float_format="{:.6g}".format))


if __name__ == "__main__":
    sys.exit(main())
