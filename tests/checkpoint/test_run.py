"""A run's directory: which checkpoints stay, the newest sound one is found, and one process trains in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import DAMAGES, damage

from dist_ai.checkpoint import Checkpoint, Growing, KeepBest, Run, Saver
from dist_ai.checkpoint import run as run_module
from dist_ai.distributed import join
from dist_ai.errors import ArtifactError, ConfigError, StorageError, WorldError


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run")
    made.open()
    yield made
    made.close()


def save(
    run: Run,
    fit: int,
    epoch: int = 0,
    step: int = 0,
    *,
    finished: bool = False,
    metrics: dict[str, float] | None = None,
) -> Path:
    name = run.name(fit=fit, epoch=epoch, step=step, finished=finished)
    saver = Saver(run, join())
    saver.save(
        name, {"model": {"w": torch.full((3,), float(step))}}, {"value": [fit, epoch, step], "metrics": metrics or {}}
    )
    saver.wait()
    return Path(run.storage.place) / name


def name_of(found: Checkpoint | None) -> str | None:
    return None if found is None else found.name


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
    remove = run.storage.remove_folder
    monkeypatch.setattr(run.storage, "remove", lambda _: there.append(run.names()))
    monkeypatch.setattr(run.storage, "remove_folder", lambda path: (there.append(run.names()), remove(path)))
    save(run, fit=0, step=2)
    assert [len(names) for names in there] == [3, 3]
    assert run.checkpoint(run.names()[-1]).state["value"] == [0, 0, 2]


def test_the_best_stay_beside_the_last(tmp_path: Path) -> None:
    run = Run(tmp_path, keep=1, keep_best=KeepBest("accuracy", count=2))
    for epoch, accuracy in enumerate([0.5, 0.9, float("nan"), 0.7, 0.8, 0.1]):
        save(run, fit=0, epoch=epoch + 1, metrics={"accuracy": accuracy})
    save(run, fit=0, epoch=6, step=3)  # in the middle of an epoch there are no metrics
    assert [name.split("-")[3] for name in run.names()] == ["0002", "0005", "0006"]
    save(run, fit=0, epoch=7, finished=True, metrics={"accuracy": 0.2})
    assert [name[:19] for name in run.names()] == ["fit-0001-epoch-0002", "fit-0001-epoch-0005", "fit-0001-done"]
    again = Run(tmp_path, keep=1, keep_best=KeepBest("accuracy", count=1))  # as after a restart
    save(again, fit=1, epoch=1, metrics={"accuracy": 0.3})
    assert [name[:19] for name in again.names()] == ["fit-0001-epoch-0002", "fit-0001-done", "fit-0002-epoch-0001"]


def test_less_is_better_for_losses_and_errors_unless_it_is_said() -> None:
    rows = {
        "a": {"valid_loss": 1.0, "error_rate": 0.1, "f1": 0.5},
        "b": {"valid_loss": 2.0, "error_rate": 0.2, "f1": 0.9},
    }
    assert KeepBest().of(rows) == KeepBest("error_rate").of(rows) == ["a"]
    assert KeepBest("f1").of(rows) == KeepBest("valid_loss", lower=False).of(rows) == ["b"]
    assert KeepBest("f1", count=3).of(rows) == ["b", "a"]
    assert KeepBest("unknown").of(rows) == []
    with pytest.raises(ConfigError, match=r"KeepBest\(count=0\): expected 1 or more"):
        KeepBest(count=0)


def test_a_pinned_one_stays_until_it_is_unpinned(run: Run) -> None:
    for step in range(3):
        save(run, fit=0, step=step)
        run.pin("fit-0001-epoch-0000-step-00000000")
    assert run.is_pinned("fit-0001-epoch-0000-step-00000000")
    save(run, fit=0, epoch=1, finished=True)
    assert run.names() == ["fit-0001-epoch-0000-step-00000000", "fit-0001-done"]
    run.checkpoint("fit-0001-epoch-0000-step-00000000").verify()
    with pytest.raises(ConfigError, match=r"holds checkpoints that are pinned \(fit-0001-epoch-0000-step-00000000\)"):
        run.open(fresh=True)
    run.pin("fit-0001-epoch-0000-step-00000000", stays=False)
    save(run, fit=1, epoch=1, finished=True)
    assert run.names() == ["fit-0001-done", "fit-0002-done"]
    with pytest.raises(ConfigError, match="has no checkpoint 'fit-0003-done'; did you mean 'fit-000"):
        run.pin("fit-0003-done")


def test_what_cannot_be_removed_is_told_and_the_training_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(2):
        save(run, fit=0, step=step)

    def refuse(_: str) -> None:
        raise StorageError("s3://bucket: removing it failed 4 times")

    monkeypatch.setattr(run.storage, "remove", refuse)
    with pytest.warns(UserWarning, match="old checkpoints in .* could not be removed: .*failed 4 times"):
        save(run, fit=0, step=2)
    monkeypatch.undo()
    save(run, fit=0, step=3)
    assert len(run.names()) == 2


def test_the_same_name_is_replaced_when_the_new_one_is_complete(run: Run) -> None:
    first = save(run, fit=0, step=1)
    old = {path.name for path in first.iterdir()}
    second = save(run, fit=0, step=1)
    assert first == second
    assert len([path for path in second.iterdir() if path.name not in old]) == 1  # the shard; the manifest was replaced
    assert len(list(second.iterdir())) == 2
    run.checkpoint(second.name).verify()


# ------------------------------------------------------------------------------------------------ what grows


def grow(saver: Saver, run: Run, num_rows: int) -> str:
    rows = Growing([float(i) for i in range(num_rows)], torch.float64)
    name = run.name(fit=0, epoch=0, step=num_rows, finished=False)
    saver.save(name, {"model": {"w": torch.zeros(1)}, "callbacks": {"losses": rows}}, {"metrics": {}})
    saver.wait()
    return name


def test_checkpoints_of_a_long_run_share_what_they_have_in_common(run: Run) -> None:
    saver, written = Saver(run, join()), 0
    sizes: set[str] = set()
    for num_rows in range(10, 1001, 10):
        name = grow(saver, run, num_rows)
        new = {path: size for path, size in run.storage.sizes("history").items() if path not in sizes}
        written += sum(new.values())
        sizes |= set(new)
    found = run.checkpoint(name)
    assert len(found.manifest.tensors["callbacks/losses"].chunks) <= 7  # log2(100)
    assert torch.equal(found.read("callbacks")["losses"], torch.arange(1000.0, dtype=torch.float64))
    # All of it every time would be 400 kB; each row is written log2(100) times at most, and each file has a header.
    assert written - 100 * 160 < 8 * 1000 * 7
    # And nothing stays that no checkpoint needs.
    needed = {file.name for each in run.names() for file in run.checkpoint(each).manifest.files}
    assert set(run.storage.sizes("history")) == {each for each in needed if each.startswith("history/")}


def test_a_run_that_goes_on_shares_with_the_checkpoint_that_it_goes_on_from(run: Run) -> None:
    saver = Saver(run, join())
    for num_rows in (100, 110, 111):
        name = grow(saver, run, num_rows)
    before = run.checkpoint(name).manifest.tensors["callbacks/losses"].chunks
    again = Saver(run, join())
    again.go_on_from(run.checkpoint(name))
    name = grow(again, run, 112)
    after = run.checkpoint(name).manifest.tensors["callbacks/losses"].chunks
    assert [chunk.box.shape for chunk in after] == [(100,), (10,), (2,)]
    assert after[:2] == before[:2]
    run.checkpoint(name).verify()


def test_rows_that_began_anew_are_written_anew(run: Run) -> None:
    saver = Saver(run, join())
    grow(saver, run, 100)
    found = run.checkpoint(grow(saver, run, 5))
    assert found.read("callbacks")["losses"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("harm", ["missing", "flipped"])
def test_damage_of_what_is_shared_is_damage_of_all_that_share_it(run: Run, harm: str) -> None:
    saver = Saver(run, join())
    grow(saver, run, 100)
    grow(saver, run, 110)
    _, second = sorted((run.directory / "checkpoints" / "history").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if harm == "missing":
        second.unlink()
    else:
        second.write_bytes(second.read_bytes()[:-1] + b"\xff")
    with pytest.warns(UserWarning, match="step-00000110 is .*history/"):
        assert name_of(run.latest()) == "fit-0001-epoch-0000-step-00000100"


def test_a_run_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep=0: a run needs at least 1 checkpoint to go on from"):
        Run(tmp_path, keep=0)


def test_they_are_ordered_by_time_and_not_as_text(run: Run) -> None:
    for fit, epoch, step in [(0, 9999, 1), (0, 10000, 0), (10000, 0, 5), (1, 2, 3)]:
        run.storage.write(f"{run.name(fit=fit, epoch=epoch, step=step, finished=False)}/manifest.json", [])
    run.storage.write("fit-0001-done/manifest.json", [])
    (run.directory / "checkpoints" / "fit-notes").mkdir()  # somebody's
    assert run.names() == [
        "fit-0001-epoch-9999-step-00000001",
        "fit-0001-epoch-10000-step-00000000",
        "fit-0001-done",
        "fit-0002-epoch-0002-step-00000003",
        "fit-10001-epoch-0000-step-00000005",
    ]


# ------------------------------------------------------------------------------------------------ which one is next


def test_the_newest_is_the_one_to_go_on_from(run: Run) -> None:
    assert name_of(run.latest()) is None
    save(run, fit=0, step=1)
    save(run, fit=0, step=2)
    assert name_of(run.latest()) == "fit-0001-epoch-0000-step-00000002"
    save(run, fit=0, epoch=1, finished=True)
    assert name_of(run.latest()) == name_of(run.finished(0)) == "fit-0001-done"
    assert run.finished(1) is None


def test_a_damaged_one_is_named_in_a_warning_and_the_one_before_it_is_used(run: Run) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    damage(second)
    said = rf"checkpoint {second} is damaged: the content of rank-00000.*Going on from the checkpoint before it, {first.name}\."
    with pytest.warns(UserWarning, match=said):
        assert name_of(run.latest()) == first.name


def test_one_whose_file_is_missing_counts_as_damaged(run: Run) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    next(second.glob("rank-*")).unlink()
    with pytest.warns(UserWarning, match=r"is not complete: rank-00000.* is missing"):
        assert name_of(run.latest()) == first.name
    shutil.rmtree(second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name_of(run.latest()) == first.name


def test_if_all_are_damaged_the_run_does_not_begin_anew_unasked(run: Run) -> None:
    for step in (1, 2):
        damage(save(run, fit=0, step=step))
    oldest = (
        r"step-00000001 is damaged: .*There is none before it to go on from\. To begin anew there use DIST_AI_FRESH=1"
    )
    with (
        pytest.warns(UserWarning, match=r"Going on from the checkpoint before it, fit-0001-epoch-0000-step-00000001\."),
        pytest.raises(ArtifactError, match=oldest),
    ):
        run.latest()


@pytest.mark.parametrize(
    ("name", "content"), [("log.jsonl", '{"event": 1}\n'), ("log.jsonl", "[1]\n"), ("metrics.csv", "epoch,loss\n")]
)
@pytest.mark.parametrize("fresh", [False, True])
def test_another_programs_logs_are_neither_written_over_nor_removed(
    run: Run, name: str, content: str, fresh: bool
) -> None:
    run.directory.mkdir(exist_ok=True)
    (run.directory / name).write_text(content)
    said = (
        rf"{name} is there, and no run of dist_ai wrote it: it begins with .*, expected .*; use another run directory"
    )
    with pytest.raises(ConfigError, match=said):
        run.open(fresh=fresh)
    assert (run.directory / name).read_text() == content


def test_a_log_whose_first_line_was_cut_short_is_ours(run: Run) -> None:
    run.directory.mkdir(exist_ok=True)
    (run.directory / "log.jsonl").write_text('{"ki')
    run.open()


@pytest.mark.parametrize("what", DAMAGES)
def test_after_damage_of_every_kind_the_one_before_it_is_used(run: Run, what: str) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    harm, named = DAMAGES[what]
    harm(second, first)
    if what == "manifest missing":  # then it is none, as one that was being written when its program was killed
        with pytest.warns(UserWarning, match=rf"checkpoint {second} is not complete: {named}, .* it is removed"):
            run.open()
        assert name_of(run.latest()) == first.name
        return
    with pytest.warns(
        UserWarning, match=rf"checkpoint {second} .*{named}.*Going on from the checkpoint before it, {first.name}\."
    ):
        assert name_of(run.latest()) == first.name
    save(run, fit=0, step=2)  # the same step comes again
    assert name_of(run.latest()) == second.name


def test_files_that_are_not_its_own_are_told_and_do_no_harm(run: Run) -> None:
    first = save(run, fit=0, step=1)
    (first / "model.pt").write_bytes(b"x")
    with pytest.warns(
        UserWarning, match=rf"checkpoint {first} has files that are not its own and are not read: model\.pt"
    ):
        assert name_of(run.latest()) == first.name


def test_a_store_that_does_not_answer_is_no_reason_to_go_on_from_an_older_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, fit=0, step=1)
    save(run, fit=0, step=2)

    def gone(*_: Any) -> int:
        raise StorageError("s3://bucket: reading x failed 4 times")

    monkeypatch.setattr(run.storage, "read_into", gone)
    with pytest.raises(StorageError, match="reading x failed 4 times"):
        run.latest()


def find_on_ranks(folder: str) -> tuple[str | None, int, list[str]]:
    """Returns the name found, how many chunks this rank verified, and the warnings here."""
    run = Run(Path(folder))
    verified: list[int] = []
    whole = Checkpoint.read_chunk
    Checkpoint.read_chunk = lambda *args, **rest: (verified.append(1), whole(*args, **rest))[1]  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = run.latest(join())
    return name_of(found), len(verified), [str(each.message) for each in told]


def test_ranks_share_the_verification_and_agree_on_what_they_go_on_from(spawn: Any, run: Run) -> None:
    first, second = save(run, fit=0, step=1), save(run, fit=0, step=2)
    assert spawn(3, find_on_ranks, folder=str(run.directory)) == [
        (second.name, int(rank == 0), []) for rank in range(3)
    ]
    damage(second)  # in its only chunk, which is rank 0's to look at
    got = spawn(3, find_on_ranks, folder=str(run.directory))
    assert [name for name, *_ in got] == [first.name] * 3
    assert [len(told) for *_, told in got] == [1, 0, 0]


def look_for_each_other(folders: list[str]) -> str:
    ranks = join()
    run_module._SHARED_WAIT_S = 0.3
    run = Run(Path(folders[ranks.world.rank]))
    try:
        run.check_shared(ranks)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_directory_that_not_all_ranks_see_is_an_error_at_once(spawn: Any, tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert spawn(3, look_for_each_other, folders=[one] * 3) == [""] * 3
    said = spawn(3, look_for_each_other, folders=[one, one, other])
    assert said[0] == said[1]
    assert said[0].startswith(f"rank(s) 2 do not see in {one}/checkpoints what rank 0 writes there")
    assert said[2].startswith(f"rank(s) 2 do not see in {other}/checkpoints what rank 0 writes there")
    assert "s3://bucket/run" in said[0]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------------ opening


def test_opening_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.open()
    complete = save(run, fit=0, step=5)
    for name in ("fit-0001-epoch-0000-step-00000003", "fit-0001-done"):
        half = tmp_path / "checkpoints" / name
        half.mkdir()
        (half / "rank-00000-of-00001.0123abcd-1.safetensors").write_bytes(b"x")
    # The older one was being removed; the newer one would have been the one to go on from, so it is told.
    with pytest.warns(
        UserWarning, match="fit-0001-done is not complete: manifest.json, .* is missing; it is removed"
    ) as told:
        run.open()
    run.close()
    assert len(told) == 1
    assert list((tmp_path / "checkpoints").iterdir()) == [complete]


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


@pytest.mark.world_size(2)
def test_storage_that_rank_0_cannot_reach_is_an_error_on_all_ranks() -> None:
    run, ranks = Run(Path("nowhere")), join()

    def unreachable(*, complete: bool = False) -> list[str]:
        raise StorageError("s3://nowhere cannot be reached")

    run.names = unreachable  # type: ignore[method-assign]  # a store that fails
    for look in (run.latest, lambda ranks: run.finished(0, ranks)):
        with pytest.raises((StorageError, WorldError), match="s3://nowhere cannot be reached"):
            look(ranks)
    assert ranks.all_reduce(torch.ones(1)).tolist() == [2.0]
