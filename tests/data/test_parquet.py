"""Parquet data sets: few row groups in memory, the same batches everywhere, and clear words for every fault."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import fs, parquet

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoader,
    FuncSplitter,
    IndexSplitter,
    ParquetData,
    RandomSplitter,
    Table,
    TransformBlock,
    collate,
)
from dist_ai.data.table import column_of
from dist_ai.distributed.environment import World
from dist_ai.errors import BadSampleError, ConfigError, DataError

SIZES = (90, 1, 40, 0, 69)  # rows of the files
NUM_ROWS, PER_GROUP = sum(SIZES), 10


def rows_from(begin: int, num: int) -> pa.Table:
    numbers = np.arange(begin, begin + num)
    random = np.random.default_rng(begin)
    return pa.table(
        {
            "image": [bytes([i % 251]) * (200 + i) for i in numbers.tolist()],
            "text": [f"row {i}" for i in numbers],
            "label": pa.array([("cat", "dog", "eel")[i % 3] for i in numbers], pa.string()),
            "number": numbers.astype(np.int32),
            "weight": random.normal(size=num),
            "ok": numbers % 2 == 0,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(numbers, 3).astype(np.float32)), 3),
            "big": numbers.astype(np.uint64),
        }
    )


def write(folder: Path, sizes: tuple[int, ...] = SIZES, per_group: int = PER_GROUP) -> Path:
    """Writes the rows 0, 1, ... into the files part-0.parquet, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = 0
    for number, size in enumerate(sizes):
        parquet.write_table(rows_from(begin, size), folder / f"part-{number}.parquet", row_group_size=per_group)
        begin += size
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parquet") / "rows")


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """Three files of 40 rows in groups of 10; the second group of the first file is damaged."""
    folder = write(tmp_path / "torn", (40, 40, 40))
    damage(folder / "part-0.parquet", 1)
    return folder


def damage(file: Path, group: int) -> None:
    first = parquet.read_metadata(file).row_group(group).column(0)
    begin = first.dictionary_page_offset or first.data_page_offset
    content = bytearray(file.read_bytes())
    content[begin : begin + 40] = b"\xff" * 40
    file.write_bytes(content)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """What was read in this process: row groups and columns."""
    from dist_ai.data.parquet_files import ParquetFiles

    taken: list[tuple[int, tuple[str, ...]]] = []
    original = ParquetFiles.read

    def read(self: ParquetFiles, opened: Any, group: int, names: Any) -> Any:
        taken.append((group, tuple(names)))
        return original(self, opened, group, names)

    monkeypatch.setattr(ParquetFiles, "read", read)
    return taken


def world(rank: int, world_size: int) -> World:
    return World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)


# ------------------------------------------------------------------------------------ rows


def test_rows_read_as_those_of_a_table_in_memory(folder: Path):
    data, table = ParquetData(folder), Table.from_parquet(folder)
    assert len(data) == len(table) == NUM_ROWS
    assert data.names == table.names
    for i in (0, 9, 10, 90, 91, 130, NUM_ROWS - 1, -1):
        for name in table.names:
            if name != "embedding":
                assert data[i][name] == table[i][name], (i, name)
                assert type(data[i][name]) is type(table[i][name]), (i, name)
        assert data[i].embedding.tolist() == table[i].embedding
    assert data[12].text == data[12][1] == "row 12"
    assert [row.number for row in data[88:92]] == [88, 89, 90, 91]
    assert [row.number for row in data] == list(range(NUM_ROWS))
    assert column_of(data, "label") == column_of(table, "label")
    assert data.column("number") == list(range(NUM_ROWS))


def test_rows_to_learn_from_come_from_row_groups_all_over_the_files(tmp_path: Path, reads: list[Any]):
    numbers = np.arange(5000)
    parquet.write_table(pa.table({"n": numbers, "hour": numbers % 10}), tmp_path / "1.parquet", row_group_size=25)
    parquet.write_table(pa.table({"n": numbers + 5000, "hour": numbers % 10}), tmp_path / "2.parquet")
    data = ParquetData(tmp_path)  # 200 row groups of 25 rows, and one of 5000
    for num_rows in (1, 10, 31, 500, 2000, 5300, 9990, 10_000, 20_000):
        rows = data.rows_all_over(num_rows)
        assert len(np.unique(rows)) == len(rows) == min(num_rows, 10_000)
        assert (np.sort(rows) == rows).all()
        assert rows[0] >= 0
        assert rows[-1] < 10_000
    few = data.rows_all_over(320)
    assert np.mean(few < 5000) == 0.5
    assert (np.bincount(few % 10, minlength=10) > 15).all()  # though every tenth row has the same hour
    assert data.take(few)["n"].tolist() == few.tolist()
    assert len({group for group, _ in reads}) == 17
    assert (data.rows_all_over(20_000) == np.arange(10_000)).all()
    one = ParquetData(tmp_path / "2.parquet")
    assert one.rows_all_over(1000) == pytest.approx(np.arange(1000) * 5 + 2, abs=2)


