"""A Ray cluster's workers: watched, told what to do, and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, wait_until

from dist_ai.distributed.mailbox import mailbox_at


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


TRAINS = """
    import os, signal, sys, time
    from pathlib import Path
    import torch
    from torch import nn
    from dist_ai.callbacks import Callback
    from dist_ai.data import DataLoader, DataLoaders, TensorData
    from dist_ai.distributed import join
    from dist_ai.learner import Learner
    from dist_ai.losses import CrossEntropyLoss

    class Slow(Callback):
        may_cancel = False
        def after_batch(self):
            if self.state.training:
                time.sleep(0.05)
                if self.state.train_step == 6 and join().world.rank == 1 and join().world.attempt == 0 and "die" in sys.argv:
                    self.learn.wait_for_checkpoint()
                    os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(1)
    x = torch.randn(64, 8)
    data = TensorData(x, x[:, :4].argmax(1))
    dls = DataLoaders(DataLoader(data, 8, shuffle=True, seed=7), DataLoader(data, 32))
    learn = Learner(
        dls, nn.Linear(8, 4), CrossEntropyLoss(), cbs=Slow(), checkpoint_every_s=None, checkpoint_every_steps=2, progress=False
    )
    learn.fit(int(sys.argv[1]), 0.1)
    print("world", join().world.world_size, "attempt", join().world.attempt, "steps", len(learn.recorder.losses), flush=True)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_a_run_again_that_lost_a_worker_and_it_can_be_told_to_stop(lab: Lab) -> None:
    lab.script("trains.py", TRAINS)
    process = lab.start_launch("trains.py", "--engine", "ray", "--workers", "2", "--max-restarts", "2", "1000", "die")
    mailbox = mailbox_at(lab.folder / "runs/trains")
    there = wait_until(lambda: any(each.step > 8 for each in mailbox.statuses()), within_s=250)
    assert [each.rank for each in mailbox.statuses()] == [0, 1]
    number = mailbox.send("set", {"lr": 0.01}).number
    stop = mailbox.send("stop").number
    wait_until(lambda: stop in mailbox.answers(), within_s=60)
    out, err = process.communicate(timeout=120)
    assert there, err
    answers = mailbox.answers()
    assert answers[number].ok
    assert answers[stop].ok
    assert "restart 1 of 2" in err
    assert "goes on at epoch 0, step" in out
    assert process.returncode == 143, err
    assert f"{lab.folder}/runs/trains: the command to stop came; a checkpoint is written, to go on from" in out
