"""A run's directory: checkpoints are whole or absent, the newest sound one is found, and one process writes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dist_ai.checkpoint import Checkpoint, Run
from dist_ai.checkpoint import run as run_module
from dist_ai.errors import ArtifactError, ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run")
    made.open()
    yield made
    made.close()


def checkpoint(value: float = 0.0) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.full((3,), value)}, "optimizer": {}}, {"value": value})


def save(run: Run, fit: int, epoch: int = 0, step: int = 0, *, finished: bool = False) -> Path:
    return run.save(checkpoint(fit * 100 + epoch), fit=fit, epoch=epoch, step=step, finished=finished)


def damage(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


# ------------------------------------------------------------------------------------------------ checkpoints


def test_what_was_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
        "double": torch.randn(2, dtype=torch.float64),
    }
    state = {"epoch": 3, "losses": [0.1, 1e-300, float("inf")], "name": "Über", "nested": {"a": [None, True]}}
    Checkpoint({"model": tensors, "optimizer": {}}, state).write(tmp_path / "c")
    got = Checkpoint.read(tmp_path / "c")
    assert got.state == state
    assert got.tensors["optimizer"] == {}
    assert got.tensors["model"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got.tensors["model"][name].dtype == tensor.dtype
        assert torch.equal(got.tensors["model"][name], tensor)


def test_it_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    checkpoint().write(tmp_path / "c")
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_tied_weights_and_views_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    w = torch.arange(12.0).view(3, 4)
    tensors = {"tied": w, "tied_too": w, "transposed": w.T, "row": w[1], "alias": w.view(-1)}
    Checkpoint({"model": tensors}, {}).write(tmp_path / "c")
    got = Checkpoint.read(tmp_path / "c").tensors["model"]
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor), name
    huge = torch.zeros(1_000_000)
    Checkpoint({"model": {"corner": huge[:2]}}, {}).write(tmp_path / "d")
    assert (tmp_path / "d" / "model.safetensors").stat().st_size < 1000


def test_parameters_that_learn_are_written_like_others(tmp_path: Path) -> None:
    Checkpoint({"model": {"p": torch.nn.Parameter(torch.ones(2))}}, {}).write(tmp_path / "c")
    assert not Checkpoint.read(tmp_path / "c").tensors["model"]["p"].requires_grad


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoint(1).write(tmp_path / "c")
    with pytest.raises(TypeError):
        Checkpoint({"model": {"w": torch.zeros(3)}}, {"not plain": object()}).write(tmp_path / "c")
    assert Checkpoint.read(tmp_path / "c").state == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_every_byte_is_verified_when_it_is_read(tmp_path: Path, name: str) -> None:
    checkpoint().write(tmp_path / "c")
    content = bytearray((tmp_path / "c" / name).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "c" / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"checkpoint {tmp_path}/c is damaged: .*{re.escape(name)}"):
        Checkpoint.read(tmp_path / "c")


# ------------------------------------------------------------------------------------------------ which ones stay


def test_of_the_checkpoints_on_the_way_the_last_two_stay(run: Run) -> None:
    for step in range(5):
        save(run, fit=0, step=step)
    assert run.names() == ["fit-0001-epoch-0000-step-00000003", "fit-0001-epoch-0000-step-00000004"]


def test_the_end_of_every_fit_stays_and_takes_the_place_of_those_on_the_way(run: Run) -> None:
    save(run, fit=0, step=1)
    save(run, fit=0, epoch=1, finished=True)
    assert run.names() == ["fit-0001-done"]
    save(run, fit=1, step=1)
    assert run.names() == ["fit-0001-done", "fit-0002-epoch-0000-step-00000001"]
    save(run, fit=1, epoch=1, finished=True)
    assert run.names() == ["fit-0001-done", "fit-0002-done"]


def test_an_old_one_is_removed_only_when_the_new_one_is_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, fit=0, step=0)
    save(run, fit=0, step=1)
    there: list[list[str]] = []
    remove = run_module.remove_sealed
    monkeypatch.setattr(run_module, "remove_sealed", lambda path: (there.append(run.names()), remove(path)))
    save(run, fit=0, step=2)
    assert [len(names) for names in there] == [3]
    assert run.read(run.names()[-1]).state == {"value": 0}


def test_a_run_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep=0: a run needs at least 1 checkpoint to go on from"):
        Run(tmp_path, keep=0)


def test_they_are_ordered_by_time_and_not_as_text(run: Run) -> None:
    for fit, epoch, step in [(0, 9999, 1), (0, 10000, 0), (10000, 0, 5), (1, 2, 3)]:
        checkpoint().write(run.checkpoints / f"fit-{fit + 1:04d}-epoch-{epoch:04d}-step-{step:08d}")
    checkpoint().write(run.checkpoints / "fit-0001-done")
    (run.checkpoints / "fit-notes").mkdir()  # somebody's
    assert run.names() == [
        "fit-0001-epoch-9999-step-00000001",
        "fit-0001-epoch-10000-step-00000000",
        "fit-0001-done",
        "fit-0002-epoch-0002-step-00000003",
        "fit-10001-epoch-0000-step-00000005",
    ]


# ------------------------------------------------------------------------------------------------ which one is next


def test_the_newest_is_the_one_to_go_on_from(run: Run) -> None:
    assert run.latest() is None
    save(run, fit=0, step=1)
    save(run, fit=0, step=2)
    assert run.latest() == "fit-0001-epoch-0000-step-00000002"
    save(run, fit=0, epoch=1, finished=True)
    assert run.latest() == run.finished(0) == "fit-0001-done"
    assert run.finished(1) is None


def test_a_damaged_one_is_named_in_a_warning_and_the_one_before_it_is_used(run: Run) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    damage(second)
    said = (
        rf"checkpoint {second} is damaged: the content of model\.safetensors .*Going on from the checkpoint before it\."
    )
    with pytest.warns(UserWarning, match=said):
        assert run.latest() == first.name


def test_one_whose_file_is_missing_counts_as_damaged(run: Run) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    (second / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"is incomplete: state\.json is missing"):
        assert run.latest() == first.name
    shutil.rmtree(second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.latest() == first.name


def test_if_all_are_damaged_there_is_none(run: Run) -> None:
    for step in (1, 2):
        damage(save(run, fit=0, step=step))
    with pytest.warns(UserWarning, match="is damaged") as warned:
        assert run.latest() is None
    assert len(warned) == 2


def test_a_checkpoint_that_this_machine_does_not_see_is_explained(run: Run) -> None:
    with pytest.raises(
        ArtifactError, match="is not on this machine; the run directory must be on storage that all ranks share"
    ):
        run.read("fit-0001-done")


# ------------------------------------------------------------------------------------------------ opening


def test_opening_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / ".fit-0001-done.partial-0123abcd"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"x")
    run = Run(tmp_path)
    run.open()
    run.close()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_fresh_removes_the_run_and_leaves_what_else_is_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.open()
    save(run, fit=0, finished=True)
    run.close()
    for name in ("log.jsonl", "metrics.csv", "notes.txt", "tensorboard/events", "export/model.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    run.open(fresh=True)
    run.close()
    assert run.names() == []
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".lock", "export/model.json", "notes.txt"]


HOLD = """
import os, sys, time
from pathlib import Path
from dist_ai.checkpoint import Run

run = Run(Path(sys.argv[1]))
run.open()
if child := os.fork():
    print(child, flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_in_seconds_and_a_kill_gives_the_run_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        began = time.monotonic()
        said = rf"^process {holder.pid} is training in {tmp_path}; wait for it, stop it, or use another run directory$"
        with pytest.raises(ConfigError, match=said):
            Run(tmp_path).open(fresh=True)
        assert time.monotonic() - began < 10
        holder.kill()
        holder.wait()
        assert Path(f"/proc/{child}").exists()  # as a loader's worker outlives its rank for a moment
        run = Run(tmp_path)
        run.open()
        run.close()
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.communicate()


TRY = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def another_process_may_open(folder: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(folder / ".lock")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


def test_two_runs_of_one_process_hold_the_directory_until_both_are_gone(tmp_path: Path) -> None:
    first, second = Run(tmp_path), Run(tmp_path / "." / "sub" / "..")
    (tmp_path / "sub").mkdir()
    first.open()
    first.open()
    second.open()
    del first  # a Learner that a notebook made again
    assert not another_process_may_open(tmp_path)
    second.close()
    second.close()
    assert another_process_may_open(tmp_path)
