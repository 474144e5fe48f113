"""Data that Ray Data makes once and that is then read by number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_ai.data import DataLoader, ParquetData, prepared
from dist_ai.distributed import join
from dist_ai.errors import ConfigError, DataError, WorldError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray 2.60 asks the ranks for a token that only this process has
        import ray

        address = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False).address_info[
            "gcs_address"
        ]
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield address
        ray.shutdown()


def squares(num: int = 200) -> Any:
    import ray

    def square(batch: dict[str, Any]) -> dict[str, Any]:
        import time

        time.sleep(0.05 if batch["id"][0] == 0 else 0)  # the first is done last
        return {"number": batch["id"], "square": batch["id"] ** 2}

    return ray.data.range(num, override_num_blocks=5).map_batches(square, batch_size=None)


def never() -> Any:
    raise AssertionError("it was prepared already")


def test_it_is_computed_once_and_keeps_its_order(cluster: str, tmp_path: Path) -> None:
    data = prepared(str(tmp_path / "squares"), squares, row_group_size=16)
    assert data.column("number") == list(range(200))
    assert data[14].square == 196
    again = prepared(str(tmp_path / "squares"), never, row_group_size=16, columns=["square"])
    assert (again.names, len(again)) == (["square"], 200)
    with pytest.raises(ConfigError, match=r"returned a list; expected a ray.data.Dataset"):
        prepared(str(tmp_path / "list"), lambda: [1], row_group_size=16)
    with pytest.raises(DataError, match="returned a dataset without rows"):
        prepared(str(tmp_path / "none"), lambda: squares().limit(0), row_group_size=16)
    with pytest.raises(ConfigError, match="write_options of prepared"):
        prepared(str(tmp_path / "options"), squares, row_group_size=16, write_options={"num_files_please": 1})


def test_what_was_begun_and_not_finished_is_written_anew(cluster: str, tmp_path: Path) -> None:
    def fails_on_the_way() -> Any:
        def step(batch: dict[str, Any]) -> dict[str, Any]:
            if batch["id"][0] > 0:
                raise ValueError("a bad photograph")
            return batch

        import ray

        return ray.data.range(40, override_num_blocks=4).map_batches(step, batch_size=None)

    with pytest.raises(Exception, match="a bad photograph"):
        prepared(str(tmp_path / "data"), fails_on_the_way, row_group_size=16)
    assert (tmp_path / "data" / "_dist_ai_begun.json").exists()
    assert len(prepared(str(tmp_path / "data"), squares, row_group_size=16)) == 200
    assert not (tmp_path / "data" / "_dist_ai_begun.json").exists()


def test_a_machine_that_does_not_see_the_folder_is_named(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from dist_ai.data.prepared import _check_shared

    [here] = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [here, {**here, "NodeManagerHostname": "node-2"}])
    place = _place(tmp_path / "data")
    place.begin()
    _check_shared(place)
    (tmp_path / "data" / "_dist_ai_begun.json").unlink()
    with pytest.raises(
        ConfigError, match=r"of the Ray cluster does not see .*data, and would write its part elsewhere"
    ):
        _check_shared(place)


def on_a_rank(address: str, folder: str) -> tuple[list[int], str]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    def make() -> Any:
        assert join().world.is_main
        ray.init(address=address, log_to_driver=False)
        return squares()

    data = prepared(folder, make, row_group_size=10)
    ray.shutdown()
    seen = [
        number for batch in DataLoader(data, 16, shuffle=True, num_workers=0) for number in batch["number"].tolist()
    ]

    def fail() -> Any:
        raise ValueError("no such cluster")

    with pytest.raises((ValueError, WorldError)) as raised:
        prepared(f"{folder}-2", fail, row_group_size=10)
    return seen, str(raised.value)


def test_rank_0_has_it_made_and_all_ranks_read_it(cluster: str, tmp_path: Path, spawn: Any) -> None:
    first, second = spawn(2, on_a_rank, address=cluster, folder=str(tmp_path / "data"))
    assert sorted(first[0] + second[0]) == list(range(200))
    assert first[1] == "no such cluster"
    assert "failed on rank 0: ValueError: no such cluster" in second[1]


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds mine.txt, which prepared\(\) did not write; give it an empty folder"):
        _place(tmp_path).begin()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_cannot_work_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row_group_size=0: expected at least 1 row"):
        prepared(str(tmp_path), never, row_group_size=0)
    with pytest.raises(ConfigError, match="expected a function that returns the dataset"):
        prepared(str(tmp_path), np.zeros(3), row_group_size=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no option of ParquetData; did you mean 'num_lanes'"):
        prepared(str(tmp_path), never, row_group_size=1, num_lane=3)
    assert ParquetData.__name__ in str(prepared.__doc__)


def _place(path: Path) -> Any:
    from dist_ai.data.prepared import _Place

    return _Place(str(path), None)
