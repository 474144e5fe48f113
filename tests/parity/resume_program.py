"""A training program for the tests of stopping and going on: two fits, slow enough to be killed in the middle.

    python resume_program.py WEIGHTS_FILE [STEPS_BETWEEN_CHECKPOINTS]

It draws from torch's own generator too (`nn.Dropout`), whose state a checkpoint must hold.
"""

import sys
import time

import torch
from safetensors.torch import save_file
from torch import nn

from dist_ai.callbacks import Callback
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy


class Slow(Callback):
    """Makes a step last long enough for a kill to hit it."""

    may_cancel = False

    def after_batch(self) -> None:
        """Waits."""
        if self.state.training:
            time.sleep(0.03)


torch.set_num_threads(1)
torch.manual_seed(1)
x = torch.randn(149, 8)
y = x[:, :4].argmax(1)
dls = DataLoaders(
    DataLoader(TensorData(x, y), 16, shuffle=True, seed=7, num_workers=1),
    DataLoader(TensorData(x, y), 64, num_workers=0),
)
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
every = int(sys.argv[2]) if len(sys.argv) > 2 else 3
learn = Learner(
    dls, model, CrossEntropyLoss(), metrics=accuracy, cbs=Slow(), checkpoint_every_s=None, checkpoint_every_steps=every
)
learn.fit_one_cycle(2, 0.02)
learn.fit_one_cycle(2, 0.01)
if learn.collectives.world.is_main:
    print("final", learn.validate())
    save_file(learn.model.state_dict(), sys.argv[1])
else:
    learn.validate()