def test_it_says_where_a_row_is_and_how_it_is_read(folder: Path):
    data = ParquetData(folder, columns=["number"])
    assert repr(data[95]) == f"Row(4 in row group 0 of {folder}/part-2.parquet)"
    assert repr(data) == ("ParquetData(200 rows of number in 22 row groups of 5 file(s), num_lanes=8, num_tracks=4)")
    with pytest.raises(IndexError, match="row 200 of 200 rows"):
        data[200]
    with pytest.raises(KeyError, match="no column 'nmber'; there are number; did you mean 'number'"):
        data[0]["nmber"]


def test_files_folders_and_uris_are_the_same_source(folder: Path, tmp_path: Path):
    files = sorted(folder.glob("*.parquet"))
    same = [
        ParquetData(files),
        ParquetData(folder.as_uri()),
        ParquetData([file.as_uri() for file in files]),
        ParquetData("rows", filesystem=fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem())),
    ]
    for data in same:
        assert data.column("number") == list(range(NUM_ROWS)), data
    assert ParquetData(files[2]).column("number") == list(range(91, 131))
    deep = write(tmp_path / "deep" / "b", (5,))
    write(tmp_path / "deep" / "a", (6,))
    write(tmp_path / "deep" / "_temporary", (7,))
    write(tmp_path / "deep" / ".hidden", (7,))
    (deep / "notes.txt").write_text("no rows")
    assert [Path(file).parts[-2] for file in ParquetData(tmp_path / "deep").files] == ["a", "b"]


def test_only_columns_that_are_asked_for_are_read(folder: Path, reads: list[tuple[int, tuple[str, ...]]]):
    data = ParquetData(folder)
    assert [data[i].label for i in range(20)] == [("cat", "dog", "eel")[i % 3] for i in range(20)]
    assert reads == [(0, ("label",)), (1, ("label",))]
    with pytest.raises(KeyError, match="no column 'image'; there are number"):
        ParquetData(folder, columns=["number"])[0]["image"]


def test_it_is_sent_to_another_process_without_what_it_holds(folder: Path):
    data = ParquetData(folder)
    data.fetch(torch.arange(NUM_ROWS))
    sent = pickle.dumps(data)
    assert len(sent) < 6000
    assert pickle.loads(sent)[77].text == "row 77"


# ------------------------------------------------------------------------------------ batches


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def test_a_batch_is_fetched_as_its_rows_would_be_collated(folder: Path):
    data = ParquetData(folder)
    chosen = torch.tensor([130, 3, 3, 199, 90, 12, 0])
    batch = data.fetch(chosen)
    assert same(batch, collate([data[i] for i in chosen.tolist()]))
    assert (batch["number"].dtype, batch["weight"].dtype, batch["ok"].dtype) == (torch.int64, torch.float32, torch.bool)
    assert batch["embedding"].shape == (7, 3)
    assert batch["text"][1] == "row 3"


def batches(data: Any, num_workers: int = 0, rank: int = 0, world_size: int = 1, **options: Any) -> list[Any]:
    options = {"bs": 16, "shuffle": True, "seed": 3, **options}
    loader = DataLoader(data, num_workers=num_workers, world=world(rank, world_size), **options)
    return list(loader.batches(1))


class ShiftedNumber(Transform):
    """Adds a random number to every one."""

    def encodes(self, x: object, draw: Any) -> Any:
        return {"number": x["number"], "shifted": x["number"] + (draw.uniform() if draw else 0.0)}  # type: ignore[index]


