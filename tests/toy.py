"""A problem small enough to train on in milliseconds, in float64, and a callback that writes down every event."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dist_ai.callbacks import EVENTS, Callback, Phase
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import SGD

NUM_TRAIN, NUM_VALID, NUM_CLASSES = 17, 11, 3
BS = 8  # batches of 8, 8 and 1: in the last one, two of three ranks only run along
NUM_STEPS = 3


def make_data(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns inputs (28, 4) and their classes; the first 17 are for training."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_TRAIN + NUM_VALID, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, x[:, :NUM_CLASSES].argmax(1)


def make_dls(*, bs: int = BS, val_bs: int = 5, shuffle: bool = True, dtype: torch.dtype = torch.float64) -> DataLoaders:
    """Returns loaders of the data; three batches each, of which the last has one sample."""
    x, y = make_data(dtype)
    return DataLoaders(
        DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), bs, shuffle=shuffle, seed=1, split_idx=0),
        DataLoader(TensorData(x[NUM_TRAIN:], y[NUM_TRAIN:]), val_bs),
    )


def make_model(dtype: torch.dtype = torch.float64, *, batch_norm: bool = False) -> nn.Sequential:
    """Returns a small network, always the same."""
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(6)] if batch_norm else []
    return nn.Sequential(nn.Linear(4, 6), *norm, nn.Tanh(), nn.Linear(6, NUM_CLASSES)).to(dtype)


def make_learner(**options: Any) -> Learner:
    """Returns a Learner of the problem that writes and shows nothing, unless `options` say so."""
    defaults: dict[str, Any] = {"opt_func": SGD, "lr": 0.1, "run_dir": None, "progress": False}
    dls, model = options.pop("dls", None), options.pop("model", None)
    learn = Learner(
        make_dls() if dls is None else dls,
        make_model() if model is None else model,
        options.pop("loss_func", CrossEntropyLoss()),
        **{**defaults, **options},
    )
    _made.append(learn)
    return learn


_made: list[Learner] = []


def give_back_run_directories() -> None:
    """Closes the runs of the learners made so far: each holds its directory's lock for as long as its process lives."""
    while _made:
        _made.pop().close()


def weights_of(model: nn.Module) -> torch.Tensor:
    """Returns all parameters and buffers as one float64 vector, a copy."""
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


class Spy(Callback):
    """Writes down the name of every event, before any other callback has its turn."""

    phase = Phase.PREPARE
    may_cancel = False

    def __init__(self) -> None:
        self.log: list[str] = []
        for event in EVENTS:
            setattr(self, event, lambda event=event: self.log.append(event))


class Stop(Exception):
    """The end of a process, for a test that cannot afford one."""


class StopAt(Callback):
    """Ends the program before a training batch, counted over all fits."""

    may_cancel = False

    def __init__(self, batch: int) -> None:
        self.left = batch

    def before_batch(self) -> None:
        if self.state.training:
            if self.left == 0:
                raise Stop
            self.left -= 1
