"""The images of the experiments: ten classes, pixels standardised, one-hot targets.

Loaders take and raise what those of `tables` do, and ValueError for a damaged file. All pixels are shifted and scaled
alike, to mean 0 and deviation 1 over all pixels of the training images. A scale for each pixel would blow up the
corners, where hardly any image has ink. Inputs are float32: they come from bytes.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from experiments.data.splits import Dataset, Split, cut_share, require, require_package, shuffled

NUM_CLASSES = 10
FASHION_FILES = tuple(
    f"fashion-mnist/{kind}.gz"
    for kind in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
)


def digits(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """1797 handwritten digits of 8 × 8 pixels, a random split; BSD-3, as part of scikit-learn."""
    datasets = require_package("digits", "sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)  # whole numbers from 0 to 16
    return _random_split("digits", pixels.astype(np.uint8), labels, test_fraction, split_seed)


def mnist_10k(folder: str | Path, *, test_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """The first 10000 training digits of MNIST, 28 × 28 pixels, a random split of our own.

    No official test image is among them: an error on this split is not the MNIST test error.
    """
    with np.load(require(folder, "mnist-10k", "mnist-10k.npz")) as file:
        images, labels = file["images"], file["labels"]
    return _random_split("mnist-10k", images.reshape(len(images), -1), labels, test_fraction, split_seed)


def fashion_mnist(folder: str | Path) -> Dataset:
    """Fashion-MNIST, complete: 60000 + 10000 images of clothes, 28 × 28 pixels, the published split; MIT."""
    parts = [read_idx(require(folder, "fashion-mnist", file)) for file in FASHION_FILES]
    train, test = (
        image_split(images.reshape(len(images), -1), labels, np.arange(len(images)))
        for images, labels in (parts[:2], parts[2:])
    )
    return classification("fashion-mnist", train, test)


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a gzipped IDX file: two zeros, the type 8, the rank, the shape, the values.

    Args:
        path: the file.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        ValueError: the file is something else, or its length does not fit its shape.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    rank = content[3] if content[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise ValueError(f"{path}: is no IDX file of bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, offset=4))
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: has {len(content) - start} values, but states the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def image_split(pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Split:
    """Images with one-hot targets, not yet scaled.

    Args:
        pixels: `(n, d)` uint8.
        labels: `(n,)` whole numbers from 0 to 9.
        rows: `(n,)` positions in the source.

    Raises:
        ValueError: a label is no class, or images and labels differ in number.
    """
    labels = labels.astype(np.int64)
    if len(labels) != len(pixels):
        raise ValueError(f"there are {len(pixels)} images, but {len(labels)} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < NUM_CLASSES:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}: must lie between 0 and {NUM_CLASSES - 1}")
    return Split(pixels, np.eye(NUM_CLASSES)[labels], rows, labels)


def classification(name: str, train: Split, test: Split) -> Dataset:
    """Standardises the pixels, with one mean and one deviation, of the training images.

    Args:
        name: the data set.
        train: as `image_split` makes it.
        test: too; has no part in the statistics.

    Returns:
        The data set; its targets stay 0 and 1.
    """
    grey = np.arange(256.0)
    # Counting in blocks: whole sets of images as int64 would take gigabytes.
    blocks = np.array_split(train.inputs, 1 + train.inputs.size // 2**22)
    counts = np.sum([np.bincount(block.ravel(), minlength=256) for block in blocks], axis=0)
    mean = np.average(grey, weights=counts)
    scale = np.sqrt(np.average((grey - mean) ** 2, weights=counts)) or 1.0  # all pixels alike
    table = ((grey - mean) / scale).astype(np.float32)
    train, test = (split._replace(inputs=table[split.inputs]) for split in (train, test))
    return Dataset(
        name,
        train,
        test,
        target_mean=np.zeros(NUM_CLASSES),
        target_scale=np.ones(NUM_CLASSES),
        unit="class",
        row_name="image",
        num_classes=NUM_CLASSES,
    )


def _random_split(name: str, pixels: np.ndarray, labels: np.ndarray, test_fraction: float, split_seed: int) -> Dataset:
    whole = shuffled(image_split(pixels, labels, np.arange(len(labels))), split_seed)
    return classification(name, *cut_share(whole, test_fraction))
