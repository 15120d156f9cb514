"""CIFAR-10, from the files its authors publish, binary or for Python; no package holds it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.images import classification, image_split
from experiments.data.splits import Dataset, MissingData

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")  # what the two archives unpack to
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
NUM_VALUES = 3 * 32 * 32


def cifar_10(folder: str | Path, *, path: str | None = None) -> Dataset:
    """CIFAR-10: 50000 + 10000 colour images of 32 × 32 pixels, the published split.

    A row holds the red values, then the green, then the blue, each line by line. The three colours share a mean and a
    deviation.

    Args:
        folder: holds `cifar-10-batches-bin` or `cifar-10-batches-py`, unless there is a `path`.
        path: a folder that holds the batches itself; where both formats are, the binary one is read.

    Returns:
        The data set, with 3072 inputs and 10 classes.

    Raises:
        MissingData: a file is absent.
        ValueError: a file is damaged.
    """
    places = [Path(path)] if path is not None else [Path(folder) / name for name in FOLDERS]
    files = _find(places)
    batches = [read_binary(file) if file.suffix == ".bin" else read_pickle(file) for file in files]
    train, test = (
        image_split(np.concatenate(pixels), np.concatenate(labels), np.arange(sum(map(len, labels))))
        for pixels, labels in (zip(*part, strict=True) for part in (batches[:-1], batches[-1:]))
    )
    return classification("cifar-10", train, test)


def _find(places: list[Path]) -> list[Path]:
    """The six files, of the first format that is complete."""
    candidates = [[place / (batch + suffix) for batch in BATCHES] for place in places for suffix in (".bin", "")]
    absent = [[file for file in files if not file.is_file()] for files in candidates]
    best = min(range(len(candidates)), key=lambda index: len(absent[index]))
    if absent[best]:
        advice = f"unpack the binary or the Python version of {HOME} to {' or '.join(map(str, places))}"
        raise MissingData(f"the data set cifar-10 is missing: there is no file {absent[best][0]}; {advice}")
    return candidates[best]


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 3072)` and labels `(n,)`, both uint8, of a binary batch: a byte for the label, then the image.

    Raises:
        ValueError: its length is not that of whole records.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if len(content) == 0 or len(content) % (1 + NUM_VALUES):
        raise ValueError(f"{path}: is damaged: {len(content)} bytes are no whole number of images")
    records = content.reshape(-1, 1 + NUM_VALUES)
    return records[:, 1:], records[:, 0]


def read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same of a batch for Python, a pickled dictionary.

    Raises:
        ValueError: it is no such dictionary, or asks for more than arrays, bytes, lists and dictionaries.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()  # it was written by Python 2
        pixels, labels = content[b"data"], np.asarray(content[b"labels"])
        shape, kinds = pixels.shape, pixels.dtype.kind + labels.dtype.kind
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: is no batch of CIFAR-10: {error!r}") from error
    if shape != (len(labels), NUM_VALUES) or kinds != "ui" or pixels.dtype.itemsize != 1:
        raise ValueError(f"{path}: is no batch of CIFAR-10: images {shape} of {pixels.dtype}, labels {labels.shape}")
    return pixels, labels


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding} is not allowed")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # makes an empty array, for its state to be filled in
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArraysOnly(pickle.Unpickler):
    """A pickle can call any function when it is read: this one finds only what makes arrays and bytes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return _ALLOWED[module, name]
