"""A training program for the tests of leaving when asked: ``python leaving_program.py WEIGHTS_FILE WHEN NUMBER RANK``.

With WHEN, one rank sends itself signal NUMBER in the middle of the second step (``train``) or validation (``valid``).
"""

import os
import sys

import torch
from safetensors.torch import save_file
from torch import nn

from dist_ai.callbacks import Callback
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss

weights, when, number, rank = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class Asked(Callback):
    """Sends this process a signal, as a scheduler does."""

    may_cancel = False

    def after_pred(self) -> None:
        """Sends it."""
        here = self.state.training == (when == "train") and self.state.epoch == 1 and self.state.step == 1
        if here and when != "never" and self.learn.collectives.world.rank == rank:
            os.kill(os.getpid(), number)


torch.set_num_threads(1)
torch.manual_seed(1)
x = torch.randn(149, 8)
y = x[:, :4].argmax(1)
dls = DataLoaders(DataLoader(TensorData(x, y), 16, shuffle=True, seed=7), DataLoader(TensorData(x, y), 4))
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
learn = Learner(dls, model, CrossEntropyLoss(), cbs=Asked(), checkpoint_every_s=None)
learn.fit_one_cycle(3, 0.02)
if learn.collectives.world.is_main:
    save_file(learn.model.state_dict(), weights)
    print("final", learn.recorder.epochs[-1]["valid_loss"])
