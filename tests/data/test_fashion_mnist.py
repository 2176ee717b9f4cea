"""Reading Fashion-MNIST: what is in the files, and one clear sentence for every way in which they are broken."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from perception.data.fashion_mnist import CLASSES, load_fashion_mnist, read_idx
from perception.errors import UserError

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_idx(tmp_path / IMAGES, rng.integers(0, 256, (12, 28, 28)))
    write_idx(tmp_path / LABELS, np.arange(12) % len(CLASSES))
    return tmp_path


def test_reads_pictures_and_labels(folder: Path) -> None:
    images, labels = load_fashion_mnist(folder, "train")
    expected = np.random.default_rng(0).integers(0, 256, (12, 28, 28))
    assert images.dtype == np.uint8 and np.array_equal(images, expected)
    assert labels.dtype == np.int64 and labels.tolist() == [*range(10), 0, 1]
    images += 0  # an array of its own, not a read-only view of the file


def test_an_unpacked_file_reads_alike(folder: Path) -> None:
    plain = folder / LABELS.removesuffix(".gz")
    plain.write_bytes(gzip.decompress((folder / LABELS).read_bytes()))
    assert np.array_equal(read_idx(plain), read_idx(folder / LABELS))


def test_missing_files_are_named(folder: Path) -> None:
    (folder / LABELS).unlink()
    with pytest.raises(UserError, match=f"lacks {LABELS}; expected the gzipped files of"):
        load_fashion_mnist(folder, "train")
    with pytest.raises(UserError, match=r"lacks t10k-images-idx3-ubyte\.gz and t10k-labels-idx1-ubyte\.gz"):
        load_fashion_mnist(folder, "test")


def test_a_cut_file_is_not_a_whole_gzip_file(folder: Path) -> None:
    path = folder / IMAGES
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole gzip file"):
        load_fashion_mnist(folder, "train")


def test_a_web_page_in_place_of_the_file(folder: Path) -> None:
    (folder / IMAGES).write_text("<html>404</html>")
    with pytest.raises(UserError, match="is not a whole gzip file"):
        read_idx(folder / IMAGES)
    (folder / IMAGES).write_bytes(gzip.compress(b"<html>404</html>"))
    with pytest.raises(UserError, match="does not begin as an IDX file of unsigned bytes"):
        read_idx(folder / IMAGES)


@pytest.mark.parametrize("change", [-1, 1])
def test_fewer_or_more_bytes_than_announced(folder: Path, change: int) -> None:
    content = gzip.decompress((folder / LABELS).read_bytes())
    (folder / LABELS).write_bytes(gzip.compress(content[:change] if change < 0 else content + b"\0"))
    with pytest.raises(UserError, match=f"announces 12 elements and holds {12 + change}; fetch it again"):
        read_idx(folder / LABELS)


def test_a_header_that_is_cut(folder: Path) -> None:
    (folder / LABELS).write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + bytes((0, 0, 0, 2, 0))))
    with pytest.raises(UserError, match="announces 2 elements and holds 0"):
        read_idx(folder / LABELS)


def test_labels_that_do_not_belong_to_the_pictures(folder: Path) -> None:
    write_idx(folder / LABELS, np.arange(5))
    with pytest.raises(UserError, match=r"holds \[12, 28, 28\] and train-labels-idx1-ubyte.gz \[5\]; expected"):
        load_fashion_mnist(folder, "train")
    write_idx(folder / LABELS, np.full(12, 10))
    with pytest.raises(UserError, match="N labels below 10"):
        load_fashion_mnist(folder, "train")
