"""The log of a run: a JSON object a line, and a table of the epochs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toy import make_learner

from dist_ai.callbacks import Callback, CancelFit, Phase, on
from dist_ai.metrics import accuracy


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the log's entries; NaN and Infinity, which are not JSON, are refused."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_step_and_epoch_is_a_line_and_every_epoch_a_row(tmp_path: Path) -> None:
    learn = make_learner(metrics=accuracy, run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit(2, 0.1)
    learn.fit(1, 0.2)
    entries, recorder = read(tmp_path), learn.recorder
    assert [entry["kind"] for entry in entries] == (["step"] * 3 + ["epoch"]) * 3
    steps = [entry for entry in entries if entry["kind"] == "step"]
    assert [entry["step"] for entry in steps] == list(range(9))
    assert [entry["fit"] for entry in steps] == [1] * 6 + [2] * 3
    assert [entry["loss"] for entry in steps] == recorder.losses
    assert [entry["lr"] for entry in steps] == [0.1] * 6 + [0.2] * 3
    epochs = [entry for entry in entries if entry["kind"] == "epoch"]
    assert epochs == [{"kind": "epoch", **row} for row in recorder.epochs]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["fit", "epoch", "train_loss", "valid_loss", "accuracy", "samples_per_s", "time"]
    assert [float(row["valid_loss"]) for row in rows] == [row["valid_loss"] for row in recorder.epochs]
    assert [(row["fit"], row["epoch"]) for row in rows] == [("1", "0"), ("1", "1"), ("2", "0")]


def test_a_loss_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        value = F.cross_entropy(pred, target)
        return value * (float("nan") if len(target) == 1 else 1.0)

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, loss_func=loss)
    learn.fit(1)
    entries = read(tmp_path)
    assert [entry["loss"] is None for entry in entries[:3]] == [False, False, True]
    assert entries[3]["train_loss"] is None


def test_what_lies_after_the_last_checkpoint_is_cut_when_a_run_goes_on(tmp_path: Path) -> None:
    stale = [
        {"kind": "step", "fit": 0, "step": 0, "loss": 1.0, "lr": 0.1},
        {"kind": "epoch", "fit": 0, "epoch": 0, "train_loss": 1.0},
    ]
    text = "".join(json.dumps(entry) + "\n" for entry in stale) + '{"kind": "step", "fi'  # killed while it wrote
    (tmp_path / "log.jsonl").write_text(text)
    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit(1)
    assert [entry["kind"] for entry in read(tmp_path)] == ["step"] * 3 + ["epoch"]
    assert read(tmp_path)[0]["loss"] == learn.recorder.losses[0]


def test_the_last_steps_of_a_fit_that_was_cut_short_are_written(tmp_path: Path) -> None:
    class Stop(Callback):
        def before_step(self) -> None:
            if self.state.step == 2:
                raise CancelFit

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit(1, cbs=Stop())
    assert [entry["loss"] for entry in read(tmp_path)] == learn.recorder.losses
    assert len(learn.recorder.losses) == 2


def test_a_validation_on_its_own_writes_nothing(tmp_path: Path) -> None:
    learn = make_learner(run_dir=tmp_path / "run", checkpoint_every_s=None)
    learn.validate()
    assert not (tmp_path / "run").exists()
    learn.fit(1)
    before = (tmp_path / "run" / "log.jsonl").read_text()
    learn.validate()
    learn.get_preds()
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def fit_in(folder: str) -> list[str]:
    make_learner(run_dir=folder, checkpoint_every_s=None).fit(1)
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("."))


def test_on_several_ranks_one_of_them_writes(spawn: Any, tmp_path: Path) -> None:
    spawn(2, fit_in, folder=str(tmp_path))
    assert [entry["kind"] for entry in read(tmp_path)] == ["step"] * 3 + ["epoch"]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("count", [60, 130])
def test_many_steps_are_written_once_each_while_they_come(tmp_path: Path, count: int) -> None:
    from toy import make_dls

    seen: list[int] = []

    class Look(Callback):
        may_cancel = False

        def before_batch(self) -> None:
            if self.state.training and (tmp_path / "log.jsonl").exists():
                seen.append(len(read(tmp_path)))

    learn = make_learner(dls=make_dls(bs=1), run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit(count // 17 + 1, cbs=Look())
    steps = [entry["step"] for entry in read(tmp_path) if entry["kind"] == "step"]
    assert steps == list(range(17 * (count // 17 + 1)))
    assert max(seen) > 17


def test_a_checkpoint_holds_no_step_that_the_log_lacks(tmp_path: Path) -> None:
    seen = []

    def look(learn: Any) -> None:  # right after the checkpoint of this step, where a kill may come
        seen.append((len((tmp_path / "log.jsonl").read_text().splitlines()), learn.state.step + 1))

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=1)
    learn.fit(1, cbs=on("after_batch", look, training=True, phase=Phase.SAVE))
    assert seen == [(1, 1), (2, 2), (3, 3)]
