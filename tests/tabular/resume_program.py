"""A training program for the test of stopping and going on: a table with BatchNorm and dropout, and choices with drawn items.

python resume_program.py WEIGHTS_FILE
"""

import sys
import time

import pandas as pd
import torch
from safetensors.torch import save_file

from dist_ai.callbacks import Callback
from dist_ai.collab import CollabDataLoaders, collab_learner
from dist_ai.tabular import TabularDataLoaders, tabular_learner


class Slow(Callback):
    """Makes a step last long enough for a kill to hit it."""

    may_cancel = False

    def after_batch(self) -> None:
        """Waits."""
        if self.state.training:
            time.sleep(0.03)


torch.set_num_threads(1)
frame = pd.DataFrame({"kind": [f"k{i % 7}" for i in range(160)], "x": [i % 11 / 3 for i in range(160)]})
frame["y"] = frame["x"] + (frame["kind"] == "k3")
dls = TabularDataLoaders.from_df(frame, cat_names="kind", cont_names="x", y_names="y", bs=16)
learn = tabular_learner(dls, [16], config={"ps": 0.2}, cbs=Slow(), checkpoint_every_s=None, checkpoint_every_steps=3)
learn.fit_one_cycle(3, 0.02)
pairs = pd.DataFrame({"user": [i % 9 for i in range(150)], "item": [i * i % 31 for i in range(150)]})
choices = CollabDataLoaders.from_df(pairs, negatives=3, valid_negatives=10, bs=16)
collab = collab_learner(choices, 4, cbs=Slow(), run_dir=None)
collab.fit_one_cycle(1, 0.02)
save_file({**learn.model.state_dict(), **collab.model.state_dict()}, sys.argv[1])
