"""A folder of a sweep's checkpoints.

    sweep.npz             what is trained, see `jills.training.identity`; written first, and never again
    records-0-150.npz     `Info` of these steps of all members, leaves `[M, steps, …]`; not of those that are in a
                          folder of records already, see `jills.training.records`
    state-150.npz         the states after them, `[M, …]`, and which records lead there

Each checkpoint adds records and a state; the last two states are kept. A file is written beside its place, brought to
the disk and then renamed, records before the state that names them. So whatever ends a process, the newest state that
is there is whole, and what came after it is trained again: to the same bits by the same program, that is on as many
cores or devices, in chunks of as many steps (`num_steps` below `chunk_steps` shortens them), and in the tier of
compilation that the state names. Members are in their own order, so that any other program can go on too. No file needs
pickle.
"""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import jax
import numpy as np

from jills.arrays import brief
from jills.training.checkpoint import load, save, write_whole
from jills.training.chunks import Plan, Progress, begun
from jills.training.identity import ON_DISK, Identity, Start, other_problem, others
from jills.training.resuming import named
from jills.types import Info, State
from jills.warn import warn

KEPT = 2  # states
OURS = re.compile(r"(sweep|records-\d+-\d+|state-\d+)\.npz")
UNFINISHED = re.compile(r"\.[0-9a-f]{32}-(probe|" + OURS.pattern + ")")

log = logging.getLogger("jills")


class Folder(NamedTuple):
    """A folder that this sweep has for itself."""

    path: Path
    refusal: OSError | None = None  # why it can only be read

    def check_writable(self) -> None:
        """Raises OSError where it is not."""
        if self.refusal is not None:
            raise self.refusal


class Found(NamedTuple):
    """A checkpoint."""

    state: State  # NumPy leaves [M, …]
    infos: list[Info]  # one for each file, NumPy leaves [M, steps, …]
    files: tuple[str, ...]  # names of those
    done: int  # steps
    seconds: float  # of training
    all_stopped: bool  # see `Progress`
    tier: str  # of compilation, with which its bits are repeated
    stored: int | None  # see `Progress`

    def going_on(self, plan: Plan, num_steps: int) -> Progress:
        """Laid out by a plan; raises ValueError where it has gone further than it is to go."""
        if self.done > num_steps:
            raise ValueError(
                f"the checkpoints are of {self.done} steps, but num_steps is {num_steps}; give at least as many, or "
                "another folder"
            )
        laid_out = jax.tree.map(lambda leaf: leaf[plan.members], self.state)
        start = begun(plan, laid_out)
        kept = {name: getattr(self, name) for name in ("infos", "done", "seconds", "all_stopped", "stored")}
        return start._replace(**kept)


class Written(NamedTuple):
    """How far the checkpoints of a folder have come."""

    files: tuple[str, ...] = ()  # of records, from the first step on that is in memory
    states: tuple[str, ...] = ()  # the last ones
    infos: int = 0  # of `Progress`, which are in the files
    done: int = 0  # steps

    @classmethod
    def of(cls, found: Found | None) -> "Written":
        """What is found, which the next checkpoint adds to."""
        if found is None:
            return cls()
        return cls(found.files, (f"state-{found.done}.npz",), len(found.infos), found.done)


@contextlib.contextmanager
def claimed(path: Any) -> Iterator[Folder | None]:
    """A folder for this sweep alone, for as long as it runs: made where it is missing.

    One that can be read only, and holds a sweep, may hold a finished one; so it is not refused here.

    Raises:
        ValueError: `path` is no path.
        OSError: the folder cannot be written and holds no sweep, or another sweep is writing there.
    """
    if path is None:
        yield None
        return
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"checkpoint is {brief(path)}, but must be the path of a folder")
    folder = Path(path).absolute()
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    refusal = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _probe(folder)
    except filelock.Timeout:
        raise OSError(f"checkpoint: another sweep is writing to {folder}; give each a folder of its own") from None
    except OSError as error:
        lock.release()
        refusal = OSError(f"checkpoint: {folder} cannot be written: {error}")
        if not os.path.exists(folder / "sweep.npz"):
            raise refusal from error
    try:
        yield Folder(folder, refusal)
    finally:
        lock.release()


def _probe(folder):
    """Writes a file and removes it, and with it what a process that was killed has left unfinished."""
    write_whole(folder / "probe", lambda place: place.write_bytes(b"jills"))
    (folder / "probe").unlink()
    for entry in folder.iterdir():
        if UNFINISHED.fullmatch(entry.name):
            entry.unlink()


def enter(
    folder: Path, identity: Identity, look: Callable[[], Start], blank: State, detail: Any, count: int
) -> Found | None:
    """The newest checkpoint of this sweep; None where there is none yet, and then the folder is made this sweep's.

    Args:
        folder: of `claimed`.
        identity: of this sweep.
        look: tells the start of its problem; called once what needs no program is known to be the same.
        blank: shapes of a member's state.
        detail: what a member that stands still tells, see `blank_detail`.
        count: M.

    Raises:
        ValueError: the checkpoints are of another sweep, and in what; or none of them is whole.
    """
    before = _read_identity(folder)
    if before is not None:
        _refuse(folder, others(before[0], identity))
    start = look()
    if before is None:
        save(folder / "sweep.npz", {"identity": identity, "start": named(start)}, compress=False)
        return None
    _refuse(folder, other_problem(before[1], named(start)))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), start)
    finite: Any = jax.ShapeDtypeStruct((), np.bool_)
    info = Info(shapes.loss, shapes.loss, finite, detail, shapes.metrics, shapes.validation)
    return _newest(folder, blank, info, count, identity.records == ON_DISK)


