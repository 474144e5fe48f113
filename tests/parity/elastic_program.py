"""A training program for the tests of runs that become smaller and larger: float64, and it writes down what it has seen.

    python elastic_program.py SEEN_FOLDER

The third of three ranks kills itself, in the first two attempts.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from toy import make_dls, make_learner, make_model

from dist_ai.callbacks import Callback
from dist_ai.optimizer import Adam

N_EPOCH = 12


class Sees(Callback):
    """Notes which samples this rank trains on in a step, and makes steps last long enough to be told something."""

    may_cancel = False

    def before_batch(self) -> None:
        """Notes them, under the attempt: a step that is done again counts as it was done last."""
        if not self.state.training:
            return
        world, step = self.learn.collectives.world, self.state.train_step
        folder = Path(sys.argv[1]) / f"{step:04d}" / f"{world.attempt:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        share = self.state.share
        mine = "" if share is None else " ".join(str(index) for index in share.indices[: share.num_local])
        (folder / f"{world.rank}-of-{world.world_size}").write_text(mine)
        if world.rank == 2 and world.attempt < 2 and step == 2 + 2 * world.attempt:
            os.kill(os.getpid(), signal.SIGKILL)
        if world.world_size == 2:
            time.sleep(0.1)


torch.set_num_threads(1)
learn = make_learner(
    dls=make_dls(bs=6),
    model=make_model(batch_norm=True),
    opt_func=Adam,
    run_dir="auto",
    checkpoint_every_s=None,
    checkpoint_every_steps=1,
    cbs=Sees(),
)
learn.fit_one_cycle(N_EPOCH, 0.05)
