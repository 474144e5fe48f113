"""A training program on streamed data for the tests of stopping and going on: it writes down which rows each step had.

python streaming_program.py PARQUET_FOLDER SEEN_FOLDER
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_ai.callbacks import Callback
from dist_ai.data import DataLoader, DataLoaders, ParquetData
from dist_ai.distributed import current_world
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss

parquet, seen = sys.argv[1], Path(sys.argv[2])


def to_pair(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the model's input, with the row's number in front, and its target."""
    return torch.cat([batch["number"][:, None].float(), batch["x"]], 1), batch["label"]


class WriteDown(Callback):
    """Writes the rows of each step that is done into a file; makes a step last long enough to be hit by a kill."""

    may_cancel = False

    def after_batch(self) -> None:
        """Writes."""
        if self.state.training:
            count = self.state.share.num_local
            rows = self.state.xb[0][:count, 0].int().tolist()
            rank = current_world().rank
            name = f"{self.state.epoch}-{self.state.step:03d}-{rank}-{os.environ['TRY']}"
            (seen / name).write_text(json.dumps(rows))
            time.sleep(0.04)


torch.set_num_threads(1)
torch.manual_seed(1)
data = ParquetData(parquet, buffer_bytes=16_000)
dls = DataLoaders(
    DataLoader(data, 16, shuffle=True, seed=7, num_workers=1, batch_tfms=to_pair),
    DataLoader(data, 64, num_workers=0, batch_tfms=to_pair),
)
model = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3))
learn = Learner(dls, model, CrossEntropyLoss(), cbs=WriteDown(), checkpoint_every_s=None, checkpoint_every_steps=4)
learn.fit(2, 0.001)