@pytest.mark.parametrize("options", [{}, {"item_tfms": ShiftedNumber()}], ids=["columns", "by sample"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_batches_do_not_depend_on_loader_workers(folder: Path, num_workers: int, options: dict[str, Any]):
    data = ParquetData(folder, columns=["number", "image"], buffer_bytes=30_000)
    assert data.num_lanes * data.num_tracks > 1
    expected = batches(data, **options)
    got = batches(data, num_workers, **options)
    assert len(got) == len(expected) == 13
    for (share, batch), (expected_share, expected_batch) in zip(got, expected, strict=True):
        assert share.indices.tolist() == expected_share.indices.tolist()
        assert same(batch, expected_batch)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_batches_do_not_depend_on_ranks(folder: Path, world_size: int, num_workers: int):
    data = ParquetData(folder, columns=["number", "image"], buffer_bytes=30_000)
    options = {"item_tfms": ShiftedNumber()}
    ranks = [batches(data, num_workers, rank, world_size, **options) for rank in range(world_size)]
    for step, (_, expected) in enumerate(batches(data, **options)):
        of_ranks = [rank[step] for rank in ranks]
        together = {
            key: torch.cat([batch[key][: share.num_local] for share, batch in of_ranks])
            for key in ("number", "shifted")
        }
        order = together["number"].argsort()
        expected_order = expected["number"].argsort()
        for key in together:
            assert torch.equal(together[key][order], expected[key][expected_order])


def numbers_on_a_rank(folder: str) -> list[list[int]]:
    data = ParquetData(folder, columns=["number"], buffer_bytes=100)
    loader = DataLoader(data, 16, shuffle=True, seed=3, num_workers=1)
    return [batch["number"][: share.num_local].tolist() for share, batch in loader.batches(1)]


@pytest.mark.filterwarnings("ignore:the files' row groups are large")
def test_real_ranks_read_their_part(folder: Path, spawn: Callable[..., list[Any]]):
    [alone] = spawn(1, numbers_on_a_rank, folder=str(folder))
    ranks = spawn(2, numbers_on_a_rank, folder=str(folder))
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in alone]
    assert sorted(i for batch in alone for i in batch) == list(range(NUM_ROWS))


def test_what_comes_next_is_read_ahead_within_the_buffer(folder: Path, reads: list[tuple[int, tuple[str, ...]]]):
    data = ParquetData(folder, columns=["number", "image"], buffer_bytes=30_000)
    data.expect(torch.arange(100, 131))
    batch = data.fetch(torch.arange(100, 110))
    assert batch["number"].tolist() == list(range(100, 110))
    assert [group for group, _ in reads][:2] == [10, 11]
    assert len(reads) == len(set(reads))
    data.expect(torch.arange(100, 110))
    assert data.fetch(torch.arange(100, 110))["number"].tolist() == list(range(100, 110))
    assert len(reads) == len(set(reads))


def test_an_epoch_may_begin_in_the_middle(folder: Path):
    data = ParquetData(folder, columns=["number"])
    loader = DataLoader(data, 16, shuffle=True)
    whole = [batch["number"].tolist() for _, batch in loader.batches(2)]
    assert [batch["number"].tolist() for _, batch in loader.batches(2, start=5)] == whole[5:]


def test_without_shuffling_rows_come_as_they_are(folder: Path):
    loader = DataLoader(ParquetData(folder), 32)
    assert [i for batch in loader for i in batch["number"].tolist()] == list(range(NUM_ROWS))


# ------------------------------------------------------------------------------------ what it costs


def many(folder: Path, num_groups: int = 120) -> ParquetData:
    """Returns 120 row groups of 20 rows of 1,000 bytes in 4 files, of which 15 fit into the buffer."""
    for number in range(4):
        rows = pa.table(
            {"image": [bytes([i % 256]) * 1000 for i in range(5 * num_groups)], "number": range(5 * num_groups)}
        )
        options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
        parquet.write_table(rows, folder / f"{number}.parquet", row_group_size=20, **options)
    return ParquetData(folder, buffer_bytes=15 * 20 * 1050)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_row_group_is_read_little_more_than_once_over_all_ranks(
    tmp_path: Path, reads: list[tuple[int, tuple[str, ...]]], world_size: int
):
    data = many(tmp_path)
    assert (data.num_lanes, data.num_tracks) == (8, 1)
    for rank in range(world_size):
        batches(pickle.loads(pickle.dumps(data)), rank=rank, world_size=world_size, bs=32)
    assert 120 <= len(reads) <= 120 * 1.1


def test_each_epoch_reads_each_row_group_little_more_than_once(
    tmp_path: Path, reads: list[tuple[int, tuple[str, ...]]]
):
    loader = DataLoader(many(tmp_path), 32, shuffle=True)  # all lanes come to the end of a row group in the same batch
    for _ in range(5):
        reads.clear()
        for _ in loader:
            pass
        assert 104 <= len(reads) <= 120 * 1.1  # 16 may still be held


def test_what_was_announced_and_never_fetched_does_not_hold_up_the_rest(
    tmp_path: Path, reads: list[tuple[int, tuple[str, ...]]]
):
    loader = DataLoader(many(tmp_path), 32, shuffle=True)
    for _ in range(20):
        next(iter(loader))
    reads.clear()
    assert sum(len(batch["number"]) for batch in loader) == 2400
    assert len(reads) <= 120 * 1.1


def test_workers_that_take_turns_read_row_groups_of_their_own(
    tmp_path: Path, reads: list[tuple[int, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
):
    many(tmp_path)
    data = ParquetData(tmp_path, buffer_bytes=15 * 20 * 1050, num_lanes=2, num_tracks=4)
    order = data.loading_order(shuffle=True)
    plan = DataLoader(data, 8, order=order).plan(0)
    monkeypatch.setattr("dist_ai.data.parquet.get_worker_info", lambda: type("Info", (), {"num_workers": 4}))
    for worker in range(4):
        mine = pickle.loads(pickle.dumps(data))
        for share in list(plan)[worker::4]:
            mine.fetch(torch.from_numpy(share.indices))
    assert 120 <= len(reads) <= 120 * 1.2


def test_what_is_held_stays_within_the_buffer(tmp_path: Path):
    data = many(tmp_path)
    before = pa.total_allocated_bytes()
    loader = DataLoader(data, 32, shuffle=True)
    held = [pa.total_allocated_bytes() - before for _ in range(4) for _ in loader]
    assert data.buffer_bytes / 2 < max(held) <= data.buffer_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_nor_with_epochs(tmp_path: Path):
    program = Path(__file__).parent / "streaming_memory.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    size, first, sixth = map(int, done.stdout.split())
    assert size > 200_000_000
    assert first < 80_000_000  # measured: 58 MB with a buffer of 20 MB
    assert sixth < first + 5_000_000


def test_a_batch_mixes_as_many_row_groups_as_there_are_lanes(tmp_path: Path):
    data = many(tmp_path)
    groups = [len({i // 20 for i in share.indices.tolist()}) for share, _ in batches(data, bs=32, drop_last=True)]
    assert min(groups) >= 6
    assert np.mean(groups) >= data.num_lanes


def test_lanes_and_tracks_follow_from_the_files_and_the_buffer_alone(tmp_path: Path):
    many(tmp_path)
    group = 20 * 1050
    for buffer_groups, expected in ((200, (8, 4)), (60, (8, 3)), (15, (8, 1)), (8, (5, 1))):
        data = ParquetData(tmp_path, buffer_bytes=buffer_groups * group)
        assert (data.num_lanes, data.num_tracks) == expected, buffer_groups
    assert ParquetData(tmp_path, buffer_bytes=15 * group, num_tracks=4).num_lanes == 2
    message = r"num_lanes=16 x num_tracks=1 row groups of 0.02\d+ MiB do not fit into buffer_bytes=315,000; give fewer, at least"
    with pytest.raises(ConfigError, match=message):
        ParquetData(tmp_path, buffer_bytes=15 * group, num_lanes=16)


def test_row_groups_that_are_too_large_are_told_with_the_size_they_should_have(tmp_path: Path):
    many(tmp_path)
    with pytest.warns(
        UserWarning, match=r"row groups are large \(120 of up to 0.02\d+ MiB, buffer_bytes=0.02384 MiB\)"
    ) as told:
        data = ParquetData(tmp_path, buffer_bytes=25_000)
    assert "row_group_size=" in str(told[0].message)
    assert data.num_lanes == 1
    assert told[0].filename == __file__
    assert sorted(i for share, _ in batches(data) for i in share.indices.tolist()) == list(range(len(data)))


# ------------------------------------------------------------------------------------ as items


def block(splitter: Any, **options: Any) -> DataBlock:
    return DataBlock(
        (TransformBlock, CategoryBlock),
        get_items=ParquetData,
        get_x=ColReader("number"),
        get_y=ColReader("label"),
        splitter=splitter,
        **options,
    )


def test_a_data_block_reads_it_by_row_group(folder: Path, reads: list[tuple[int, tuple[str, ...]]]):
    dls = block(RandomSplitter(0.3, seed=1)).dataloaders(folder, bs=16, num_workers=0)
    assert dls.vocab == ["cat", "dog", "eel"]
    assert {names for _, names in reads} == {("label",)}
    seen = [int(i) for x, _ in dls.train for i in x]
    assert len(seen) == len(set(seen)) == 140
    assert seen != sorted(seen)
    for x, y in dls.valid:
        assert (x % 3).tolist() == y.tolist()
    assert sorted(seen + [int(i) for x, _ in dls.valid for i in x]) == list(range(NUM_ROWS))
    assert Counter(reads)[(0, ("number",))] == 1  # for both parts, as all of it fits


def test_a_part_of_the_rows_is_read_by_row_group_too(tmp_path: Path, reads: list[tuple[int, tuple[str, ...]]]):
    data = many(tmp_path)
    splits = RandomSplitter(0.5)(data)
    made = DataBlock((TransformBlock,), get_x=ColReader("image"), splitter=lambda items: splits).datasets(data)
    assert len(batches(made.train, bs=32)) == 38
    assert len(reads) <= 120 * 1.1
    reads.clear()
    mixed = DataBlock((TransformBlock,), get_x=ColReader("image"), splitter=lambda items: (splits[0][::-1], splits[1]))
    got = batches(mixed.datasets(data).train, bs=32)
    assert len(reads) <= 120 * 1.1
    assert sorted(i for share, _ in got for i in share.indices.tolist()) == list(range(1200))


def test_what_cannot_be_decoded_is_named_by_its_row(folder: Path):
    def read(number: int) -> int:
        if number == 95:
            raise BadSampleError("435 bytes cannot be read as an image")
        return number

    numbers = DataBlock((TransformBlock,), get_x=[Pipeline([ColReader("number"), read])], splitter=IndexSplitter([0]))
    row = f"Row(4 in row group 0 of {folder}/part-2.parquet)"
    for num_workers in (0, 1):
        loader = numbers.dataloaders(ParquetData(folder), bs=32, num_workers=num_workers).train
        with pytest.raises(BadSampleError, match=re.escape(f"sample 94 ({row}): 435 bytes cannot be read as an")):
            list(loader)


def test_it_is_split_by_index_column_function_and_file(folder: Path):
    data = ParquetData(folder)
    assert IndexSplitter([5, 7])(data)[1] == [5, 7]
    assert ColSplitter("label", on="dog")(data)[1] == list(range(1, NUM_ROWS, 3))
    assert FuncSplitter(lambda row: row.number > 197)(data)[1] == [198, 199]
    assert IndexSplitter(data.rows_in("part-2.parquet"))(data)[1] == list(range(91, 131))
    assert data.rows_in("rows/part-[12]*").tolist() == list(range(90, 131))
    with pytest.raises(DataError, match=r"none of the 5 files, such as part-0.parquet, matches 'valid-\*'"):
        data.rows_in("valid-*")


# ------------------------------------------------------------------------------------ faults


def test_a_damaged_row_group_is_named(torn: Path):
    data = ParquetData(torn)
    where = f"row group 1 of {torn}/part-0.parquet cannot be read as Parquet, the file is damaged: "
    with pytest.raises(BadSampleError, match=re.escape(where)):
        data[12]["image"]
    assert data[9].text == "row 9"
    assert data[20].text == "row 20"
    with pytest.raises(BadSampleError, match=re.escape(where)):
        list(DataLoader(data, 8))
    with pytest.raises(BadSampleError, match=re.escape(where)):
        list(DataLoader(data, 8, shuffle=True, num_workers=1))


def skipping(folder: Path, rank: int, world_size: int, **options: Any) -> tuple[list[Any], set[str]]:
    loader = DataLoader(
        ParquetData(folder, columns=["image", "number"]),
        12,
        bad_samples="skip",
        world=world(rank, world_size),
        num_workers=options.pop("num_workers", 0),
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(loader.batches(0)), set(loader.skipped)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_of_a_damaged_row_group_are_left_out_of_validation_and_counted(torn: Path, num_workers: int):
    for world_size in (1, 2, 3):
        ranks = [skipping(torn, rank, world_size, num_workers=num_workers) for rank in range(world_size)]
        seen = sorted(
            i for got, _ in ranks for share, batch in got for i in batch["number"][: share.num_local].tolist()
        )
        assert seen == [i for i in range(120) if not 10 <= i < 20]
        skipped = set().union(*(each for _, each in ranks))
        assert len(skipped) == 10
        assert all(f"row group 1 of {torn}/part-0.parquet" in message for message in skipped)


def test_in_training_rows_of_another_row_group_take_their_place_the_same_on_any_number_of_ranks(
    torn: Path, reads: list[tuple[int, tuple[str, ...]]]
):
    def values(world_size: int) -> list[dict[int, int]]:
        ranks = [skipping(torn, rank, world_size, shuffle=True)[0] for rank in range(world_size)]
        return [
            {
                i: value
                for share, batch in step
                for i, value in zip(share.indices[: share.num_local].tolist(), batch["number"].tolist(), strict=False)
            }
            for step in zip(*ranks, strict=True)
        ]

    alone = values(1)
    assert [len(batch) for batch in alone] == [12] * 10
    replaced = {i: value for batch in alone for i, value in batch.items() if i != value}
    assert sorted(replaced) == list(range(10, 20))
    assert len({value - i for i, value in replaced.items()} | {0}) <= 3  # neighbours by neighbours
    assert Counter(group for group, _ in reads)[1] <= 2  # the damaged one: tried, and tried once more
    assert values(2) == values(3) == alone


def test_a_file_that_goes_changes_or_shrinks_during_training_is_named(tmp_path: Path):
    folder = write(tmp_path, (20, 20, 20, 20))
    data = ParquetData(folder)
    (folder / "part-0.parquet").unlink()
    parquet.write_table(rows_from(0, 19), folder / "part-1.parquet")
    content = (folder / "part-2.parquet").read_bytes()
    (folder / "part-2.parquet").write_bytes(content[:-1000])
    with pytest.raises(BadSampleError, match=r"part-0.parquet has gone since this program began to read it"):
        data[0]["text"]
    with pytest.raises(BadSampleError, match=r"part-1.parquet has [\d,]+ bytes and had [\d,]+: it changed since"):
        data[20]["text"]
    with pytest.raises(BadSampleError, match=r"part-2.parquet has [\d,]+ bytes and had [\d,]+: it changed since"):
        data[40]["text"]
    assert data[60].text == "row 60"


def test_a_file_that_is_cut_off_empty_or_none_is_refused_at_once_or_left_out(tmp_path: Path):
    folder = write(tmp_path, (20, 20))
    (folder / "part-0.parquet").write_bytes((folder / "part-1.parquet").read_bytes()[:-300])
    message = rf"{folder}/part-0.parquet cannot be read as Parquet: .*Was it written to its end\? mend or remove it, or"
    with pytest.raises(DataError, match=message):
        ParquetData(folder)
    with pytest.warns(UserWarning, match=rf"left out: {folder}/part-0.parquet cannot be read as Parquet"):
        data = ParquetData(folder, bad_files="skip")
    assert data.column("number") == list(range(20, 40))
    assert list(data.skipped_files) == [f"{folder}/part-0.parquet"]
    (folder / "part-0.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{folder}/part-0.parquet is empty \(0 bytes\) and no Parquet file"):
        ParquetData(folder)


def test_a_source_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=f"no file or folder at {tmp_path}/gone"):
        ParquetData(tmp_path / "gone")
    with pytest.raises(DataError, match=r"\*\.parquet; a pattern is no path: give the folder, or a list of files"):
        ParquetData(tmp_path / "*.parquet")
    with pytest.raises(DataError, match=rf"no .parquet file under {tmp_path}, among 0 file\(s\) and folder\(s\)"):
        ParquetData(tmp_path)
    with pytest.raises(DataError, match=f"no rows in {tmp_path}/part-0.parquet"):
        ParquetData(write(tmp_path, (0,)))
    with pytest.raises(DataError, match="no files: the list of paths is empty"):
        ParquetData([])
    file = tmp_path / "part-0.parquet"
    with pytest.raises(DataError, match=r"part-0\.parquet is given twice; each file counts once"):
        ParquetData([file, file])


def test_files_of_different_columns_or_types_are_named(tmp_path: Path):
    parquet.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
    parquet.write_table(pa.table({"b": ["x"], "a": [2.5], "c": [0]}), tmp_path / "2.parquet")
    message = f"{tmp_path}/2.parquet and {tmp_path}/1.parquet differ in the columns c; name those that all files have"
    with pytest.raises(DataError, match=message):
        ParquetData(tmp_path)
    message = f"column 'a' is double in {tmp_path}/2.parquet and int64 in {tmp_path}/1.parquet; write the files with one schema"
    with pytest.raises(DataError, match=message):
        ParquetData(tmp_path, columns=["a"])
    assert ParquetData(tmp_path, columns=["b"]).column("b") == ["x", "x"]
    with pytest.raises(DataError, match=rf"no column 'bb' in {tmp_path}/1.parquet; there are a, b; did you mean 'b'\?"):
        ParquetData(tmp_path, columns=["bb"])


def test_what_the_writers_library_decides_is_no_difference(tmp_path: Path):
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))):
        parquet.write_table(pa.table({"a": pa.array(["x", "y"], kind)}), tmp_path / f"{number}.parquet")
    data = ParquetData(tmp_path)
    assert data.fetch(torch.arange(6)) == {"a": ["x", "y"] * 3}


@pytest.mark.parametrize("width", ["", "large_"])
def test_text_bytes_and_dictionaries_come_as_they_were_written(tmp_path: Path, width: str):
    text, binary = pa.type_for_alias(f"{width}string"), pa.type_for_alias(f"{width}binary")
    texts = ["", "a", "ä€𝄞", "long " * 100, "", "b", "", "c"]
    blobs = [b"", b"\x00", bytes(range(256)), b"\xff" * 5000, b"z", b"", b"\x00\x00", b"y"]
    columns = {
        "text": pa.array(texts, text),
        "bytes": pa.array(blobs, binary),
        "no_text": pa.array([""] * 8, text),
        "label": pa.array(texts, text).dictionary_encode(),
        "few_bytes": pa.array(blobs, binary).dictionary_encode(),
        "code": pa.array([7, 8, 7, 7, 9, 8, 7, 7], pa.int16()).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns), tmp_path / "1.parquet", row_group_size=3)
    data, order = ParquetData(tmp_path), [7, 0, 3, 2, 2, 6, 1, 5, 4]
    batch = data.fetch(torch.tensor(order))
    assert batch["code"].dtype == torch.int64
    for name, column in columns.items():
        expected = column.to_pylist()
        assert data.column(name) == expected
        assert [getattr(row, name) for row in data] == expected
        assert (batch[name] if name != "code" else batch[name].tolist()) == [expected[i] for i in order]


def test_a_text_that_is_missing_is_none_also_where_texts_are_numbered(tmp_path: Path):
    rows = pa.table({"a": ["x", None], "b": pa.array(["x", None]).dictionary_encode()})
    parquet.write_table(rows, tmp_path / "1.parquet")
    data = ParquetData(tmp_path)
    assert (data.column("a"), data.column("b")) == (["x", None], ["x", None])
    for name in data.names:
        with pytest.raises(DataError, match=f"column '{name}' has no value in Row"):
            ParquetData(tmp_path, columns=[name]).fetch(torch.arange(2))


def test_a_missing_value_and_lists_of_different_lengths_fit_into_no_batch(tmp_path: Path):
    rows = pa.table({"a": [1, None, 3], "b": [[1.0], [1.0, 2.0], [3.0]]})
    parquet.write_table(rows, tmp_path / "1.parquet")
    data = ParquetData(tmp_path)
    assert (data[0].a, data[1].a, data[1].b.tolist()) == (1, None, [1.0, 2.0])
    message = rf"column 'a' has no value in Row\(1 in row group 0 of {tmp_path}/1.parquet\), and a batch needs one of every row"
    with pytest.raises(DataError, match=message):
        data.fetch(torch.arange(3))
    with pytest.raises(DataError, match="column 'b': samples of different shapes do not stack into a batch"):
        ParquetData(tmp_path, columns=["b"]).fetch(torch.arange(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_lanes": 0}, "num_lanes=0: expected at least 1"),
        ({"buffer_bytes": 0}, "buffer_bytes=0: expected at least 1"),
        ({"bad_files": "ignore"}, "bad_files='ignore': expected 'raise' or 'skip'"),
        ({"retry_s": -1}, "retry_s=-1: expected seconds, 0 or more"),
        ({"columns": "number"}, r"columns='number' is one name; expected a list of them: \['number'\]"),
        ({"filesystem": "s3"}, "filesystem=str: expected a pyarrow.fs.FileSystem"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(folder: Path, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ParquetData(folder, **options)


# ------------------------------------------------------------------------------------ stores


class Store(fs.FileSystemHandler):
    """This machine's files as a store that fails: `failures` are raised one after the other, whatever is asked for."""

    def __init__(self) -> None:
        self.local = fs.LocalFileSystem()
        self.failures: Iterator[Exception] = iter(())
        self.calls = 0

    def get_type_name(self) -> str:
        return "store"

    def get_file_info(self, paths: Any) -> Any:
        self.fail()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        self.fail()
        return self.local.get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        self.fail()
        return self.local.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        self.fail()
        return self.local.open_input_file(path)

    def fail(self) -> None:
        self.calls += 1
        for failure in self.failures:
            raise failure

    def normalize_path(self, path: str) -> str:
        return path

    def _not_here(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = _not_here
    move = open_append_stream = open_output_stream = _not_here


Store.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def down(times: int) -> Iterator[Exception]:
    return iter([OSError("the store is down")] * times)


def test_a_store_that_fails_for_a_while_is_asked_again(folder: Path, no_pauses: list[float]):
    store = Store()
    store.failures = down(3)
    data = ParquetData(str(folder), filesystem=fs.PyFileSystem(store))
    store.failures = down(4)
    assert data[77].text == "row 77"
    assert len(no_pauses) >= 5
    assert no_pauses[0] < no_pauses[2]


def test_a_store_that_stays_down_ends_the_run_and_is_no_bad_sample(folder: Path, no_pauses: list[float]):
    store = Store()
    data = ParquetData(str(folder), filesystem=fs.PyFileSystem(store), retry_s=0.01)
    store.failures = down(10_000)
    message = (
        rf"{folder}/part-0.parquet could not be read, tried \d+ time\(s\) in 0.0 s \(retry_s=0.01\): the store is down. Is the "
        "store reachable?"
    )
    with pytest.raises(DataError, match=message):
        data[77]["text"]
    with pytest.raises(DataError, match=message):
        list(DataLoader(data, 8, shuffle=True, bad_samples="skip"))
    store.failures = iter(())
    assert data[77].text == "row 77"
    store.failures = down(10_000)
    with pytest.raises(DataError, match=rf"the files of {folder} could not be read, tried"):
        ParquetData(str(folder), filesystem=fs.PyFileSystem(store), retry_s=0, bad_files="skip")


def test_what_a_store_failed_to_give_ahead_of_time_is_asked_for_again(folder: Path, no_pauses: list[float]):
    store, asked = Store(), threading.Event()
    data = ParquetData(str(folder), filesystem=fs.PyFileSystem(store), retry_s=0)

    def fails_late() -> Iterator[Exception]:
        for _ in range(2):  # the reading, and the look at what is to blame
            asked.wait(10)
            yield OSError("the store is down")

    store.failures = fails_late()
    data.expect(torch.tensor([77]))
    threading.Timer(0.2, asked.set).start()  # while the row waits for what is under way
    assert data[77].text == "row 77"


def test_a_file_that_may_not_be_read_is_named(folder: Path):
    store = Store()
    data = ParquetData(str(folder), filesystem=fs.PyFileSystem(store))
    store.failures = iter([PermissionError("denied")] * 9)
    with pytest.raises(BadSampleError, match=f"{folder}/part-0.parquet may not be read by this user: denied"):
        data[77]["text"]


def test_a_read_that_fails_once_is_no_damage(torn: Path, monkeypatch: pytest.MonkeyPatch):
    data = ParquetData(torn)
    original = parquet.ParquetFile.read_row_group
    fails = iter([OSError("a cosmic ray")])

    def read(self: Any, *args: Any, **options: Any) -> Any:
        for failure in fails:
            raise failure
        return original(self, *args, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", read)
    assert data[0].text == "row 0"
