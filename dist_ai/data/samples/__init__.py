"""Data that comes with the package, so that a first training needs no network.

| name | what | licence |
|---|---|---|
| `fashion_mnist` | 7,000 grey 28 x 28 images of Fashion-MNIST: 10 classes of clothes, 600 train + 100 test each | MIT |

Each sample is one Parquet file in this folder, with its licence and the script that made it beside it. Its columns
are `image` (the bytes of a PNG), `label` (a class name), `split` ("train" or "test") and `id`.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from dist_ai.data.cache import CACHE, cache_folder, partial_folder, put_in_place
from dist_ai.errors import ArtifactError, ConfigError, DataError, did_you_mean

__all__ = ["SAMPLES", "sample_data"]

SAMPLES = {"fashion_mnist": "471b749867502ab27371f05e39e2598281a7029099fbd90707780725e1ef469c"}
"""The samples by name, with the SHA-256 of their Parquet file."""

_PARTIAL_MAX_AGE_S = 3600.0  # a younger one may still be at work: any number of processes unpack at once


def sample_data(name: str = "fashion_mnist", dest: str | Path | None = None) -> Path:
    """Returns a folder of image files, ``{train,test}/<class name>/<id>.png``.

    They are unpacked the first time, in a second or two. The folder is complete or absent, whenever the process is
    killed, and any number of processes may ask for it at once. Each call compares what is there with what belongs
    there: files that are missing or damaged are put back.

    Args:
        name: one of `SAMPLES`.
        dest: the folder in which ``<name>/`` shall stand; by default ``samples`` in the `cache_folder`.

    Raises:
        ConfigError: there is no such sample, or `dest` cannot be written.
        DataError: the folder holds visible files that are not of the sample (hidden ones are left alone).
        ArtifactError: the installed package is damaged.

    >>> path = sample_data()
    >>> sorted(folder.name for folder in (path / "train").iterdir())[:3]
    ['Ankle boot', 'Bag', 'Coat']
    """
    if name not in SAMPLES:
        raise ConfigError(
            f"there is no sample named {name!r}{did_you_mean(name, SAMPLES)}; dist_ai comes with: {', '.join(SAMPLES)}"
        )
    files = _read(name)
    folder = (Path(dest).expanduser() if dest is not None else cache_folder() / "samples").absolute() / name
    try:
        if wrong := _wrong(folder, files):
            _write(folder, wrong)
    except OSError as error:
        raise ConfigError(
            f"cannot unpack the sample {name!r} to {folder}: {error.strerror}; "
            f"give dest=, or set {CACHE}, with a folder on a disk that can be written and has 30 MB to spare"
        ) from error
    return folder


def _read(name: str) -> dict[str, bytes]:
    """Returns the files of a sample: path within its folder -> content."""
    import pyarrow.parquet as pq  # here: importing dist_ai.data stays quick for those who bring their own data

    path = Path(__file__).with_name(f"{name}.parquet")
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SAMPLES[name]:
        raise ArtifactError(
            f"{path} is {'damaged' if content else 'missing'}: it is not what dist_ai ships; install dist_ai again"
        )
    columns = pq.read_table(io.BytesIO(content)).to_pydict()
    rows = zip(columns["image"], columns["label"], columns["split"], columns["id"], strict=True)
    return {f"{split}/{label}/{id:05}.png": image for image, label, split, id in rows}


def _wrong(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns those of `files` that are missing in `folder` or differ."""
    found: set[str] = set()
    for parent, _, names in os.walk(folder):
        inside = Path(parent).relative_to(folder).as_posix()
        found.update(f"{inside}/{name}" for name in names if not name.startswith("."))
    foreign = sorted(found - files.keys())
    if foreign:
        # Never deleted: they may be somebody's work. Never kept: an extra image is another data set.
        raise DataError(
            f"{folder} holds {len(foreign)} file(s) that are not of the sample, such as {foreign[0]}; "
            "move them away, or give another dest"
        )
    return {path: image for path, image in files.items() if path not in found or (folder / path).read_bytes() != image}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Puts `files` into `folder`: in one step if it is absent, else file by file, each in one step."""
    with partial_folder(folder, leftovers_after_s=_PARTIAL_MAX_AGE_S) as partial:
        for inside in {Path(path).parent for path in files}:
            (partial / inside).mkdir(parents=True, exist_ok=True)
        for path, image in files.items():
            (partial / path).write_bytes(image)
        put_in_place(partial, folder, files)
