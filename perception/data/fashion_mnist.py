"""Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes, 28 x 28 grey levels, 10 classes.

Xiao, Rasul, Vollgraf: Fashion-MNIST, a novel image dataset for benchmarking machine learning algorithms (2017).
The four files keep their original names and the IDX format of MNIST (yann.lecun.com/exdb/mnist), gzipped.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.data.inputs import read_input
from perception.errors import UserError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28  # pixels
_PREFIX = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 0x08  # the only IDX element type in use here


def load_fashion_mnist(folder: Path, split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures [N, 28, 28], 0 (background) to 255, and labels [N], 0 to 9, in the order of the files.

    Raises:
        UserError: when a file is missing, cut short, not IDX, or does not belong to the other one.
    """
    images_path = folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz"
    labels_path = folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz"
    if missing := [path.name for path in (images_path, labels_path) if not path.is_file()]:
        raise UserError(
            f"{folder} lacks {' and '.join(missing)}; expected the gzipped files of "
            "github.com/zalandoresearch/fashion-mnist under their original names."
        )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASSES):
        raise UserError(
            f"{images_path.name} holds {list(images.shape)} and {labels_path.name} {list(labels.shape)}; expected "
            f"[N, {SIDE}, {SIDE}] pictures and N labels below {len(CLASSES)}: fetch both files again."
        )
    return images.copy(), labels.astype(np.int64)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes (LeCun 1998), gzipped if its name ends with .gz; read-only.

    Raises:
        UserError: when a .gz is not gzip, the file is not IDX of unsigned bytes, or holds fewer or more bytes than it
            announces.
    """
    content = read_input(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    # magic number: two zero bytes, element type, number of dimensions; then one big-endian int32 per dimension
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise UserError(f"{path} does not begin as an IDX file of unsigned bytes; fetch it again.")
    header = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:header], dtype=">u4", count=min(content[3], (len(content) - 4) // 4)).astype(int)
    announced = int(shape.prod())
    if len(shape) < content[3] or len(content) - header != announced:
        raise UserError(
            f"{path} announces {announced} elements and holds {max(0, len(content) - header)}; fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