def owner(folder: Path | None) -> str:
    """A name for the sweep of a folder; empty where there is none."""
    return "" if folder is None else hashlib.sha256((folder / "sweep.npz").read_bytes()).hexdigest()


def _read_identity(folder):
    """What the folder is of, and the start of its problem; None where it holds no sweep."""
    path = folder / "sweep.npz"
    if not path.exists():
        if any(OURS.fullmatch(entry.name) for entry in folder.iterdir()):
            raise ValueError(f"{folder} holds checkpoints, but no sweep.npz that tells of what; give another folder")
        return None
    told = load(path)
    if not isinstance(told, dict) or not isinstance(told.get("identity"), Identity):
        raise ValueError(f"{path} does not tell of what sweep the checkpoints are; give another folder")
    return told["identity"], told["start"]


def _refuse(folder, told):
    if told:
        raise ValueError(
            f"the checkpoints in {folder} are of a sweep with {' and '.join(told)}; give the same, or another folder"
        )


def _newest(folder, blank, info, count, are_on_disk=False):
    """The newest checkpoint that is whole; warns of those that are not. Raises ValueError where none is."""
    paths = _states(folder)
    for path in reversed(paths):
        try:
            return _read(path, blank, info, count, are_on_disk)
        except (ValueError, OSError) as error:
            warn(f"{error}; this checkpoint is left out")
    if paths:
        raise ValueError(f"no checkpoint in {folder} can be read; mend it, or give another folder to begin anew")
    return None


def _states(folder):
    """Paths of the states, the oldest first."""
    paths = [path for path in folder.glob("state-*.npz") if OURS.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.stem.split("-")[1]))


def _read(path, blank, info, count, are_on_disk):
    like: Any = {"state": blank, "files": "", "seconds": 0.0, "all_stopped": False, "tier": ""}
    told = load(path, like | ({"stored": 0} if are_on_disk else {}))
    files, infos, done = tuple(str(told["files"]).split()), [], told.get("stored", 0)
    for name in files:
        if not OURS.fullmatch(name):  # nor is it to lead to another folder
            raise ValueError(f"{path} names {name} as a file of records")
        each = load(path.with_name(name), info)
        steps = each.loss.shape[1:]
        if each.loss.shape[:1] != (count,) or len(steps) != 1 or name != f"records-{done}-{done + steps[0]}.npz":
            raise ValueError(f"{path.with_name(name)} holds records of shape {each.loss.shape}")
        infos.append(each)
        done += steps[0]
    state = told["state"]
    if state.step.shape != (count,) or path.name != f"state-{done}.npz" or not infos:
        raise ValueError(f"{path} holds states of shape {state.step.shape} after {done} steps")
    about = (told["seconds"], told["all_stopped"], told["tier"], told.get("stored"))
    return Found(state, infos, files, done, *about)


def write(folder: Path, before: Written, progress: Progress, plan: Plan, tier: str) -> Written:
    """Writes a checkpoint: the records since the one before, then the states, and removes what is no longer needed.

    Args:
        folder: of `claimed`.
        before: what is there.
        progress: what is complete; its first infos are there.
        plan: the layout of its states.
        tier: see `Found`.

    Raises:
        OSError: it could not be written; what was there is there as it was.
    """
    began = time.perf_counter()
    about = {"seconds": progress.seconds, "all_stopped": progress.all_stopped, "tier": tier}
    if progress.stored is None:
        files, infos, start = before.files, progress.infos[before.infos :], before.done
    else:  # few are in memory, and each time others
        files, infos, start = (), progress.infos, progress.stored
        about["stored"] = progress.stored
    records = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *infos)
    files = (*files, f"records-{start}-{progress.done}.npz")
    save(folder / files[-1], records, compress=False)
    states = (*before.states[1 - KEPT :], f"state-{progress.done}.npz")
    tree = {"state": plan.gather(progress.states), "files": " ".join(files), **about}
    save(folder / states[-1], tree, compress=False)
    _tidy(folder, {"sweep.npz", *before.files, *files, *states})
    told = sum((folder / name).stat().st_size for name in (files[-1], states[-1])) / 1e6
    log.info("checkpoint of step %d in %s: %.1f MB in %.2f s", progress.done, folder, told, time.perf_counter() - began)
    return Written(files, states, len(progress.infos), progress.done)


def _tidy(folder, needed):
    """Removes older states, and records that a killed process wrote and no state names."""
    with contextlib.suppress(OSError):  # the checkpoint is written, whatever else lies there
        for entry in folder.iterdir():
            if OURS.fullmatch(entry.name) and entry.name not in needed:
                entry.unlink()
