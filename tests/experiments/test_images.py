"""The images: pixels, labels, splits, and the formats they come in. No network."""

import gzip
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import data
from experiments.data import cifar, fetch, images

pytestmark = pytest.mark.usefixtures("no_network")


def check_split(split, pixels, labels, mean, scale):
    """A split holds these images, scaled alike, and these labels, also one-hot."""
    assert split.inputs.dtype == np.float32
    np.testing.assert_allclose(split.inputs, (pixels - mean) / scale, atol=1e-5)
    np.testing.assert_array_equal(split.labels, labels)
    np.testing.assert_array_equal(split.targets, np.asarray(labels)[:, None] == np.arange(10))
    assert split.targets.dtype == np.float64


def test_digits_are_1797_in_ten_classes():
    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    dataset = data.load("digits", "unused")
    train, test = dataset.train, dataset.test
    assert train.inputs.shape == (1438, 64)
    assert test.targets.shape == (359, 10)
    assert dataset.num_classes == 10
    assert dataset.persistence is None
    np.testing.assert_array_equal(np.sort(np.r_[train.rows, test.rows]), np.arange(1797))
    mean, scale = pixels[train.rows].mean(), pixels[train.rows].std()
    for split in (train, test):
        check_split(split, pixels[split.rows], labels[split.rows], mean, scale)


@pytest.fixture
def mnist(tmp_path):
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (31, 28, 28), dtype=np.uint8)
    labels = np.sort(generator.integers(0, 10, 31)).astype(np.uint8)  # sorted, as in the file
    np.savez_compressed(tmp_path / "mnist-10k.npz", images=pixels, labels=labels)
    return pixels, labels


def test_mnist_10k_is_shuffled_and_test_images_set_no_scale(tmp_path, mnist):
    pixels, labels = mnist
    before = data.load("mnist-10k", tmp_path, split_seed=2)
    assert before.train.inputs.shape == (25, 784)
    assert before.train.labels is not None
    assert (np.diff(before.train.labels) < 0).any()
    flat, train = pixels.reshape(31, 784), before.train.rows
    for split in (before.train, before.test):
        check_split(split, flat[split.rows], labels[split.rows], flat[train].mean(), flat[train].std())

    pixels[before.test.rows] = 255
    np.savez_compressed(tmp_path / "mnist-10k.npz", images=pixels, labels=labels)
    after = data.load("mnist-10k", tmp_path, split_seed=2)
    for old, new in zip(before.train, after.train, strict=True):
        np.testing.assert_array_equal(old, new)
    assert (before.test.inputs != after.test.inputs).any()


def test_images_all_alike_are_not_blown_up():
    split = images.image_split(np.full((3, 5), 7, np.uint8), np.arange(3), np.arange(3))
    np.testing.assert_array_equal(images.classification("grey", split, split).train.inputs, 0)


@pytest.mark.parametrize(("labels", "message"), [([0, 10], "run from 0 to 10"), ([1, 2, 3], "2 images, but 3 labels")])
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        images.image_split(np.zeros((2, 5), np.uint8), np.array(labels), np.arange(2))


# Fashion-MNIST: gzipped IDX files.


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def test_fashion_mnist_keeps_the_published_split(tmp_path):
    generator = np.random.default_rng(4)
    arrays = [
        generator.integers(0, high, shape, dtype=np.uint8)
        for high, shape in ((256, (13, 28, 28)), (10, 13), (256, (7, 28, 28)), (10, 7))
    ]
    (tmp_path / "fashion-mnist").mkdir()
    for file, array in zip(fetch.FASHION_FILES, arrays, strict=True):
        (tmp_path / file).write_bytes(idx(array))
    dataset = data.load("fashion-mnist", tmp_path)
    mean, scale = arrays[0].mean(), arrays[0].std()
    check_split(dataset.train, arrays[0].reshape(13, 784), arrays[1], mean, scale)
    check_split(dataset.test, arrays[2].reshape(7, 784), arrays[3], mean, scale)
    np.testing.assert_array_equal(dataset.test.rows, np.arange(7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "is damaged"),
        (gzip.compress(bytes(99), mtime=0)[:-9], "is damaged"),
        (gzip.compress(b"\0\0\x0d\1\0\0\0\1....", mtime=0), "is no IDX file of bytes"),  # floats
        (gzip.compress(b"\0\0\x08\3\0\0\0\1", mtime=0), "is no IDX file of bytes"),  # ends in the shape
        (gzip.compress(b"\0\0\x08\1\0\0\0\3ab", mtime=0), r"has 2 values, but states the shape \(3,\)"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, message):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        images.read_idx(tmp_path / "file.gz")


def binary(pixels, labels):
    return np.column_stack([labels, pixels]).astype(np.uint8).tobytes()


@pytest.fixture
def batches():
    """Six batches of three images."""
    generator = np.random.default_rng(9)
    return [(generator.integers(0, 256, (3, 3072), dtype=np.uint8), generator.integers(0, 10, 3)) for _ in range(6)]


def write_cifar(folder, batches):
    folder.mkdir()
    for batch, content in zip(cifar.BATCHES, batches, strict=True):
        (folder / batch).write_bytes(binary(*content))


def test_cifar_keeps_the_published_split(tmp_path, batches):
    write_cifar(tmp_path / "cifar-10-batches-bin", batches)
    dataset = data.load("cifar-10", tmp_path)
    pixels, labels = (np.concatenate([batch[part] for batch in batches]) for part in range(2))
    mean, scale = pixels[:15].mean(), pixels[:15].std()
    check_split(dataset.train, pixels[:15], labels[:15], mean, scale)
    check_split(dataset.test, pixels[15:], labels[15:], mean, scale)
    named = data.load("cifar-10", "unused", path=str(tmp_path / "cifar-10-batches-bin"))
    np.testing.assert_array_equal(named.train.inputs, dataset.train.inputs)


def test_missing_cifar_says_where_to_put_it(tmp_path, batches):
    with pytest.raises(data.MissingData) as caught:
        data.load("cifar-10", tmp_path)
    (line,) = str(caught.value).splitlines()
    assert cifar.HOME in line
    assert line.endswith(f"to {tmp_path / 'cifar-10-batches-bin'}")
    write_cifar(tmp_path / "mine", batches)
    (tmp_path / "mine" / "data_batch_4.bin").unlink()
    with pytest.raises(data.MissingData, match=r"there is no file .*data_batch_4\.bin"):
        data.load("cifar-10", tmp_path, path=str(tmp_path / "mine"))


def test_a_batch_that_was_cut_off_is_refused(tmp_path, batches):
    (tmp_path / "batch.bin").write_bytes(binary(*batches[0])[:-1])
    with pytest.raises(ValueError, match="9218 bytes are no whole number of images"):
        cifar.read_batch(tmp_path / "batch.bin")
