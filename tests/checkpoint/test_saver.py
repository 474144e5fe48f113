"""Saving beside the training: what it waits for, what it does not, and what happens when a storage or a rank fails."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import read_all, save, shards
from toy import give_back_run_directories, make_learner, weights_of

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import Checkpoint, Run, Saver
from dist_ai.checkpoint.storage import LocalStorage
from dist_ai.distributed import join
from dist_ai.errors import CollectiveError, StorageError


class Gated(LocalStorage):
    """A storage whose writes wait until the gate is open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        assert self.gate.wait(30)
        super().write(path, pieces)


class Full(LocalStorage):
    """A disk that is full after so many bytes."""

    def __init__(self, folder: Path, room: int) -> None:
        super().__init__(folder)
        self.room = room

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        self.room -= sum(len(piece) for piece in pieces)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        super().write(path, pieces)


def run_in(folder: Path, storage: LocalStorage | None = None) -> Run:
    run = Run(folder)
    if storage is not None:
        run.storage = storage
    return run


def model(value: float = 0.0) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((64, 8), value), "b": torch.full((64,), value)}}


def name(step: int) -> str:
    return f"fit-0001-epoch-0000-step-{step:08d}"


# ------------------------------------------------------------------------------------ beside the training


def test_the_training_goes_on_while_it_is_written_and_what_it_changes_is_not_in_it(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver = Saver(run_in(tmp_path, storage), join())
    values, state = model(1.0), {"metrics": {}, "losses": [1.0]}
    saver.save("c", values, state)
    assert saver.busy
    assert not (tmp_path / "c" / "manifest.json").exists()
    values["model"]["w"].zero_()
    state["losses"].append(2.0)  # type: ignore[attr-defined]
    storage.gate.set()
    saver.wait()
    assert not saver.busy
    found = Checkpoint.open(tmp_path / "c")
    assert found.state["losses"] == [1.0]
    assert bool((found.read("model")["w"] == 1).all())


def test_one_is_written_at_a_time(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    run = run_in(tmp_path, storage)
    saver = Saver(run, join())
    saver.save(name(1), model(1.0), {"metrics": {}})
    threading.Timer(0.2, storage.gate.set).start()
    began = time.monotonic()
    saver.save(name(2), model(2.0), {"metrics": {}})
    assert time.monotonic() - began > 0.1
    assert run.names()[0] == name(1)
    saver.wait()
    assert run.names() == [name(1), name(2)]
    assert float(run.checkpoint(name(1)).read("model")["b"][0]) == 1.0  # the memory for copies is used again


@pytest.mark.gpu
def test_on_a_gpu_the_host_does_not_wait_and_what_the_training_does_next_is_not_in_it(tmp_path: Path) -> None:
    values = {"model": {"w": torch.ones(2**26, device="cuda"), "t": torch.randn(300, 500, device="cuda").T}}
    transposed = values["model"]["t"].cpu()
    saver = Saver(run_in(tmp_path), join())
    for value in (1.0, 2.0):
        values["model"]["w"].fill_(value)
        saver.save("c", values, {"metrics": {}})
        values["model"]["w"].zero_()  # on the training's stream, after the copies
        values["model"]["t"].zero_()
        assert saver._buffer._memory.is_pinned()
        saver.wait()
        got = Checkpoint.open(tmp_path / "checkpoints" / "c").read("model")
        assert bool((got["w"] == value).all())
        assert torch.equal(got["t"], transposed)
        values["model"]["t"].copy_(transposed)


def test_host_memory_is_taken_once(tmp_path: Path) -> None:
    saver = Saver(run_in(tmp_path), join())
    places = set()
    for step in range(3):
        saver.save(name(step), model(), {"metrics": {}})
        saver.wait()
        places.add(saver._buffer._memory.data_ptr())
    assert len(places) == 1


def test_state_that_is_no_plain_data_is_an_error_in_the_loop(tmp_path: Path) -> None:
    saver = Saver(run_in(tmp_path), join())
    with pytest.raises(TypeError, match="not JSON serializable"):
        saver.save("c", model(), {"opt": object()})
    assert list(tmp_path.iterdir()) == []


def write_a_part(folder: str) -> tuple[int, list[str]]:
    """Returns how many bytes this rank wrote, and the files there are."""
    tensors = {f"{i}.weight": torch.full((256, 64), float(i)) for i in range(5)}
    checkpoint = save(Path(folder), {"model": tensors})
    rank = join().world.rank
    [mine] = [file for file in shards(checkpoint) if file.name.startswith(f"rank-{rank:05d}-of-")]
    got = read_all(checkpoint)["model"]
    assert all(torch.equal(got[key], tensor) for key, tensor in tensors.items())
    return mine.stat().st_size, sorted(file.name[:19] for file in checkpoint.iterdir())


def test_each_rank_writes_its_part_and_they_are_equal(spawn: Any, tmp_path: Path) -> None:
    [(alone, _)] = spawn(1, write_a_part, folder=str(tmp_path / "1"))
    sizes = [size for size, _ in spawn(3, write_a_part, folder=str(tmp_path / "3"))]
    assert max(sizes) < alone / 3 * 1.02
    assert sorted(file.name[:19] for file in (tmp_path / "3" / "c").iterdir()) == [
        "manifest.json",
        *(f"rank-{rank:05d}-of-00003" for rank in range(3)),
    ]


# ------------------------------------------------------------------------------------ what fails


@pytest.mark.parametrize("room", [0, 2600])  # not even for the shard; for the shard and not the manifest
def test_a_full_disk_costs_a_checkpoint_and_nothing_else(tmp_path: Path, room: int) -> None:
    run = Run(tmp_path)
    saver = Saver(run, join())
    saver.save(name(1), model(1.0), {"metrics": {}})
    saver.wait()
    before = sorted(tmp_path.rglob("*"))
    run.storage = Full(tmp_path / "checkpoints", room)
    saver.save(name(2), model(2.0), {"metrics": {}})
    said = (
        rf"{name(2)} could not be written to .*No space left on device.*The training goes on; the last complete one is "
    )
    with pytest.warns(UserWarning, match=said + name(1)):
        saver.wait()
    assert -1000 < run.storage.room < 0 or room == 0  # the manifest is what did not fit
    assert sorted(tmp_path.rglob("*")) == before
    run.storage = LocalStorage(tmp_path / "checkpoints")
    saver.save(name(3), model(3.0), {"metrics": {}})
    saver.wait()
    assert run.names() == [name(1), name(3)]


def fill_the_disk_of(rank: int, folder: str) -> tuple[list[str], list[str], list[str]]:
    """Returns the complete checkpoints after one that failed, the files there were then, and what was told."""
    ranks = join()
    run = Run(Path(folder))
    saver = Saver(run, ranks)
    saver.save(name(1), model(1.0), {"metrics": {}})
    saver.wait()
    sound = run.storage
    if ranks.world.rank == rank:
        run.storage = Full(Path(sound.place), 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        saver.save(name(2), model(2.0), {"metrics": {}})
        saver.wait()
    ranks.barrier()
    left = sorted(run.storage.sizes(name(2)))
    ranks.barrier()
    run.storage = sound
    saver.save(name(3), model(3.0), {"metrics": {}})
    saver.wait()
    return run.names(), left, [str(each.message) for each in told]


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_rank_cannot_write_all_give_it_up_and_go_on(spawn: Any, tmp_path: Path, rank: int) -> None:
    got = spawn(2, fill_the_disk_of, rank=rank, folder=str(tmp_path))
    assert [names for names, *_ in got] == [[name(1), name(3)]] * 2
    assert [left for _, left, _ in got] == [[], []]
    (told,), none = [told for *_, told in got]
    assert f"rank {rank}: [Errno 28] No space left on device" in told
    assert none == []


def die_while_the_other_saves(folder: str) -> None:
    ranks = join()
    saver = Saver(Run(Path(folder)), ranks)
    if ranks.world.rank == 1:
        saver._run.storage.write = lambda *_: os._exit(0)  # type: ignore[method-assign]
    saver.save(name(1), model(), {"metrics": {}})
    try:
        saver.wait()
    except CollectiveError as error:
        (Path(folder) / "told").write_text(str(error))


def test_a_rank_that_dies_while_it_saves_ends_the_wait_of_the_others(tmp_path: Path) -> None:
    from ranks import RankError, run_on_ranks

    began = time.monotonic()
    with pytest.raises(RankError, match="rank 1:\nthe process ended without an answer"):
        run_on_ranks(2, __file__, "die_while_the_other_saves", {"folder": str(tmp_path)})
    assert time.monotonic() - began < 30
    said = r"rank 0: \w+ number \d+ \(checkpoint fit-0001-epoch-0000-step-00000001\) failed .*rank\(s\) 1 did not take part"
    assert re.match(said, (tmp_path / "told").read_text())
    assert Run(tmp_path).names() == []


def disagree(folder: str) -> str:
    tensors = {"w": torch.zeros(4, 2), **({"more": torch.zeros(8)} if join().world.rank else {})}
    try:
        save(Path(folder), {"model": tensors})
    except StorageError as error:
        return str(error)
    return ""


def test_ranks_that_hold_different_models_are_told(spawn: Any, tmp_path: Path) -> None:
    said = spawn(2, disagree, folder=str(tmp_path))
    assert said[0] == said[1]
    assert said[0].startswith(f"c could not be written to {tmp_path}: another rank holds 'model/more'")
    assert not (tmp_path / "c").exists()


# ------------------------------------------------------------------------------------ in a fit


class Steps(Callback):
    """Does something at every training step."""

    may_cancel = False

    def __init__(self, act: Any) -> None:
        self.act = act

    def after_batch(self) -> None:
        if self.state.training:
            self.act(self)


def test_a_slow_store_does_not_hold_up_the_training_by_the_clock(tmp_path: Path) -> None:
    storage, seen = Gated(tmp_path / "checkpoints"), []

    def look(callback: Callback) -> None:
        seen.append(callback.learn.saving)
        if callback.state.train_step == 5:
            storage.gate.set()

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=0.0, cbs=Steps(look))
    learn._fits.keeper.run.storage = storage  # type: ignore[union-attr]  # with a run directory there is one
    began = time.monotonic()
    learn.fit(2)
    assert time.monotonic() - began < 25
    assert seen == [False, True, True, True, True, True]
    assert Run(tmp_path).names() == ["fit-0001-done"]


def test_a_store_that_fails_is_told_and_the_training_ends_as_if_it_had_not(tmp_path: Path) -> None:
    undisturbed = make_learner()
    undisturbed.fit(2)

    class Gone(LocalStorage):
        def write(self, path: str, pieces: Sequence[memoryview]) -> None:
            raise StorageError("s3://bucket: writing it failed 4 times; the last time: 503 Slow Down")

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=2)
    learn._fits.keeper.run.storage = Gone(tmp_path / "checkpoints")  # type: ignore[union-attr]  # as above
    said = r"could not be written .*503 Slow Down\. The training goes on; there is none before it"
    with pytest.warns(UserWarning, match=said) as told:
        learn.fit(2)
    assert len(told) == 4
    assert torch.equal(weights_of(learn.model), weights_of(undisturbed.model))
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == []


class Stop(Exception):
    """The end of a process, for a test that cannot afford one."""


def test_a_run_directory_may_be_a_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    undisturbed = make_learner()
    undisturbed.fit(2)

    def stop(callback: Callback) -> None:
        if callback.state.train_step == 4:
            raise Stop

    def learner(*cbs: Callback) -> Any:
        return make_learner(
            run_dir=f"memory://{tmp_path.name}/cats", checkpoint_every_s=None, checkpoint_every_steps=2, cbs=cbs
        )

    with pytest.raises(Stop):
        learner(Steps(stop)).fit(2)
    give_back_run_directories()
    learn = learner()
    learn.fit(2)
    assert "goes on at epoch 1, step 1" in capsys.readouterr().out
    assert torch.equal(weights_of(learn.model), weights_of(undisturbed.model))
    assert learn.run_dir == Path("runs/cats")
    assert sorted(path.name for path in learn.run_dir.iterdir()) == [
        ".lock",
        "control",
        "log.jsonl",
        "metrics.csv",
        "tensorboard",
    ]
    found = Checkpoint.open(f"memory://{tmp_path.name}/cats/checkpoints/fit-0001-done")
    found.verify()
    assert found.state["finished"]
