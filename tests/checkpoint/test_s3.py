"""Checkpoints in an object store, against a server that speaks S3 on this machine."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import give_back_run_directories, make_learner, weights_of

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import Checkpoint, Run, open_storage, write_consolidated

pytestmark = pytest.mark.slow
pytest.importorskip("moto", reason="the server is an extra: pip install -e '.[store-tests]'")


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Starts a server with an empty bucket; yields its process and a function's worth of URI options."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _make_bucket(port)
        yield process, f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        process.kill()
        process.wait()


def _make_bucket(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("PUT", "/bucket")
            assert connection.getresponse().status == 200
            connection.close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)


class Stop(Exception):
    """The end of a program."""


class At(Callback):
    """Does something before a training step."""

    may_cancel = False

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def before_batch(self) -> None:
        if self.state.training and self.state.train_step == self.step:
            self.act()


def stop() -> None:
    raise Stop


def train(uri: str, folder: str, stop_at: int | None = None) -> list[float]:
    import os

    os.chdir(folder)
    cbs = [] if stop_at is None else At(stop_at, stop)
    learn = make_learner(run_dir=uri, checkpoint_every_s=None, checkpoint_every_steps=2, cbs=cbs)
    try:
        learn.fit(2)
    except Stop:
        assert stop_at is not None
    return weights_of(learn.model).tolist()


def test_a_run_in_an_object_store_goes_on_on_another_number_of_ranks(
    server: tuple[Any, str], spawn: Any, tmp_path: Path
) -> None:
    expected = make_learner()
    expected.fit(2)
    uri = f"s3://key:secret@bucket/cats{server[1]}"
    spawn(2, train, uri=uri, folder=str(tmp_path), stop_at=5)
    checkpoints = uri.replace("cats?", "cats/checkpoints?")
    run = Run(tmp_path / "look", checkpoints)
    assert [name.rpartition("-")[2] for name in run.names()] == ["00000002", "00000001"]
    # Damage in the store costs the steps since the one before.
    newest = run.names()[-1]
    [shard] = [path for path in run.storage.sizes(newest) if "rank-00001" in path]
    run.storage.write(shard, [memoryview(b"x" * run.storage.sizes(newest)[shard])])
    for weights in spawn(3, train, uri=uri, folder=str(tmp_path)):
        assert weights == pytest.approx(weights_of(expected.model).tolist(), abs=1e-9)
    assert run.names() == ["fit-0001-done"]
    found = Checkpoint.open(uri.replace("cats?", "cats/checkpoints/fit-0001-done?"))
    found.verify()
    write_consolidated(found, tmp_path / "model.safetensors")
    stray = [path for path in open_storage(checkpoints).sizes() if not path.startswith(("fit-0001-done/", "history/"))]
    assert stray == []


def test_a_store_that_goes_away_is_told_and_the_training_ends(
    server: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dist_ai.checkpoint.storage.time.sleep", lambda _: None)
    expected = make_learner()
    expected.fit(2)
    process, options = server
    learn = make_learner(
        run_dir=f"s3://key:secret@bucket/cats{options}", checkpoint_every_s=None, cbs=At(4, process.kill)
    )
    with pytest.warns(
        UserWarning, match=r"fit-0001-done could not be written to s3://bucket/cats/checkpoints: .*The training"
    ):
        learn.fit(2)
    assert torch.equal(weights_of(learn.model), weights_of(expected.model))
    give_back_run_directories()
