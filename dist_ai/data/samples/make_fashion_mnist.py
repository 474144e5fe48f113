"""Makes `fashion_mnist.parquet` from the original Fashion-MNIST files (run once; kept so that anyone can check it).

```
apt-get download dataset-fashion-mnist          # Debian's package of the original files, 31 MB
dpkg-deb -x dataset-fashion-mnist_*.deb originals
python -m dist_ai.data.samples.make_fashion_mnist originals/usr/share/datasets/fashion-mnist
```

The rule: of each class, the first 600 images of the training file and the first 100 of the test file, in the order of
those files. No draw is involved, so anybody finds the same 7,000. `id` is an image's place in its original file.

The same input gives the same file, byte for byte, with the Pillow and pyarrow versions named below; others may
compress the same pixels differently, and the script says so.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import struct
import sys
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from dist_ai.data.samples import SAMPLES
from dist_ai.errors import DataError

__all__ = ["CLASS_NAMES", "PER_CLASS", "encode_png", "make_fashion_mnist"]

# In the order of the labels 0 to 9. The original says "T-shirt/top": a slash cannot be part of a folder's name.
CLASS_NAMES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PER_CLASS = {"train": 600, "test": 100}
ROWS_PER_GROUP = 1000

# The SHA-256 of the content, not of the .gz around it: mirrors compress the same content anew.
ORIGINALS = {
    "train": {
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
MADE_WITH = "Pillow 13.0.0 and pyarrow 26.0.1"


def make_fashion_mnist(originals: Path, to: Path) -> str:
    """Writes the sample as the Parquet file `to` and returns its SHA-256.

    Args:
        originals: the folder with the four original ``*-ubyte.gz`` files.
        to: the file to write.

    Raises:
        DataError: an original is missing, or its content is not the published one.
    """
    tables = []
    for split, files in ORIGINALS.items():
        images, labels = (_read_idx(originals / name, sha256) for name, sha256 in files.items())
        chosen = first_of_each_class(labels, PER_CLASS[split])
        columns = {
            "image": pa.array([encode_png(images[i]) for i in chosen], pa.binary()),
            "label": pa.array([CLASS_NAMES[labels[i]] for i in chosen], pa.string()),
            "split": pa.array([split] * len(chosen), pa.string()),
            "id": pa.array(chosen, pa.int32()),
        }
        tables.append(pa.table(columns))
    pq.write_table(
        pa.concat_tables(tables), to, row_group_size=ROWS_PER_GROUP, compression="zstd", compression_level=19
    )
    return hashlib.sha256(to.read_bytes()).hexdigest()


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> list[int]:
    """Returns the places of the first `count` of each class, in ascending order.

    >>> first_of_each_class(np.array([1, 1, 0, 1, 0, 0], np.uint8), 2)
    [0, 1, 2, 4]
    """
    return sorted(int(i) for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:count])


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Returns 8-bit grey pixels, shape (height, width), as a PNG that is as small as Pillow can make it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _read_idx(path: Path, sha256: str) -> NDArray[np.uint8]:
    """Reads an IDX file of bytes: two zeros, the type 8, the number of dims, each dim as 4 bytes, the values."""
    if not path.is_file():
        raise DataError(f"{path} is missing; give the folder that holds the four original *-ubyte.gz files")
    content = gzip.decompress(path.read_bytes())
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{path} is not the published file: the SHA-256 of its content is {found}, not {sha256}")
    num_dims = content[3]
    shape = struct.unpack(f">{num_dims}I", content[4 : 4 + 4 * num_dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_dims).reshape(shape)


def main() -> int:
    """Runs the command; the exit status is 0 if the file is the one that ships."""
    parser = argparse.ArgumentParser(description="Makes fashion_mnist.parquet from the original Fashion-MNIST files.")
    parser.add_argument("originals", type=Path, help="folder with the four *-ubyte.gz files")
    parser.add_argument("--to", type=Path, default=Path("fashion_mnist.parquet"), help="file to write")
    given = parser.parse_args()
    found = make_fashion_mnist(given.originals, given.to)
    print(f"{given.to}: {given.to.stat().st_size:,} bytes, SHA-256 {found}")
    if found != SAMPLES["fashion_mnist"]:
        print(
            f"this is not the file that ships (SHA-256 {SAMPLES['fashion_mnist']}, made with {MADE_WITH}); "
            f"here run Pillow {PIL.__version__} and pyarrow {pa.__version__}",
            file=sys.stderr,
        )
    return int(found != SAMPLES["fashion_mnist"])


if __name__ == "__main__":
    sys.exit(main())
