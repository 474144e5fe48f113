"""Tables larger than memory: what is streamed is what is read whole, and is shuffled, resumed and learned from."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tables import CATS, CONTS, people, people_learner, people_loaders

from dist_ai.errors import ConfigError, DataError
from dist_ai.tabular import Categorify, RareCategories, TabularDataLoaders, TabularPandas, TargetEncode


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
    for fit_rows in (0, 2.5, True, "many", float("inf")):
        with pytest.raises(
            ConfigError, match=re.escape(f"fit_rows={fit_rows!r}: expected a number of rows to learn from")
        ):
            streamed(files, fit_rows=fit_rows)
    assert streamed(files, fit_rows=1e6).recipe.to_plain() == streamed(files).recipe.to_plain()
    days = pd.DataFrame({"day": np.arange(10_000) // 1000, "n": np.arange(10_000.0), "y": np.arange(10_000) % 2 + 0.5})
    days.to_parquet(files[0], row_group_size=1000)
    dls = streamed((files[0], None), cat_names="day", cont_names="n", y_names="y", fit_rows=990)
    reader = dls.recipe.reads_tables
    assert reader.classes == {"day": ["#na#", *range(10)]}
    [scaler] = [proc for proc in reader.procs if proc["proc"] == "Normalize"]
    assert scaler["means"]["n"] == pytest.approx(4999.5, abs=5)


def test_a_streamed_row_s_own_target_does_not_encode_its_category(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"id": np.arange(500) // 2, "single": np.arange(500), "y": random.normal(size=500)})
    frame[:400].to_parquet(tmp_path / "train.parquet", row_group_size=30)
    frame[400:].assign(id=range(100)).to_parquet(tmp_path / "valid.parquet", row_group_size=30)
    y = frame["y"][:400].to_numpy()
    procs, names = [TargetEncode(smooth=0.01), Categorify], {"cat_names": ["id", "single"], "cont_names": ()}
    whole = TabularPandas(frame[:400], procs, names["cat_names"], (), "y")
    for fit_rows in (400, 200):
        dls = streamed(
            (tmp_path / "train.parquet", tmp_path / "valid.parquet"),
            procs=procs,
            y_names="y",
            fit_rows=fit_rows,
            **names,
        )
        rows = dls.train.dataset
        at_once = rows.fetch(torch.arange(400))[0].conts
        for column in at_once.T.numpy():
            assert abs(np.corrcoef(column, y)[0, 1]) < 0.25
        # The fold is that of the row and not of its place in a batch, as another number of ranks would change it.
        assert torch.equal(torch.stack([rows[i][0].conts for i in range(400)]), at_once)
        if fit_rows == 400:
            assert torch.equal(at_once, whole.train.rows.conts)
            valid = dls.valid.dataset.fetch(torch.arange(100))[0].conts[:, 0].numpy()
            overall = y.mean()
            pairs = y[:200].reshape(100, 2).sum(1)
            np.testing.assert_allclose(valid, (pairs + 0.01 * overall) / 2.01, rtol=1e-5)
            reader = dls.recipe.reads_tables
            assert not any("out_of_fold" in proc for proc in reader.procs)
            with pytest.raises(ConfigError, match="training rows are prepared by the reader that learned from them"):
                dataclasses.replace(reader).process_training(frame[:400], ["y"], np.arange(400))
            sent = pickle.loads(pickle.dumps(rows))  # as to a loader's worker
            assert torch.equal(sent.fetch(torch.arange(400))[0].conts, at_once)


def test_a_row_is_prepared_alike_whatever_other_rows_are_in_its_batch(tmp_path: Path) -> None:
    frame = pd.DataFrame({"zip": pd.array([7, None, 3, 3, 3, 7, 7, 2**53, 2**53 + 1, 9] * 6, dtype="Int64")})
    frame["y"], frame["is"] = np.arange(60) % 4 + 0.5, pd.Series([True, None, False] * 20, dtype="boolean")
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=4)
    for procs in ([Categorify], [RareCategories(7), Categorify], [TargetEncode, Categorify]):
        dls = streamed(
            (tmp_path / "rows.parquet", None), procs=procs, cat_names=["zip", "is"], cont_names=(), y_names="y"
        )
        rows = dls.train.dataset
        whole = TabularPandas(frame, procs, ["zip", "is"], (), "y")
        at_once, alone = rows.fetch(torch.arange(60))[0], [rows[i][0] for i in range(60)]
        assert torch.equal(at_once.cats, whole.train.rows.cats)
        assert torch.equal(at_once.conts, whole.train.rows.conts)
        assert torch.equal(torch.stack([row.cats for row in alone]), at_once.cats)
        assert torch.equal(torch.stack([row.conts for row in alone]), at_once.conts)
        assert dls.recipe.reads_tables.classes == whole.classes
    assert whole.classes["zip"] == ["#na#", 3, 7, 9, 2**53, 2**53 + 1]


def test_what_is_wrong_with_a_stream_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="'hurs'"):
        streamed(files, cont_names=["age", "hurs"])
    with pytest.raises(ConfigError, match="neither cat_names nor cont_names"):
        streamed(files, cat_names=(), cont_names=())
    with pytest.raises(ConfigError, match="column 'score' is named twice, in cont_names and y_names"):
        streamed(files, cont_names=["age", "score"], y_names="score")
    message = r"train.parquet is among the files for training and among those for validation \(1 such file\(s\)\); validate with"
    for valid in (files[0], [files[1], files[0]], files[0].parent):
        with pytest.raises(ConfigError, match=message):
            streamed((files[0], valid))
    frame = people(300).assign(score=np.r_[np.ones(100), np.nan, np.ones(199)])
    frame.to_parquet(files[0], row_group_size=20)
    with pytest.raises(DataError, match=r"the target 'score' is missing in row 100 \(1 such row"):
        streamed(files, y_names="score")
