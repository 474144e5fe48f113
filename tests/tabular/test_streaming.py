"""Tables larger than memory: what is streamed is what is read whole, and is shuffled, resumed and learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tables import CATS, CONTS, people, people_learner, people_loaders

from dist_ai.errors import ConfigError, DataError
from dist_ai.tabular import TabularDataLoaders


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    frame = people(300)
    frame[:240].to_parquet(tmp_path / "train.parquet", row_group_size=20)
    frame[240:].to_parquet(tmp_path / "valid.parquet", row_group_size=20)
    return tmp_path / "train.parquet", tmp_path / "valid.parquet"


def streamed(files: tuple[Path, Path], **options: Any) -> TabularDataLoaders:
    given = {"cat_names": CATS, "cont_names": CONTS, "y_names": "rich", "bs": 32, "num_workers": 0, **options}
    return TabularDataLoaders.from_parquet_stream(*files, **given)


def rows_of(loader: Any) -> list[tuple[float, ...]]:
    return [
        (*a, *b, y)
        for row, ys in loader
        for a, b, y in zip(row.cats.tolist(), row.conts.tolist(), ys.tolist(), strict=True)
    ]


def test_a_stream_has_the_samples_of_the_whole_table(files: tuple[Path, Path]) -> None:
    whole = people_loaders(people(300), valid_pct=None, valid_idx=range(240, 300), bs=32)
    stream = streamed(files)
    assert stream.recipe.to_plain() == whole.recipe.to_plain()
    assert rows_of(stream.valid) == rows_of(whole.valid)
    first, second = rows_of(stream.train), rows_of(stream.train)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(rows_of(whole.train))


def test_a_stream_is_learned_from_and_goes_on_in_the_middle(files: tuple[Path, Path], tmp_path: Path) -> None:
    dls = streamed(files)
    batches = [row.cats for _, (row, _) in dls.train.batches(1)]
    later = [row.cats for _, (row, _) in dls.train.batches(1, 4)]
    assert all(torch.equal(a, b) for a, b in zip(batches[4:], later, strict=True))
    learn = people_learner(dls)
    learn.fit_one_cycle(3, 0.02)
    assert learn.predict(people(1).iloc[0])[0] in ("yes", "no")
    learn.export(tmp_path / "model")


def test_procs_learn_from_some_row_groups_all_over_the_file(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="fit_rows=0: expected a number of rows to learn from, at least 1"):
        streamed(files, fit_rows=0)
    dls = streamed(files, fit_rows=60)
    frame = people(300)
    expected = frame.loc[[*range(20), *range(80, 100), *range(160, 180)], "hours"].mean()
    [scaler] = [proc for proc in dls.recipe.reads_tables.procs if proc["proc"] == "Normalize"]
    assert scaler["means"]["hours"] == pytest.approx(expected)


def test_what_is_wrong_with_a_stream_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="'hurs'"):
        streamed(files, cont_names=["age", "hurs"])
    with pytest.raises(ConfigError, match="neither cat_names nor cont_names"):
        streamed(files, cat_names=(), cont_names=())
