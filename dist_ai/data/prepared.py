"""Data that Ray Data makes on a whole cluster, once, and that is then read as any Parquet files are.

```python
def photographs():
    import ray
    return ray.data.read_images("s3://bucket/raw").map(crop)  # on every machine of the cluster

data = prepared("s3://bucket/cropped", photographs, row_group_size=64)
dls = block.dataloaders(data, bs=256)
```

What outgrows a loader's workers is computed before the training instead of beside it, and kept. So the rows have numbers: the
epoch plan, resuming, and any number of ranks and epochs work on them as on other files, and a run that is started again
computes nothing anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dist_ai.data.parquet import ParquetData
from dist_ai.data.parquet_files import resolved
from dist_ai.distributed.collectives import join, on_main
from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = ["prepared"]

_BEGUN, _DONE = "_dist_ai_begun.json", "_dist_ai_prepared.json"  # ParquetData leaves out what begins with "_"


def prepared(
    path: str,
    make: Callable[[], Any],
    *,
    row_group_size: int,
    filesystem: Any = None,
    write_options: dict[str, Any] | None = None,
    **options: Any,
) -> ParquetData:
    """Returns the rows of a `ray.data.Dataset` from Parquet files, which the first call writes. Collective.

    Rank 0 asks for the dataset and has Ray write it, by tasks all over the cluster, while the others wait; in the dataset's
    order. Complete or absent: what an earlier call did not finish is written anew.

    Args:
        path: the folder, or a URI (``s3://bucket/folder``), that all machines of the cluster and all ranks see. Empty, or
            written by `prepared`. Another preparation takes another folder: what is there is not compared with `make`.
        make: returns the dataset; called on rank 0, and only where the files are not there yet. It may connect to a
            cluster (``ray.init``); otherwise Ray takes the one it finds, or starts one on this machine.
        row_group_size: rows that are read together; 1 to 4 MB of them are best (`ParquetData`).
        filesystem: a `pyarrow.fs.FileSystem` in which the path is; by default this machine's, or what the URI says.
        write_options: further arguments of `ray.data.Dataset.write_parquet`, such as ``{"min_rows_per_file": 10_000}``.
        **options: of `ParquetData`.

    Raises:
        ConfigError: the folder holds other files, `make` returns something else, or the folder is not shared.
        DataError: the dataset has no rows.
    """
    if row_group_size < 1:
        raise ConfigError(f"row_group_size={row_group_size}: expected at least 1 row")
    if not callable(make):
        raise ConfigError(
            f"prepared(make={type(make).__name__}): expected a function that returns the dataset, for it is only asked for where "
            "the files are not there yet; wrap it: lambda: dataset"
        )
    unknown = next((name for name in options if name not in _OPTIONS), None)
    if unknown is not None:
        raise ConfigError(f"prepared({unknown}=...) is no option of ParquetData{did_you_mean(unknown, _OPTIONS)}")
    place = _Place(path, filesystem)

    def prepare() -> None:
        if not place.is_done():
            _write(place, make(), {"row_group_size": row_group_size, **(write_options or {})})

    on_main(join(), prepare, what=f"preparing {path}")
    return ParquetData(path, filesystem=filesystem, **options)


_OPTIONS = ("columns", "buffer_bytes", "num_lanes", "num_tracks", "bad_files", "retry_s")


class _Place:
    """The folder: empty, begun (one marker file, and what was written so far) or done (the other)."""

    def __init__(self, path: str, filesystem: Any) -> None:
        self.filesystem, [self.path] = resolved(path, filesystem)
        self.shown = path

    def is_done(self) -> bool:
        return bool(self.filesystem.get_file_info(f"{self.path}/{_DONE}").is_file)

    def begin(self) -> None:
        """Empties the folder of what an earlier call began; refuses one that somebody else filled."""
        from pyarrow import fs

        if not self.filesystem.get_file_info(f"{self.path}/{_BEGUN}").is_file:
            there = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            if there:
                raise ConfigError(
                    f"{self.shown} holds {there[0].base_name}, which prepared() did not write; give it an empty folder, or read "
                    "what is there with ParquetData"
                )
            self.filesystem.create_dir(self.path, recursive=True)
        else:
            self.filesystem.delete_dir_contents(self.path)
        self._mark(_BEGUN, {})

    def finish(self, facts: dict[str, Any]) -> None:
        """Says that all is there."""
        self._mark(_DONE, facts)
        self.filesystem.delete_file(f"{self.path}/{_BEGUN}")

    def has_begun_mark(self) -> bool:
        return bool(self.filesystem.get_file_info(f"{self.path}/{_BEGUN}").is_file)

    def _mark(self, name: str, facts: dict[str, Any]) -> None:
        with self.filesystem.open_output_stream(f"{self.path}/{name}") as file:
            file.write(json.dumps(facts).encode())


def _write(place: _Place, dataset: Any, options: dict[str, Any]) -> None:
    """Has Ray write a dataset; Ray itself is imported here alone, by who has a dataset of it."""
    import ray.data

    if not isinstance(dataset, ray.data.Dataset):
        raise ConfigError(
            f"make() of prepared() returned a {type(dataset).__name__}; expected a ray.data.Dataset. What is Parquet already is "
            "read with ParquetData"
        )
    place.begin()
    _check_shared(place)
    dataset.context.execution_options.preserve_order = True  # files are numbered by task: so rows keep their order
    try:
        dataset.write_parquet(place.path, filesystem=place.filesystem, **options)
    except TypeError as error:
        raise ConfigError(f"write_options of prepared(): {error}") from error
    try:
        num_rows = len(ParquetData(place.path, filesystem=place.filesystem))
    except DataError as error:
        raise DataError(f"make() of prepared({place.shown!r}) returned a dataset without rows: {error}") from error
    place.finish({"num_rows": num_rows})


def _check_shared(place: _Place) -> None:
    """Raises `ConfigError` if a machine of the cluster does not see the folder: its part would be written elsewhere."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if place.filesystem.type_name != "local":
        return
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    sees = ray.remote(num_cpus=0)(_Place.has_begun_mark)
    asked = {
        node["NodeManagerHostname"]: sees.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(place)
        for node in nodes
    }
    for host, answer in asked.items():
        try:
            seen = ray.get(answer, timeout=_PATIENCE_S)
        except ray.exceptions.GetTimeoutError as error:
            raise DataError(
                f"machine {host} of the Ray cluster did not say within {_PATIENCE_S:.0f} s whether it sees {place.shown}"
            ) from error
        if not seen:
            raise ConfigError(
                f"machine {host} of the Ray cluster does not see {place.shown}, and would write its part elsewhere; "
                "give a folder that all machines share, or a URI such as s3://bucket/folder"
            )


_PATIENCE_S = 60.0
