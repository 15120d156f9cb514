"""CIFAR-10, from the binary files its authors publish; no package holds it."""

from pathlib import Path

import numpy as np

from experiments.data.images import classification, image_split
from experiments.data.splits import Dataset, MissingData

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
NUM_VALUES = 3 * 32 * 32


def cifar_10(folder: str | Path, *, path: str | None = None) -> Dataset:
    """CIFAR-10: 50000 + 10000 colour images of 32 × 32 pixels, the published split.

    A row holds the red values, then the green, then the blue, each line by line. The three colours share a mean and a
    deviation.

    Args:
        folder: holds `cifar-10-batches-bin`, unless there is a `path`.
        path: a folder that holds the batches itself.

    Returns:
        The data set, with 3072 inputs and 10 classes.

    Raises:
        MissingData: a file is absent.
        ValueError: a file is damaged.
    """
    place = Path(folder) / "cifar-10-batches-bin" if path is None else Path(path)
    absent = [place / batch for batch in BATCHES if not (place / batch).is_file()]
    if absent:
        advice = f"unpack the binary version of {HOME} to {place}"
        raise MissingData(f"the data set cifar-10 is missing: there is no file {absent[0]}; {advice}")
    batches = [read_batch(place / batch) for batch in BATCHES]
    train, test = (
        image_split(np.concatenate(pixels), np.concatenate(labels), np.arange(sum(map(len, labels))))
        for pixels, labels in (zip(*part, strict=True) for part in (batches[:-1], batches[-1:]))
    )
    return classification("cifar-10", train, test)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 3072)` and labels `(n,)`, both uint8, of a batch: a byte for the label, then the image.

    Raises:
        ValueError: its length is not that of whole records.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if len(content) == 0 or len(content) % (1 + NUM_VALUES):
        raise ValueError(f"{path}: is damaged: {len(content)} bytes are no whole number of images")
    records = content.reshape(-1, 1 + NUM_VALUES)
    return records[:, 1:], records[:, 0]
