"""A training program of series for the test of stopping and going on: it kills itself at the step that KILL_AT names.

python series_program.py RUN_DIR WEIGHTS_FILE
"""

import os
import signal
import sys

import torch
from safetensors.torch import save_file
from series import uneven

from dist_ai.callbacks import Callback
from dist_ai.timeseries import Standardize, TSDataLoaders, ts_learner, ts_tfms


class KillAt(Callback):
    """Ends the process without a word after so many training batches."""

    may_cancel = False

    def __init__(self, step: int) -> None:
        self.left = step

    def after_batch(self) -> None:
        """Counts."""
        self.left -= self.state.training
        if self.left == 0:
            self.learn.wait_for_checkpoint()
            os.kill(os.getpid(), signal.SIGKILL)


torch.set_num_threads(1)
X, y = uneven(40)
dls = TSDataLoaders.from_arrays(X, y, pad=True, scale=Standardize(), batch_tfms=ts_tfms(), bs=8, num_workers=0)
learn = ts_learner(
    dls,
    "LSTM_FCN",
    config={"hidden": 8},
    dropout=0.3,
    cbs=KillAt(int(os.environ.get("KILL_AT", "0"))),
    run_dir=sys.argv[1],
    checkpoint_every_s=None,
    checkpoint_every_steps=3,
    progress=False,
)
learn.fit_one_cycle(3, 1e-2)
save_file({name: tensor.contiguous() for name, tensor in learn.model.state_dict().items()}, sys.argv[2])
